"""The pages of documentation: their blocks of code, links and anchors, and how a block is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ORIGIN = "https://example.com"
PUBLIC_ORIGIN = "https://stream.wikimedia.org"
"""The servers of the examples; the tests replace them with their own, and never use the network."""


class Block(NamedTuple):
    """A fenced block of code."""

    page: str
    line: int  # of its first line of code, from 1
    language: str
    code: str

    def run(self, origin: str, **names: Any) -> dict[str, Any]:
        """Execute it in a namespace of its own; tracebacks show the line of the page."""
        code = "\n" * (self.line - 1) + self.code
        for example in (ORIGIN, PUBLIC_ORIGIN):
            code = code.replace(example, origin)
        names["__name__"] = "__main__"
        exec(compile(code, self.page, "exec"), names)
        return names


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page, in order; only those in the languages, if any are given."""
    text = read(page)
    return [
        Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if not languages or match[1] in languages
    ]


def shell_lines(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.code.splitlines()]


def prose(page: str) -> str:
    """The text of a page without its blocks and spans of code, where brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found
