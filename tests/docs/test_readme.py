"""Every line of code in the README runs, against a server that stands in for example.com."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
import shlex
import socket
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import anyio
import anyio.abc
import duckdb
import httpx
import openai
import pandas
import polars
import pyarrow.parquet
import pytest
import requests
import urllib3

import sse_fast
from sse_fast._bench.javascript import JAVASCRIPT
from sse_fast._bench.rivals import RIVALS
from sse_fast._cli.bench import DOMINATES
from sse_fast.adapters import _registry
from sse_fast.compat import LIBRARIES
from tests.support import ROOT
from tests.support.scripted_server import Play, serve_stage
from tests.support.server import Answer, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]
ROWS = re.findall(r"^\| (.+) \| `((?:for|async for|sse_fast).+)` \|$", README, re.MULTILINE)
TIMEOUTS = re.findall(r"`(timeout=.+?)`", README)

STREAM = b"event: tick\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"
COMPLETION = (
    b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n'
    b'data: {"choices": [{"delta": {"content": "lo"}}]}\n\ndata: [DONE]\n\n'
)


@pytest.fixture
def example(server: Server) -> Server:
    server.answers["/events"] = Answer([STREAM[:9], STREAM[9:]])
    server.answers["/v1/chat/completions"] = Answer([COMPLETION])
    return server


def test_the_readme_was_read() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh", "text"}
    assert (len(PYTHON), len(SHELL), len(ROWS)) == (10, 12, 19)


def run_block(index: int, server: Any, **names: Any) -> dict[str, Any]:
    origin = re.match(r"http://[^/]+", server.url)
    assert origin is not None
    code = PYTHON[index].replace("https://example.com", origin[0])
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_first_example(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PYTHON[0].split("\n\n")[0].splitlines()) + 3 <= 6
    run_block(0, example)
    assert capsys.readouterr().out == "tick 1\nmessage 2\n"


def test_the_modules_to_import_instead(example: Server) -> None:
    names = run_block(1, example)
    with requests.get(example.url + "/events", stream=True) as response:
        client = names["sseclient"].SSEClient(response)
        assert [event.data for event in client.events()] == ["1", "2"]
    with (
        httpx.Client() as client,
        names["httpx_sse"].connect_sse(client, "GET", example.url + "/events") as source,
    ):
        assert [event.event for event in source.iter_sse()] == ["tick", "message"]


def test_the_sdks_ask_for_it_once(example: Server) -> None:
    client = openai.OpenAI(api_key="any", max_retries=0)
    before = client._make_sse_decoder()
    try:
        run_block(2, example)
        for sdk in (client, anthropic.Anthropic(api_key="any")):
            assert type(sdk._make_sse_decoder()).__module__.startswith("sse_fast.compat.")
            sdk.close()
    finally:
        sse_fast.uninstall()
    assert type(client._make_sse_decoder()) is type(before)


def test_the_stream_of_json(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run_block(3, example)
    assert capsys.readouterr().out == "Hello"
    # Without its end, the stream is told to be cut off.
    example.answers["/v1/chat/completions"].chunks = [COMPLETION[:-20]]
    run_block(3, example)
    assert "cut off" in capsys.readouterr().out


def test_the_connection_that_heals_itself(
    example: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    example.answers["/events"] = Answer([b"retry: 0\n\nid: 8\ndata: 1\n\ndata: 2\n\n"], once=True)
    names = run_block(4, example, saved="7")
    assert capsys.readouterr().out == "1\n2\nEndReason.NO_CONTENT\n"
    ids = [request.headers["last-event-id"] for request in example.requests]
    assert (ids, names["saved"]) == (["7", "8"], "8")


def test_the_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    """The server closes too early, is too busy, and then has no events but an error of its own."""
    plays = [
        Play(body=[b"retry: 0\nid: 1\ndata: a\n\n"]),
        Play(status=429, fields=[("Retry-After", "0")]),
        Play(body=[b"data: b\n\n", b"event: error\ndata: out of luck\n\n"], end="hang"),
    ]
    tokens = iter("xyz")
    with serve_stage() as stage:
        stage.plays = plays
        with pytest.raises(sse_fast.FatalError, match="out of luck"):
            run_block(5, stage, fresh_token=lambda: next(tokens))
    assert capsys.readouterr().out == "a\nb\n"
    heads = [(request.method, dict(request.fields)) for request in stage.requests]
    assert [head[0] for head in heads] == ["POST"] * 3
    assert [head[1][b"Authorization"] for head in heads] == [b"Bearer x", b"Bearer y", b"Bearer z"]
    assert [head[1].get(b"Last-Event-ID") for head in heads] == [None, b"1", b"1"]
    assert {request.body for request in stage.requests} == {b'{"input": "any"}'}


def test_the_callbacks_give_up_where_nothing_helps() -> None:
    with serve_stage() as stage:
        stage.plays = [Play(status=403, fields=[], body=[b"no"], framing="length")]
        with pytest.raises(sse_fast.FatalError, match=r"^no$"):
            run_block(5, stage, fresh_token=str)
    assert len(stage.requests) == 1


def test_the_fastest_way(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run_block(6, example)
    assert capsys.readouterr().out == "200 text/event-stream\nHello"
    request = example.requests[0]
    assert (request.method, request.headers["authorization"]) == ("POST", "Bearer ...")


def test_without_http(example: Server) -> None:
    run_block(7, example)


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="columns are native only")
def test_whole_captures(
    example: Server,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("capture.sse").write_bytes(STREAM)
    Path("capture.sse.gz").write_bytes(gzip.compress(STREAM))
    names = run_block(8, example)
    assert re.fullmatch(r"2 1\n2 \d+\n", capsys.readouterr().out)
    # And by the others, as the table has it.
    table, columns = names["table"].to_pylist(), sse_fast.read_columns("capture.sse")
    consumers = re.findall(r"^\| `(.+\(.*columns.*\))`.* \| (\w+)", README, re.MULTILINE)
    assert [library for _, library in consumers] == ["pyarrow", "Polars", "DuckDB", "pandas"]
    assert polars.DataFrame(columns).to_dicts() == table
    assert len(pandas.DataFrame.from_arrow(columns)) == 2
    counts = duckdb.sql("SELECT event, count(*) FROM columns GROUP BY event").fetchall()
    assert sorted(counts) == [("message", 1), ("tick", 1)]


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        (Answer([STREAM]), "1\n2\n"),
        (Answer([b"no"], status=429), r"Expected status 200, got 429: .* b'no' None\n"),
        (Answer([STREAM, b"x: 1\ndata: " + b"3" * 2**20]), r"1\n2\n104\d{4} 1048576\n"),
        (Answer([STREAM], "cut"), r"1\n2\nProtocolError.*\n"),
    ],
    ids=["fine", "refused", "too large", "cut off"],
)
def test_what_can_go_wrong(
    example: Server, capsys: pytest.CaptureFixture[str], answer: Answer, printed: str
) -> None:
    example.answers["/events"] = answer
    run_block(9, example, response=requests.get(f"{example.url}/events", stream=True))
    assert re.fullmatch(printed, capsys.readouterr().out)


async def over_anyio(names: dict[str, Any], use: Any) -> None:
    """`use` it with a stream of anyio that gives the events."""
    near, far = socket.socketpair()
    with far:
        far.sendall(STREAM)
        far.shutdown(socket.SHUT_WR)
        async with await anyio.abc.SocketStream.from_socket(near) as names["stream"]:
            await use()


@pytest.mark.parametrize(("holds", "line"), ROWS, ids=[holds for holds, _ in ROWS])
def test_a_row(example: Server, monkeypatch: pytest.MonkeyPatch, holds: str, line: str) -> None:
    url = f"{example.url}/events"
    seen: list[Any] = []
    code = line.replace(": ...", ": seen.append(event)")
    names: dict[str, Any] = {
        "sse_fast": sse_fast,
        "requests": requests,
        "urllib": urllib,
        "urllib3": urllib3,
        "seen": seen,
        "url": url,
        "body": {},
        "file": io.BytesIO(STREAM),
        "chunks": [STREAM[:5], STREAM[5:]],
        "chunk": STREAM,
        "parser": sse_fast.Parser(),
        "client": requests.Session(),
    }
    if "EventSource" in line:
        example.answers["/events"].once = True
    monkeypatch.setattr("sse_fast.adapters._registry._ADAPTERS", dict(_registry._ADAPTERS))

    def execute() -> None:
        exec(code, names)

    async def execute_async() -> None:
        exec(f"async def main():\n{textwrap.indent(code, ' ')}", names)
        await names["main"]()

    if "async iterable" in holds:

        async def chunks() -> Any:
            yield STREAM

        names["chunks"] = chunks()
        asyncio.run(execute_async())
    elif "aiohttp" in holds:

        async def ask() -> None:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                names["response"] = response
                await execute_async()

        asyncio.run(ask())
    elif "anyio" in holds:
        for backend in ("asyncio", "trio"):
            seen.clear()
            anyio.run(over_anyio, names, execute_async, backend=backend)
    elif "URL, asyncio" in holds or "on asyncio" in holds:
        asyncio.run(execute_async())
    elif "StreamReader" in holds:

        async def read() -> None:
            names["reader"] = asyncio.StreamReader()
            names["reader"].feed_data(STREAM)
            names["reader"].feed_eof()
            await execute_async()

        asyncio.run(read())
    elif "async" in holds:

        async def main() -> None:
            async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
                names["response"] = response
                await execute_async()

        asyncio.run(main())
    elif "sync" in holds:
        with httpx.stream("GET", url) as response:
            names["response"] = response
            execute()
    elif "socket" in holds:
        names["sock"], far = socket.socketpair()
        with names["sock"], far:
            far.sendall(STREAM)
            far.shutdown(socket.SHUT_WR)
            execute()
    else:
        execute()
    if "of your own" in holds and "type" in holds:
        assert "package.module.Class" in _registry._ADAPTERS
    else:
        assert [event.data for event in seen] == ["1", "2"]


@pytest.mark.parametrize("arguments", TIMEOUTS)
def test_a_timeout(arguments: str) -> None:
    """None for the whole, five minutes for a read."""
    given = eval(f"dict({arguments})", {"httpx": httpx, "aiohttp": aiohttp, "urllib3": urllib3})
    timeout = given["timeout"]
    if isinstance(timeout, tuple):
        timeout = urllib3.Timeout(connect=timeout[0], read=timeout[1])
    assert 300 in (
        timeout,
        *(getattr(timeout, name, None) for name in ("read", "read_timeout", "sock_read")),
    )
    assert getattr(timeout, "total", None) is None
    assert len(TIMEOUTS) == 5


def test_the_first_two_commands_are_what_ci_runs() -> None:
    """`.ci/run` takes them from here and runs them as they are."""
    demo, tests = SHELL[:2]
    assert demo.endswith("sse-fast demo")
    assert tests.endswith("pytest -n 2 --dist loadfile")
    assert "README.md | head -n 2" in (ROOT / ".ci" / "run").read_text()


CAPTURING = [line for line in SHELL if line.startswith(("sse-fast record ", "sse-fast replay "))]


@pytest.mark.parametrize(
    "line", [line for line in SHELL if line.startswith("sse-fast ") and line not in CAPTURING]
)
def test_the_command_line(example: Server, line: str, tmp_path: Path) -> None:
    (tmp_path / "capture.sse").write_bytes(STREAM)
    example.answers["/events"].once = True
    command, *arguments = shlex.split(line.replace("https://example.com", example.url))
    if arguments[0] == "bench":
        # Else it takes a minute.
        arguments += ["--seconds", "0.0001", "--streams", "c"]
    done = subprocess.run(
        [Path(sys.executable).with_name(command), *arguments],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    if arguments == ["doctor"]:
        assert [row.split()[0] for row in done.stdout.decode().splitlines()[2:]] == list(LIBRARIES)
    elif arguments[0] == "convert":
        assert pyarrow.parquet.read_table(tmp_path / arguments[-1]).num_rows == 2
    elif arguments[0] == "bench":
        assert b"Nanoseconds an event" in done.stdout
        assert b"Nanoseconds an event" in (tmp_path / "bench.svg").read_bytes()
    elif "completions" in line:
        assert done.stdout.count(b'"data"') == 2
        assert (example.requests[0].method, example.requests[0].body) == (
            "POST",
            b'{"stream": true}',
        )
        assert example.requests[0].headers["content-type"] == "application/json"
    else:
        # The id to go on from is in force until there is another.
        lines = done.stdout.replace(b"id: 41\n", b"")
        assert lines == b"event: tick\ndata: 1\n\ndata: 2\n\n"
        assert (b"id: 41\n" in done.stdout) == ("41" in line)


def test_what_was_recorded_is_served_again(example: Server, tmp_path: Path) -> None:
    lines = [line.replace("https://example.com", example.url) for line in CAPTURING]
    record, replay = (
        [Path(sys.executable).with_name(command), *arguments]
        for command, *arguments in map(shlex.split, lines)
    )
    done = subprocess.run(record, cwd=tmp_path, capture_output=True, check=True)
    assert b"2 events" in done.stderr
    assert (tmp_path / "capture.sse").read_bytes() == STREAM
    index = (tmp_path / "capture.sse.timing").read_text()
    assert len(re.findall(r"^\d+\.\d+\t\d+$", index, re.MULTILINE)) >= 2
    with subprocess.Popen(replay, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            assert requests.get(url, timeout=20).content == STREAM
        finally:
            process.terminate()


def test_the_numbers() -> None:
    """Those of the table are in the picture: they are of one run, over every parser there is."""
    (text,) = [code for language, code in BLOCKS if language == "text"]
    tables = [
        {row[0]: row[1:] for row in (re.split("  +", line) for line in table.splitlines()[4:])}
        for table in text.split("\n\n")[:2]
    ]
    parsers = [*RIVALS, *JAVASCRIPT]
    for table in tables:
        assert [label.rpartition(" ")[0] for label in table][: len(parsers)] == parsers
    picture = (ROOT / "docs" / "bench.svg").read_text(encoding="utf-8")
    drawn = re.findall(r"<text[^>]*>([\d,]+)(?:  \(([\d,.]+) times\))?</text>", picture)
    for column in range(5):
        # The last two are not drawn.
        for label in list(tables[0])[:-2]:
            ratios = tables[1].get(label)
            ratio = "" if ratios is None or label.startswith("sse_fast ") else ratios[column]
            assert (tables[0][label][column], ratio) in drawn
    # Of the versions that are installed with the extra, and as npm is told to.
    pinned = [rival.requirement for rival in RIVALS.values() if rival.requirement]
    for requirement in pinned:
        assert requirement.partition(";")[0].replace("==", " ") in tables[0]
    assert f"`npm install {' '.join(JAVASCRIPT.values())}`" in README
    for name, requirement in JAVASCRIPT.items():
        assert f"{name} {requirement.rpartition('@')[2]}" in tables[0]
    assert re.search(
        r"^\d{4}-\d\d-\d\d, by sse-fast bench --plot docs/bench.svg$", text, re.MULTILINE
    )
    assert DOMINATES in text


def test_the_benchmarks_run() -> None:
    """Once each, without a measurement: what they check has to hold."""
    (line,) = [line for line in SHELL if line.endswith("pytest bench")]
    command, *arguments = shlex.split(line)
    done = subprocess.run(
        [Path(sys.executable).with_name(Path(command).name), *arguments, "--benchmark-disable"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"\b(\d+) passed", done.stdout)
    assert int(passed) > 700
    # Who gives other events than were sent would be named.
    assert "no number" not in done.stdout


def test_every_shell_line_is_run() -> None:
    assert {line.split()[0] for line in SHELL[2:]} == {"sse-fast", ".venv/bin/pytest"}
