"""The README: its length, its first commands, its programs, and each row of its tables."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import sys
import textwrap
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import aiohttp
import anyio
import anyio.abc
import httpx
import pytest
import requests
import urllib3

import sse_fast
from sse_fast.adapters import _registry
from tests.support import ROOT
from tests.support.pages import ORIGIN, PUBLIC_ORIGIN, blocks, read, shell_lines
from tests.support.server import Answer, Server

README = read("README.md")
PUBLIC, ASYNC, CHAT, RESUMING, CAPTURE = blocks("README.md", "python")
RESPONSES = read("docs/guides/responses.md")
ROW = re.compile(r"^\| (.+?) \| `((?:for|async for|sse_fast).+?)` \|(?: (.+?) \| (.+?) \|)?$", re.M)
ROWS = {match[1]: match[2] for page in (README, RESPONSES) for match in ROW.finditer(page)}
TIMEOUTS = {match[1]: match[4] for match in ROW.finditer(README)}

STREAM = b"event: tick\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"


@pytest.fixture
def example(server: Server) -> Server:
    server.answers["/events"] = Answer([STREAM[:9], STREAM[9:]])
    return server


# -- The page --------------------------------------------------------------------------------------


def test_readme_length_is_bounded() -> None:
    assert len(README.splitlines()) <= 200


def test_readme_blocks_are_of_known_languages() -> None:
    assert {block.language for block in blocks("README.md")} == {"python", "sh", "console"}


def test_readme_first_shell_lines_are_what_ci_runs() -> None:
    """`.ci/run` reads them from here and runs them unchanged."""
    _, _, section = README.partition("### From a checkout\n")
    assert re.search(r"^```(\w+)", section, re.MULTILINE)[1] == "sh"  # type: ignore[index]
    demo, tests = shell_lines("README.md")
    for command in (demo, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert demo.endswith("sse-fast demo")
    assert tests.endswith("pytest -n 4 --dist worksteal")
    assert "README.md | head -n 2" in (ROOT / ".ci" / "run").read_text()


def test_readme_extras_are_those_of_the_package() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    (table,) = re.findall(r"^\| Extra \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    development = {"lint", "test", "test-core", "dev"}
    assert named == set(project["optional-dependencies"]) - development
    assert "dependencies" not in project


# -- The programs ----------------------------------------------------------------------------------


def test_programs_use_known_servers_only() -> None:
    """The tests replace these servers, so that no test uses the network."""
    for block in blocks("README.md", "python"):
        for origin in re.findall(r"https?://[^/\"]+", block.code):
            assert origin in (ORIGIN, PUBLIC_ORIGIN)


def test_public_program_prints_data(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    body = b'retry: 0\n:ok\n\nid: [{"offset": 1}]\ndata: {"title": "A"}\n\ndata: {}\n\n'
    server.answers["/v2/stream/recentchange"] = Answer([body], once=True)
    PUBLIC.run(server.url)
    assert capsys.readouterr().out == '{"title": "A"}\n{}\n'
    assert server.requests[0].headers["user-agent"] == "sse_fast demo"


def test_async_program_prints_events(example: Server, capsys: pytest.CaptureFixture[str]) -> None:
    ASYNC.run(example.url)
    assert capsys.readouterr().out == "tick 1\nmessage 2\n"


def test_async_program_refused_raises_what_the_text_says(server: Server) -> None:
    fields = {"Content-Type": "text/plain", "Retry-After": "7"}
    server.answers["/events"] = Answer([b"quota"], status=429, headers=fields)
    with pytest.raises(sse_fast.ResponseError) as caught:
        ASYNC.run(server.url)
    response = caught.value.response
    assert (response.status, response.text, caught.value.retry_after) == (429, "quota", 7)
    assert response.headers["content-type"] == "text/plain"


def chat(*chunks: str) -> bytes:
    return "".join(f"data: {chunk}\n\n" for chunk in chunks).encode()


HEL = '{"choices": [{"delta": {"role": "assistant", "content": "Hel"}, "finish_reason": null}]}'
LO = '{"choices": [{"delta": {"content": "lo"}, "finish_reason": null}]}'
STOP = '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'
CUT_OFF = "Hello\nThe completion was cut off.\n"


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        (chat(HEL, LO, STOP, "[DONE]"), "Hello"),
        (chat(HEL, LO, STOP, '{"choices": [], "usage": {"total_tokens": 7}}', "[DONE]"), "Hello"),
        (chat('{"choices": [], "prompt_filter_results": []}', HEL, LO, "[DONE]"), "Hello"),
        (
            chat(
                '{"choices": [{"delta": {"content": null, "reasoning_content": "Hm"}}]}',
                '{"choices": [{"delta": null}]}',
                '{"choices": [{"finish_reason": null}]}',
                HEL,
                LO,
                "[DONE]",
            ),
            "Hello",
        ),
        (b": OPENROUTER PROCESSING\n\n" + chat(HEL, LO, "[DONE]"), "Hello"),
        (chat(HEL, LO, STOP, "[DONE]").replace(b"\n", b"\r\n"), "Hello"),
        (chat(HEL, LO, STOP), "Hello"),
        (chat(HEL, LO), CUT_OFF),
        (chat(HEL, LO) + b'data: {"choices"', CUT_OFF),
    ],
    ids=[
        "OpenAI",
        "usage",
        "Azure",
        "content is null",
        "comments",
        "CRLF",
        "no end marker",
        "cut off",
        "cut off within an event",
    ],
)
def test_chat_program_reads_what_providers_send(
    server: Server, capsys: pytest.CaptureFixture[str], body: bytes, printed: str
) -> None:
    server.answers["/v1/chat/completions"] = Answer([body])
    CHAT.run(server.url)
    assert capsys.readouterr().out == printed
    assert server.requests[0].headers["authorization"] == "Bearer ..."
    assert b'"stream": true' in server.requests[0].body


@pytest.mark.parametrize(
    "error",
    [
        b'event: error\ndata: {"message": "out of luck"}\n\n',
        b"event: error\ndata: out of luck\n\n",
        chat('{"error": {"message": "out of luck"}}'),
        chat('{"error": {"message": "out of luck"}, "choices": [{"delta": {"content": ""}}]}'),
        chat('{"object": "error", "message": "out of luck"}'),
    ],
    ids=["event", "event of text", "error key", "beside choices", "object"],
)
def test_chat_program_raises_errors_within_a_200(server: Server, error: bytes) -> None:
    server.answers["/v1/chat/completions"] = Answer([chat(HEL), error])
    with pytest.raises(RuntimeError, match="out of luck"):
        CHAT.run(server.url)


def test_chat_program_raises_on_lost_connection(server: Server) -> None:
    server.answers["/v1/chat/completions"] = Answer([chat(HEL)], "cut")
    with pytest.raises(sse_fast.TransportError):
        CHAT.run(server.url)


def test_chat_program_lost_connection_after_finish_is_whole(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/v1/chat/completions"] = Answer([chat(HEL, LO, STOP)], "cut")
    CHAT.run(server.url)
    assert capsys.readouterr().out == "Hello"


def test_chat_program_raises_on_refused_request(server: Server) -> None:
    server.answers["/v1/chat/completions"] = Answer([b"no"], status=401)
    with pytest.raises(sse_fast.ResponseError, match="401"):
        CHAT.run(server.url)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_resuming_program_goes_on_from_saved_id(
    example: Server, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    body = b"retry: 0\n\nid: 8\ndata: 1\n\nid: 9\ndata: 2\n\n"
    for starts_with in (None, "9"):
        example.requests.clear()
        example.answers["/events"] = Answer([body], once=True)
        RESUMING.run(example.url)
        assert capsys.readouterr().out == "1\n2\n"
        ids = [request.headers.get("last-event-id") for request in example.requests]
        assert ids == [starts_with, "9"]
        assert (folder / "last-event-id.txt").read_text() == "9"


def test_resuming_program_raises_when_refused(example: Server, folder: Path) -> None:
    example.answers["/events"] = Answer([b"no"], status=404)
    with pytest.raises(sse_fast.ResponseError, match="404"):
        RESUMING.run(example.url)
    assert len(example.requests) == 1


def test_resuming_program_stopped_within_an_event_gets_it_again(
    example: Server, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    example.answers["/events"] = Answer([b"id: 8\ndata: 1\n\nid: 9\ndata: 2\n\n"], once=True)

    def stop(text: str) -> None:
        if text == "2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RESUMING.run(example.url, print=stop)
    # The work on event 2 was not done, so the server is asked for what follows event 1.
    assert (folder / "last-event-id.txt").read_text() == "8"
    example.answers["/events"] = Answer([b"id: 9\ndata: 2\n\n"], once=True)
    with pytest.raises(KeyboardInterrupt):
        RESUMING.run(example.url, print=stop)
    assert example.requests[-1].headers["last-event-id"] == "8"
    assert (folder / "last-event-id.txt").read_text() == "8"


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="columns are native only")
def test_capture_program_makes_a_table(
    example: Server, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    CAPTURE.run(example.url)
    assert capsys.readouterr().out == "2 1\n"
    assert (folder / "capture.sse").read_bytes() == STREAM


# -- The tables of sources -------------------------------------------------------------------------

Execute = Callable[[], None]
ExecuteAsync = Callable[[], Awaitable[None]]


class Sources:
    """How the objects of each row are made; every one carries STREAM."""

    def __init__(self, names: dict[str, Any], execute: Execute, execute_async: ExecuteAsync):
        self.names, self.execute, self.execute_async = names, execute, execute_async

    def plain(self) -> None:
        self.execute()

    def plain_async(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        await self.execute_async()

    def httpx(self) -> None:
        with httpx.stream("GET", self.names["url"]) as self.names["response"]:
            self.execute()

    def httpx_async(self) -> None:
        async def main() -> None:
            async with (
                httpx.AsyncClient() as client,
                client.stream("GET", self.names["url"]) as self.names["response"],
            ):
                await self.execute_async()

        asyncio.run(main())

    def aiohttp(self) -> None:
        async def main() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.get(self.names["url"]) as self.names["response"],
            ):
                await self.execute_async()

        asyncio.run(main())

    def socket(self) -> None:
        self.names["sock"], far = socket.socketpair()
        with self.names["sock"], far:
            far.sendall(STREAM)
            far.shutdown(socket.SHUT_WR)
            self.execute()

    def reader(self) -> None:
        async def main() -> None:
            reader = self.names["reader"] = asyncio.StreamReader()
            reader.feed_data(STREAM)
            reader.feed_eof()
            await self.execute_async()

        asyncio.run(main())

    def anyio(self) -> None:
        async def main() -> None:
            near, far = socket.socketpair()
            with far:
                far.sendall(STREAM)
                far.shutdown(socket.SHUT_WR)
                async with await anyio.abc.SocketStream.from_socket(near) as stream:
                    self.names["stream"] = stream
                    await self.execute_async()

        for backend in ("asyncio", "trio"):
            self.names["seen"].clear()
            anyio.run(main, backend=backend)

    def async_chunks(self) -> None:
        async def chunks() -> Any:
            yield STREAM

        self.names["chunks"] = chunks()
        asyncio.run(self._main())


WAYS = {
    "requests": Sources.plain,
    "urllib3": Sources.plain,
    "httpx or httpx2, sync": Sources.httpx,
    "httpx or httpx2, async": Sources.httpx_async,
    "aiohttp": Sources.aiohttp,
    "urllib.request, http.client": Sources.plain,
    "a URL to read once": Sources.plain,
    "a URL to read once, asyncio": Sources.plain_async,
    "a URL to follow": Sources.plain,
    "a URL to follow, with your own client": Sources.plain,
    "a URL to follow, async": Sources.plain_async,
    "a connected socket, after the response head": Sources.socket,
    'a file opened with `"rb"`': Sources.plain,
    "an iterable of bytes": Sources.plain,
    "an `asyncio.StreamReader`": Sources.reader,
    "a stream of anyio or trio": Sources.anyio,
    "an async iterable of bytes": Sources.async_chunks,
    "a type of your own": Sources.plain,
    "a read loop of your own": Sources.plain,
}


def test_every_row_is_run() -> None:
    assert list(ROWS) == list(WAYS)
    tables = re.findall(r"^\| You have \|(?:.*\n\|)+", README + "\n" + RESPONSES, re.MULTILINE)
    # Each has a line of head and a line of dashes.
    assert [table.count("\n") - 1 for table in tables] == [len(TIMEOUTS), len(WAYS) - len(TIMEOUTS)]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("sse_fast.adapters._registry._ADAPTERS", dict(_registry._ADAPTERS))
    return _registry._ADAPTERS


@pytest.mark.parametrize("holds", WAYS)
def test_row_delivers_the_events(example: Server, registry: dict[str, Any], holds: str) -> None:
    line = ROWS[holds]
    seen: list[Any] = []
    code = line.replace(": ...", ": seen.append(event)")
    names: dict[str, Any] = {
        "sse_fast": sse_fast,
        "requests": requests,
        "urllib": urllib,
        "urllib3": urllib3,
        "seen": seen,
        "url": f"{example.url}/events",
        "body": {},
        "file": io.BytesIO(STREAM),
        "chunks": [STREAM[:5], STREAM[5:]],
        "chunk": STREAM,
        "parser": sse_fast.Parser(),
        "client": requests.Session(),
    }
    if "EventSource" in line:
        example.answers["/events"].once = True

    def execute() -> None:
        exec(code, names)

    async def execute_async() -> None:
        exec(f"async def main():\n{textwrap.indent(code, ' ')}", names)
        await names["main"]()

    WAYS[holds](Sources(names, execute, execute_async))
    names["client"].close()
    if holds == "a type of your own":
        assert "package.module.Class" in registry
    else:
        assert [event.data for event in seen] == ["1", "2"]


@pytest.mark.parametrize("holds", [holds for holds, cell in TIMEOUTS.items() if "(" in cell])
def test_row_timeout_allows_silence_and_no_total(holds: str) -> None:
    (arguments,) = re.findall(r"`(timeout=.+)`", TIMEOUTS[holds])
    given = eval(f"dict({arguments})", {"httpx": httpx, "aiohttp": aiohttp, "urllib3": urllib3})
    timeout = given["timeout"]
    if isinstance(timeout, tuple):
        timeout = urllib3.Timeout(connect=timeout[0], read=timeout[1])
    names = ("read", "read_timeout", "sock_read")
    assert 300 in {getattr(timeout, name, None) for name in names}
    assert getattr(timeout, "total", None) is None


def test_row_timeouts_are_complete() -> None:
    assert len([cell for cell in TIMEOUTS.values() if "(" in cell]) == 5
    assert TIMEOUTS["urllib.request, http.client"] == "`timeout=300`"
    assert TIMEOUTS["a URL to read once"] == "`connect_timeout=`, `idle_timeout=`"


# -- The numbers -----------------------------------------------------------------------------------


def test_readme_numbers_are_those_of_the_benchmarks() -> None:
    _, _, section = README.partition("\n## Numbers\n")
    rows = re.findall(r"^\| (.+?) \| ([\d.,]+) (ns|µs) \| (.*?) ?\|$", section, re.MULTILINE)
    assert len(rows) == 6
    parser, transport = read("docs/benchmarks/parser.md"), read("docs/benchmarks/transport.md")
    (fastest,) = (float(value) for what, value, *_ in rows if what.startswith("`open_stream`"))
    for what, value, unit, ratio in rows:
        name = what.partition(",")[0]
        if unit == "ns":
            # The first column of the first table.
            assert re.search(rf"^{re.escape(name)} \d[\d.]* +{re.escape(value)} ", parser, re.M)
            continue
        if "iter_events" in what:
            name = what.replace("httpx,", "httpx or httpx2,")
        elif name == "httpx":
            name = what
        assert re.search(rf"^\| {re.escape(name)} \| {re.escape(value)} µs", transport, re.M), name
        if ratio:
            assert round(float(value) / fastest) == int(ratio.split()[0])


def test_readme_claims_are_those_of_the_benchmarks() -> None:
    parser = read("docs/benchmarks/parser.md")
    rows = [line.split() for line in parser.splitlines()]
    ours = next(row[2:] for row in rows if row[:2] == ["sse_fast", "0.1.0"])
    ratios = [row[2:] for row in rows if row[:1] == ["httpx-sse"]][1]
    assert (min(map(int, ours)), max(map(int, ours))) == (65, 299)
    assert (min(map(int, ratios)), max(map(int, ratios))) == (16, 36)
    assert "65 to 300 ns per event, 16 to 36 times less" in README
    assert "0.30 µs of CPU per event" in README
    assert "httpx with httpx-sse takes 8.2" in README
