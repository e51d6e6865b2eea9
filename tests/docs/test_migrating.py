"""docs/guides/migrating.md is complete, and each program of it runs before and after migrating."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import migrating
from tests.support.migrating import (
    ALL,
    BULLETS,
    CLIENTS,
    LD,
    NO,
    PAGE,
    PARSERS,
    PROGRAMS,
    ROWS,
    SECTIONS,
    TICK,
    essence,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import Play, Stage, serve_stage, stream


def test_page_is_parsed_completely() -> None:
    assert list(SECTIONS) == [ALL, *CLIENTS, *PARSERS]
    assert [len(programs) for programs in PROGRAMS.values()] == [0, 2, 2, 2, 2, 2]
    assert PAGE.count("```") == 2 * 10
    assert [len(rows) for rows in ROWS.values()] == [0, 45, 41, 56, 0, 0]
    # Each of the three tables has two header lines.
    assert len(re.findall(r"^\|", PAGE, re.MULTILINE)) == 45 + 41 + 56 + 3 * 2
    assert len(re.findall(r"^- ", PAGE, re.MULTILINE)) == sum(map(len, BULLETS.values()))


def find_tested_bullets() -> dict[str, set[str]]:
    """Return the bullets that have a test, by section.

    The other test file is parsed, not imported, so that its fixtures and tests stay its own.
    """
    tested: dict[str, set[str]] = {name: set() for name in SECTIONS}
    file = Path(__file__).with_name("test_migrating_differences.py")
    for test in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        decorators = map(ast.unparse, test.decorator_list)
        marks = [code.removeprefix("shows") for code in decorators if code.startswith("shows(")]
        assert len(marks) == 1, test.name
        bullet, *sections = eval(marks[0], vars(migrating))
        for section in sections:
            tested[section].add(bullet)
    return tested


def test_page_every_bullet_has_a_test() -> None:
    tested = find_tested_bullets()
    for section, bullets in BULLETS.items():
        assert tested[section] == set(bullets)
        assert len(bullets) == len(set(bullets))


# -- The programs ----------------------------------------------------------------------------------


def run_program(code: str, stage: Stage) -> None:
    exec(compile(code.replace("https://example.com", stage.origin), "migrating.md", "exec"), {})


TICKS = [
    Play(body=[b": hello\nid: 8\nevent: tick\ndata: 1\n\n"], framing="chunked-truncated"),
    stream(b"id: 9\ndata: two\ndata: lines\n\n", b"event: bye\ndata: 3\n\n"),
]
TEXTS = [
    stream(
        b'data: {"choices": [{"text": "a"}]}\n\n',
        b'data: {"choices": [{"text": "b"}]}\n\n',
        b"data: [DONE]\n\n",
    ),
    Play(body=[b'data: {"choices": [{"text": "a"}]}\n\n'], framing="chunked-truncated"),
]
OPEN = "open text/event-stream"
END = ["lost", OPEN, "message two", "lines 9", "bye 3 9"]


@pytest.mark.parametrize(
    ("section", "plays", "printed"),
    [
        (
            "requests-sse",
            [TICKS[0], TICKS[0], NO],
            ["open", "tick 1 8", "lost", "open", "tick 1 8", "lost", "lost", "refused: 404"],
        ),
        ("aiohttp-sse-client", TEXTS[:1], ["a", "b"]),
        ("aiohttp-sse-client", TEXTS[1:], ["a", "cut off"]),
        (LD, [NO, *TICKS], ["lost", OPEN, "comment hello", "tick 1 8", *END]),
        (LD, [stream(b"data: 1\n\n"), TICKS[1]], [OPEN, "message 1 7", *END]),
    ],
    ids=["requests-sse", "aiohttp-sse-client", "cut off", "launchdarkly-eventsource", "clean end"],
)
def test_program_before_and_after(
    section: str, plays: list[Play], printed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both programs print the same and send the same requests."""
    asked = []
    for program in PROGRAMS[section]:
        with serve_stage(plays) as stage:
            run_program(program, stage)
        assert capsys.readouterr().out.splitlines() == printed
        asked.append([essence(request) for request in stage.requests])
    assert asked[0] == asked[1]
    assert len(asked[0]) == len(plays)


@pytest.mark.parametrize("section", PARSERS)
def test_parser_program_before_and_after(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the import differs."""
    theirs, ours = PROGRAMS[section]
    (line,) = set(ours.splitlines()) - set(theirs.splitlines())
    assert ours == theirs.replace(f"import {line.split()[-1]}\n", f"{line}\n")
    printed = []
    for program in (theirs, ours):
        with serve_stage([stream(TICK)]) as stage:
            run_program(program, stage)
        printed.append(capsys.readouterr().out.splitlines())
    assert printed[0] == printed[1]
    assert [line[:8] for line in printed[0]] == ["tick 1 1", "message "]
