"""The pages of documentation: links resolve, blocks, commands and the examples of help run."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import requests

import sse_fast
from sse_fast._bench.javascript import JAVASCRIPT
from sse_fast._bench.rivals import RIVALS
from sse_fast._cli.bench import DOMINATES
from sse_fast.compat import LIBRARIES
from tests.support import ROOT
from tests.support.commands import run_command
from tests.support.pages import ORIGIN, PAGES, anchors, blocks, links, name_of, read, shell_lines
from tests.support.scripted_server import Play, Request, serve_stage, stream
from tests.support.server import Answer, Server, serve

NAMES = [name_of(page) for page in PAGES]
MIGRATING = "docs/guides/migrating.md"  # Its blocks are run by test_migrating.py.
PROVIDERS = "docs/guides/providers.md"  # Its blocks are run by tests/providers.
RELAYING = "docs/guides/relaying.md"  # Its blocks are run by tests/relay.
MONITORING = "docs/guides/monitoring.md"  # Its blocks are run by test_monitoring.py.
CYTHON = "docs/guides/cython.md"  # Its blocks are compiled and run by tests/core/test_native.py.
COMMANDS = "docs/guides/command-line.md"

STREAM = b"event: tick\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"
COMPLETION = (
    b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'
    b'data: {"choices": [{"delta": {"content": "lo"}}]}\n\ndata: [DONE]\n\n'
)
DOCUMENT = Answer(
    [b'{"error": {"message": "out of luck"}}'], headers={"Content-Type": "application/json"}
)


# -- Links -----------------------------------------------------------------------------------------


def test_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} <= set(NAMES)
    assert len([name for name in NAMES if name.startswith("docs/")]) == 24


@pytest.mark.parametrize("name", NAMES)
def test_page_links_resolve(name: str) -> None:
    for link in links(name):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent.joinpath(target).resolve() if target else ROOT / name
        assert path.is_file(), link
        if anchor:
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), link


def test_every_page_is_linked_from_the_index() -> None:
    """Some by the index of the benchmarks."""
    linked = set()
    for index in ("docs/index.md", "docs/benchmarks/index.md"):
        linked |= {(ROOT / index).parent.joinpath(link.partition("#")[0]) for link in links(index)}
    pages = {path.resolve().relative_to(ROOT).as_posix() for path in linked if path.suffix == ".md"}
    assert pages | {"docs/index.md"} == {name for name in NAMES if name.startswith("docs/")} | {
        "README.md"
    }


def test_users_pages_speak_of_no_measurement() -> None:
    for name in NAMES:
        if name.startswith("docs/") and not name.startswith("docs/benchmarks/"):
            assert not re.search(r"\b(noise|EPYC|shared (core|machine)s?|our CI)\b", read(name)), (
                name
            )


# -- Blocks of Python ------------------------------------------------------------------------------


@dataclass
class Case:
    """A run of a block: the server and files it finds, and its output as a regular expression."""

    printed: str
    answers: dict[str, Answer] = field(default_factory=dict)
    plays: Sequence[Play] | Callable[[int, Request], Play] | None = None
    files: dict[str, str] = field(default_factory=dict)
    raises: str = ""
    asked: Callable[[list[Request]], object] | None = None
    teardown: Callable[[], Any] | None = None


def events(*parts: bytes, **options: Any) -> dict[str, Answer]:
    return {"/events": Answer(list(parts) or [STREAM], **options)}


def rotate_token(number: int, request: Request) -> Play:
    """The server closes too early, is too busy, and then has no events but an error of its own."""
    Path("token.txt").write_text("yz"[number : number + 1])
    return [
        Play(body=[b"retry: 0\nid: 1\ndata: a\n\n"]),
        Play(status=429, fields=[("Retry-After", "0")]),
        Play(body=[b"data: b\n\n", b"event: error\ndata: out of luck\n\n"], end="hang"),
    ][number]


def saw_tokens_and_ids(requests: list[Request]) -> None:
    assert [request.method for request in requests] == ["POST"] * 3
    tokens = [request.get("Authorization") for request in requests]
    assert tokens == [b"Bearer x", b"Bearer y", b"Bearer z"]
    assert [request.get("Last-Event-ID") for request in requests] == [None, b"1", b"1"]
    assert {request.body for request in requests} == {b'{"input": "any"}'}


def was_resumed_by_get(requests: list[Request]) -> None:
    assert [request.method for request in requests] == ["POST", "GET"]
    assert requests[1].get("Last-Event-ID") == b"1"


def forgot_the_id(requests: list[Request]) -> None:
    assert [request.get("Last-Event-ID") for request in requests[:3]] == [None, b"1", None]


def was_asked_once(requests: list[Request]) -> None:
    assert len(requests) == 1


# Page -> for each block, the cases in which it is run.
CASES: dict[str, list[list[Case]]] = {
    "docs/guides/responses.md": [
        [Case("tick 1\nmessage 2\n", events())],
        [
            Case(
                r"200 text/event-stream\n\{'choices'.*'Hel'.*\n\{'choices'.*'lo'.*\n",
                {"/v1/chat/completions": Answer([COMPLETION])},
            )
        ],
        [Case(r"message \{'n': 1\}\nlog plain text\nmessage \{'n': 2\}\nEndReason.UNTIL\n")],
        [
            Case("1\n2\n", events()),
            Case(r"\S.* 429.* no None\n", events(b"no", status=429)),
            Case(r"1\n2\n104\d{4} 1048576\n", events(STREAM, b"x: 1\ndata: " + b"3" * 2**20)),
            Case(r"1\n2\nProtocolError.*\n", events(STREAM, framing="cut")),
        ],
        [
            Case("out of luck\n", {"/v1/chat/completions": DOCUMENT}),
            Case("401 no\n", {"/v1/chat/completions": Answer([b"no"], status=401)}),
        ],
        [Case(r"\{'n': 1\}\nskipped ping\n\{'n': 2\}\n")],
        [Case("1\n2\n", events())],
        [Case("1\n2\n", events())],
        [Case(r"b': keep-alive\\n\\n'\nkeep-alive\nb'data: 1\\n\\n'\n\['1'\]\n")],
        [Case("")],
    ],
    "docs/guides/reconnecting.md": [
        [
            Case(
                "1 8\n2 8\nEndReason.NO_CONTENT\n",
                events(b"retry: 0\nid: 8\ndata: 1\n\ndata: 2\n\n", once=True),
            )
        ],
        [Case("1\n", plays=[stream(b"retry: 0\ndata: 1\n\n")])],
        [
            Case(
                "a\nb\n",
                plays=rotate_token,
                files={"token.txt": "x"},
                raises="FatalError: out of luck",
                asked=saw_tokens_and_ids,
            ),
            Case(
                "",
                plays=[Play(status=403, fields=[], body=[b"no"], framing="length")],
                files={"token.txt": "x"},
                raises="FatalError: no$",
                asked=was_asked_once,
            ),
        ],
        [
            Case(
                r'\{"method": "progress"\}\n\{"id": 1\}\n',
                plays=[
                    Play(
                        body=[b'retry: 0\nid: 1\ndata: {"method": "progress"}\n\n'],
                        framing="chunked-truncated",
                    ),
                    stream(b'data: {"id": 1}\n\n'),
                ],
                asked=was_resumed_by_get,
            )
        ],
        [
            Case(
                "a\nb\n",
                plays=[
                    stream(b"retry: 0\nid: 1\ndata: a\n\n"),
                    Play(status=410, fields=[], framing="length"),
                    stream(b"id: 2\ndata: b\n\n"),
                ],
                asked=forgot_the_id,
            )
        ],
        [
            Case(
                "1\n",
                plays=[
                    Play(status=503, fields=[("Retry-After", "0")]),
                    stream(b"retry: 0\ndata: 1\n\n"),
                ],
            )
        ],
        [Case("1\n2\n", events(once=True))],
        [Case("1\n2\n", events(once=True))],
    ],
    "docs/guides/columns.md": [
        [
            Case(
                r"2 7\n\[\{'event': 'tick', 'data': '1', 'id': '7', 'retry': None\}, "
                r"\{'event': 'message', 'data': '2\\n3', 'id': '7', 'retry': None\}\]\n"
            )
        ],
        [Case("400 4\n400 4\n200 4\n")],
        [Case("2 1\n9 1\n")],
    ],
    "docs/guides/other-parsers.md": [
        [Case("")],
        [Case("", teardown=sse_fast.compat.uninstall)],
        [Case("")],
        [Case("")],
    ],
}
NATIVE_ONLY = {"docs/guides/columns.md"}


def test_every_python_block_has_a_case() -> None:
    found = {name: len(blocks(name, "python")) for name in NAMES}
    run_elsewhere = {"README.md", MIGRATING, PROVIDERS, RELAYING, MONITORING, CYTHON}
    expected = {name: count for name, count in found.items() if count and name not in run_elsewhere}
    assert expected == {name: len(cases) for name, cases in CASES.items()}


def test_blocks_are_of_known_languages() -> None:
    """`python`, `sh` and `cython` blocks are run; others are text, or change the machine."""
    languages = {block.language for name in NAMES for block in blocks(name)}
    assert languages == {"python", "sh", "text", "console", "cython"}


@pytest.mark.parametrize(
    ("name", "index", "case"),
    [
        pytest.param(name, index, case, id=f"{Path(name).stem}-{index + 1}-{number + 1}")
        for name, all_cases in CASES.items()
        for index, cases in enumerate(all_cases)
        for number, case in enumerate(cases)
    ],
)
def test_block_prints_what_is_expected(
    name: str,
    index: int,
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NATIVE_ONLY and not sse_fast.ACCELERATED:
        pytest.skip("columns are native only")
    monkeypatch.chdir(tmp_path)
    for file, text in case.files.items():
        Path(file).write_text(text)
    block = blocks(name, "python")[index]
    with serve() as server, serve_stage(case.plays or ()) as stage:
        server.answers.update(case.answers)
        origin = server.url if case.plays is None else stage.origin
        try:
            if case.raises:
                with pytest.raises(Exception) as caught:
                    block.run(origin)
                assert re.search(case.raises, f"{type(caught.value).__name__}: {caught.value}")
            else:
                block.run(origin)
        finally:
            if case.teardown is not None:
                case.teardown()
        if case.asked is not None:
            case.asked(stage.requests)
    assert re.fullmatch(case.printed, capsys.readouterr().out)


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="columns are native only")
def test_columns_are_taken_as_the_table_says() -> None:
    import duckdb
    import pandas
    import polars
    import pyarrow

    table = re.findall(
        r"^\| `(.+columns.*)` \| (\w+)", read("docs/guides/columns.md"), re.MULTILINE
    )
    assert [library for _, library in table] == ["pyarrow", "Polars", "DuckDB", "pandas"]
    columns = sse_fast.read_columns(STREAM)
    names = {"columns": columns, "pyarrow": pyarrow, "polars": polars, "pandas": pandas}
    names["duckdb"] = duckdb
    results = []
    for code, _ in table:
        exec(f"result = {code}", names)
        results.append(names["result"])
    assert results[0].to_pylist() == results[1].to_dicts()
    assert sorted(results[2].fetchall()) == [("message", 1), ("tick", 1)]
    assert [len(results[0]), len(results[3])] == [2, 2]
    # The stream of batches too, as the text says.
    with sse_fast.iter_columns(STREAM) as batches:
        assert len(pyarrow.RecordBatchReader.from_stream(batches).read_all()) == 2


# -- Commands --------------------------------------------------------------------------------------

LINES = [line for name in NAMES if name != "README.md" for line in shell_lines(name)]
CAPTURING = [line for line in LINES if line.startswith(("sse-fast record ", "sse-fast replay "))]


@pytest.fixture
def example(server: Server) -> Server:
    server.answers["/events"] = Answer([STREAM[:9], STREAM[9:]])
    server.answers["/v1/chat/completions"] = Answer([COMPLETION])
    return server


def executable(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def run(line: str, folder: Path, *more: str) -> subprocess.CompletedProcess[bytes]:
    command, *arguments = shlex.split(line)
    return subprocess.run(
        [executable(command), *arguments, *more], cwd=folder, capture_output=True, check=True
    )


def test_every_shell_line_is_run() -> None:
    assert {line.split()[0] for line in LINES} == {"sse-fast", ".venv/bin/pytest"}
    assert len([line for line in LINES if line.startswith("sse-fast ")]) == 11
    # `pytest bench` runs below, and these files with it.
    for line in LINES:
        for file in re.findall(r"\bbench/\S+", line):
            assert (ROOT / file).is_file()


@pytest.mark.parametrize(
    "line",
    [line for line in dict.fromkeys(LINES) if line.startswith("sse-fast cat ")],
)
def test_cat_command_prints_events(example: Server, line: str, tmp_path: Path) -> None:
    (tmp_path / "capture.sse").write_bytes(STREAM)
    example.answers["/events"].once = True
    done = run(line.replace(ORIGIN, example.url), tmp_path)
    if "completions" in line:
        assert done.stdout.count(b'"data"') == 2
        (request,) = example.requests
        assert (request.method, request.body) == ("POST", b'{"stream": true}')
        assert request.headers["content-type"] == "application/json"
    else:
        # The id to go on from is in force until there is another.
        lines = done.stdout.replace(b"id: 41\n", b"")
        assert lines == b"event: tick\ndata: 1\n\ndata: 2\n\n"
        assert (b"id: 41\n" in done.stdout) == ("41" in line)


# The tests of the command run it within their own process.
@pytest.mark.matrix
def test_demo_command_reads_a_stream(tmp_path: Path) -> None:
    assert "sse-fast demo" in LINES
    done = run("sse-fast demo", tmp_path)
    assert b"over a bare socket" in done.stdout


def test_every_command_is_in_the_guide_and_the_index() -> None:
    done = run("sse-fast --help", ROOT)
    commands = set(re.findall(r"^    (\w+) ", done.stdout.decode(), re.MULTILINE))
    assert {"demo", "cat", "bench"} <= commands
    for name in commands:
        assert f"`{name}`" in read(COMMANDS)
        assert re.search(rf"`(sse-fast )?{name}`", read("docs/index.md"))


def test_record_and_replay_commands_keep_the_bytes(example: Server, tmp_path: Path) -> None:
    record, replay = [line.replace(ORIGIN, example.url) for line in CAPTURING]
    done = run(record, tmp_path)
    assert b"2 events" in done.stderr
    assert (tmp_path / "capture.sse").read_bytes() == STREAM
    index = (tmp_path / "capture.sse.timing").read_text()
    assert len(re.findall(r"^\d+\.\d+\t\d+$", index, re.MULTILINE)) >= 2
    command, *arguments = shlex.split(replay)
    with subprocess.Popen(
        [executable(command), *arguments], cwd=tmp_path, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            assert requests.get(url, timeout=20).content == STREAM
        finally:
            process.terminate()


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="columns are native only")
def test_convert_command_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [line for line in LINES if line.startswith("sse-fast convert ")]
    monkeypatch.chdir(tmp_path)
    Path("capture.sse").write_bytes(STREAM)
    assert run_command(*shlex.split(line)[1:]).returncode == 0
    assert pyarrow.parquet.read_table(line.split()[-1]).num_rows == 2


@pytest.mark.bench
def test_doctor_command_names_every_library(tmp_path: Path) -> None:
    assert "sse-fast doctor" in LINES
    done = run("sse-fast doctor", tmp_path)
    assert [row.split()[0] for row in done.stdout.decode().splitlines()[2:]] == list(LIBRARIES)


@pytest.mark.bench
def test_bench_command_prints_and_draws(tmp_path: Path) -> None:
    (line,) = {line for line in LINES if line.startswith("sse-fast bench")}
    # As written, it takes a minute.
    done = run(line, tmp_path, "--seconds", "0.0001", "--streams", "c")
    assert b"Nanoseconds per event" in done.stdout
    assert b"Nanoseconds per event" in (tmp_path / "bench.svg").read_bytes()


@pytest.mark.bench
def test_benchmarks_run_without_measuring() -> None:
    """Once each: what they check has to hold."""
    assert ".venv/bin/pytest bench" in LINES
    done = subprocess.run(
        # Not `python -m pytest`, which would import the sources instead of the installed package.
        [Path(sys.executable).with_name("pytest"), "bench", "--benchmark-disable"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"\b(\d+) passed", done.stdout)
    assert int(passed) > 700
    # A parser that gives other events than were sent would be named.
    assert "no number" not in done.stdout


# -- The benchmarks --------------------------------------------------------------------------------


def test_parser_table_is_drawn_in_the_picture() -> None:
    """They are of one run, over every parser there is."""
    page = "docs/benchmarks/parser.md"
    (text,) = [block.code for block in blocks(page, "text")]
    tables = [
        {row[0]: row[1:] for row in (re.split("  +", line) for line in table.splitlines()[4:])}
        for table in text.split("\n\n")[:2]
    ]
    parsers = [*RIVALS, *JAVASCRIPT]
    for table in tables:
        assert [label.rpartition(" ")[0] for label in table][: len(parsers)] == parsers
    picture = read("docs/bench.svg")
    drawn = re.findall(r"<text[^>]*>([\d,]+)(?:  \(([\d,.]+) times\))?</text>", picture)
    for column in range(5):
        # The last two rows are not drawn.
        for label in list(tables[0])[:-2]:
            ratios = tables[1].get(label)
            ratio = "" if ratios is None or label.startswith("sse_fast ") else ratios[column]
            assert (tables[0][label][column], ratio) in drawn
    # The versions are those that the extra installs, and that npm is told to install.
    pinned = [rival.requirement for rival in RIVALS.values() if rival.requirement]
    for requirement in pinned:
        assert requirement.partition(";")[0].replace("==", " ") in tables[0]
    for name in (page, COMMANDS):
        assert f"`npm install {' '.join(JAVASCRIPT.values())}`" in read(name)
    for name, requirement in JAVASCRIPT.items():
        assert f"{name} {requirement.rpartition('@')[2]}" in tables[0]
    assert re.search(
        r"^\d{4}-\d\d-\d\d, by sse-fast bench --plot docs/bench.svg$", text, re.MULTILINE
    )
    assert DOMINATES in text


# -- help(sse_fast) --------------------------------------------------------------------------------

DOC = inspect.cleandoc(sse_fast.__doc__ or "")


def test_help_opens_with_calls_and_errors() -> None:
    calls, _, rest = DOC.partition("\nErrors")
    for name in ("iter_events", "open_stream", "EventSource", "read_columns", "until="):
        assert name in calls
    # Programs catch all but the two that callbacks raise.
    errors = {
        name
        for name in sse_fast.__all__
        if isinstance(getattr(sse_fast, name), type)
        and issubclass(getattr(sse_fast, name), sse_fast.SSEError)
    }
    assert errors - {"RetriableError", "FatalError"} <= set(re.findall(r"\w+", rest))
    assert set(re.findall(r"sse_fast\.(\w+)", DOC)) <= set(sse_fast.__all__)
    assert set(re.findall(r"Async: (\w+)", DOC)) <= set(sse_fast.__all__)


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="columns are native only")
def test_help_examples_run(
    example: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pyarrow

    monkeypatch.chdir(tmp_path)
    Path("capture.sse").write_bytes(STREAM)
    example.answers["/numbers"] = Answer([b"data: 3\n\n"])
    lines = [line.strip() for line in DOC.splitlines() if line.startswith("    ")]
    code = [line for line in lines if line.startswith(("for ", "stream = ", "table = "))]
    assert len(code) == 5
    names = {"sse_fast": sse_fast, "pyarrow": pyarrow, "url": f"{example.url}/numbers"}
    for line in code:
        example.answers["/events"] = Answer([b"retry: 0\n" + STREAM], once="EventSource" in line)
        if "(response" in line:
            names["response"] = requests.get(f"{example.url}/events", stream=True)
        if "EventSource" in line:
            names["url"] = f"{example.url}/events"
        exec(line, names)
    names["stream"].close()
    assert capsys.readouterr().out == "tick 1\nmessage 2\n3\n 1\n 2\n"
    assert len(names["table"]) == 2
