"""The programs of docs/guides/providers.md, with the parts that its tables replace."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from tests.support.pages import Block, blocks, read
from tests.support.scripted_server import Play, Request, serve_stage

PAGE = "docs/guides/providers.md"
CUT_OFF = "\nThe answer was cut off.\n"
"""Printed after the text of an answer whose end did not come."""


def _blocks_below(heading: str, page: str) -> list[Block]:
    first = read(page).split("\n").index(f"## {heading}") + 1
    following = [
        number
        for number, line in enumerate(read(page).split("\n"), 1)
        if line.startswith("## ") and number > first
    ]
    last = min(following, default=10**6)
    return [block for block in blocks(page, "python") if first < block.line < last]


@dataclass
class Recipe:
    """A program of the page, and the path that it asks for."""

    block: Block
    path: str = "/stream"

    def replacing(self, *parts: tuple[str, str]) -> Recipe:
        """Return the program with parts replaced, each of which occurs in it."""
        code = self.block.code
        for old, new in parts:
            assert old in code, old
            code = code.replace(old, new)
        return Recipe(self.block._replace(code=code), self.path)

    def run(self, *plays: Play) -> Outcome:
        """Run it against a server that plays these answers."""
        printed = io.StringIO()
        error: Exception | None = None
        with serve_stage(plays) as stage, redirect_stdout(printed):
            try:
                self.block.run(stage.origin)
            except Exception as raised:
                error = raised
        assert not any(stage.errors), stage.errors
        return Outcome(printed.getvalue(), error, stage.requests)


@dataclass
class Outcome:
    """The output and the exception of a program, and the requests that it sent."""

    printed: str
    error: Exception | None
    requests: list[Request]


def recipe(heading: str, number: int = 0, *, page: str = PAGE) -> Recipe:
    """Return a program below a heading of the second level."""
    block = _blocks_below(heading, page)[number]
    (path,) = set(re.findall(r'"https://example.com(/[^"]*)"', block.code))
    return Recipe(block, path)


def rows(heading: str) -> dict[str, list[str]]:
    """Return the first table below a heading whose first column is a provider: name -> cells."""
    _, _, text = read(PAGE).partition(f"\n## {heading}\n")
    text = text.partition("\n## ")[0]
    (table,) = re.findall(
        r"^\| (?:Provider|Feed) \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE
    )
    found = {}
    for line in table.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
        found[name] = [cell.strip("`") for cell in cells]
    return found


def head_of(heading: str) -> list[str]:
    """Return the cells of the row that the program below the heading uses, the first one."""
    return next(iter(rows(heading).values()))


def replaced(heading: str, provider: str) -> Recipe:
    """Return the program below a heading with the parts of a provider's row."""
    old, new = head_of(heading), rows(heading)[provider]
    return recipe(heading).replacing(*zip(old, new, strict=True))


def loaded(heading: str, number: int, name: str) -> Any:
    """Return a name that a block without a request defines."""
    names = _blocks_below(heading, PAGE)[number].run("")
    return names[name]


def chunks(stream: bytes, pieces: int = 4) -> list[bytes]:
    """Cut a stream into pieces, of which some end within a line."""
    size = max(1, len(stream) // pieces + 1)
    return [stream[at : at + size] for at in range(0, len(stream), size)]
