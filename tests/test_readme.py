"""Every line of code in the README runs, against a server that stands in for example.com."""

from __future__ import annotations

import asyncio
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
import anyio
import anyio.abc
import httpx
import pytest
import requests
import urllib3
from server import Answer, Server

import sse_fast

ROOT = Path(__file__).parent.parent
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
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert (len(PYTHON), len(SHELL), len(ROWS)) == (5, 6, 16)


def run_block(index: int, server: Server, **names: Any) -> dict[str, Any]:
    code = PYTHON[index].replace("https://example.com", server.url)
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_first_example(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PYTHON[0].split("\n\n")[0].splitlines()) + 3 <= 6
    run_block(0, example)
    assert capsys.readouterr().out == "tick 1\nmessage 2\n"


def test_the_stream_of_json(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run_block(1, example)
    assert capsys.readouterr().out == "Hello"
    # Without its end, the stream is told to be cut off.
    example.answers["/v1/chat/completions"].chunks = [COMPLETION[:-20]]
    run_block(1, example)
    assert "cut off" in capsys.readouterr().out


def test_the_fastest_way(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run_block(2, example)
    assert capsys.readouterr().out == "200 text/event-stream\nHello"
    request = example.requests[0]
    assert (request.method, request.headers["authorization"]) == ("POST", "Bearer ...")


def test_without_http(example: Server) -> None:
    run_block(3, example)


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
    run_block(4, example, response=requests.get(f"{example.url}/events", stream=True))
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
    }
    monkeypatch.setattr("sse_fast.adapters._ADAPTERS", dict(sse_fast.adapters._ADAPTERS))

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
    elif "URL, asyncio" in holds:
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
        assert "package.module.Class" in sse_fast.adapters._ADAPTERS
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
    assert tests.endswith("pytest")
    assert "README.md | head -n 2" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("sse-fast ")])
def test_the_command_line(example: Server, line: str, tmp_path: Path) -> None:
    (tmp_path / "capture.sse").write_bytes(STREAM)
    command, *arguments = shlex.split(line.replace("https://example.com", example.url))
    done = subprocess.run(
        [Path(sys.executable).with_name(command), *arguments],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    if "completions" in line:
        assert done.stdout.count(b'"data"') == 3
        assert (example.requests[0].method, example.requests[0].body) == (
            "POST",
            b'{"stream": true}',
        )
        assert example.requests[0].headers["content-type"] == "application/json"
    else:
        assert done.stdout == b"event: tick\ndata: 1\n\ndata: 2\n\n"


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
    assert re.search(r"\b1\d\d passed", done.stdout)


def test_every_shell_line_is_run() -> None:
    assert {line.split()[0] for line in SHELL[2:]} == {"sse-fast", ".venv/bin/pytest"}
