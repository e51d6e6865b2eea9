"""A fault within a response raises the same error over every library, after the earlier events."""

from __future__ import annotations

import asyncio
import http.client
import threading
from typing import Any

import aiohttp
import anyio
import pytest
import requests
import urllib3

from sse_fast import EndReason, SSEError, StreamTimeout, TransportError
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import ApplicationError, AsgiServer
from tests.support.clients import (
    HTTP2_READERS,
    HTTPX,
    READERS,
    UNREAD_UNDER_TRIO,
    Outcome,
    Reader,
    cross,
)
from tests.support.faults import (
    CHUNKED,
    RST,
    FaultServer,
    byte_by_byte,
    chunk,
    framed,
    head,
    packed,
)

pytestmark = UNREAD_UNDER_TRIO

ONE, TWO, THREE = (b"data: %d\n\n" % number for number in (1, 2, 3))


GZIP = "Content-Encoding: gzip"
# Bytes: an empty last block, a checksum, a length.
GZIP_END = 10


def gzipped(*parts: bytes) -> bytes:
    return b"".join(packed("gzip", parts))


# The script of the server, and the expected outcome. At a number, the server may wait until the
# client has taken that many events.
CASES: dict[str, tuple[list[Any], str]] = {
    "reset": ([head(CHUNKED), chunk(ONE), 1, chunk(TWO), 2, RST], "1 2 TransportError"),
    "reset without framing": ([head(), ONE, 1, TWO, 2, RST], "1 2 TransportError"),
    "truncated chunk": (
        [head(CHUNKED), chunk(ONE), 1, b"64\r\n" + TWO, 2, b"data"],
        "1 2 TransportError",
    ),
    "no last chunk": ([head(CHUNKED), chunk(ONE), 1, chunk(TWO), 2], "1 2 TransportError"),
    "bad chunk size": (
        [head(CHUNKED), chunk(ONE), 1, chunk(TWO), 2, b"zz\r\n", THREE],
        "1 2 TransportError",
    ),
    "bad end of a chunk": (
        [head(CHUNKED), chunk(ONE), 1, chunk(TWO)[:-2], 2, b"zz", chunk(THREE), chunk(b"")],
        "1 2 TransportError",
    ),
    "short body": ([head("Content-Length: 100"), ONE, 1, TWO, 2], "1 2 TransportError"),
    "long body": ([head(f"Content-Length: {len(ONE)}"), ONE, 1, TWO], "1 END"),
    "end within an event": ([head(), ONE, 1, b"data: 2\n"], "1 END, pending"),
    "gzip of two members": ([head(GZIP), gzipped(ONE), 1, gzipped(TWO)], "1 2 END"),
    "gzip of two members, byte by byte": (
        [head(GZIP), *byte_by_byte([gzipped(ONE), gzipped(TWO)])],
        "1 2 END",
    ),
    "x-gzip": ([head("Content-Encoding: x-gzip"), gzipped(ONE, TWO)], "1 2 END"),
    "no gzip": ([head(GZIP), ONE], "TransportError"),
    "broken gzip": (
        [head(GZIP), gzipped(ONE, TWO)[:-GZIP_END], 1, 2, b"\xff"],
        "1 2 TransportError",
    ),
    "truncated gzip": ([head(GZIP), gzipped(ONE, TWO)[:-GZIP_END], 1, 2], "1 2 TransportError"),
}
# The numbers at which the server waits: the fault then arrives alone, after the second event, or
# together with events.
WAITS = {"fault alone": {1, 2}, "fault with an event": {1}, "all together": {0}}

# The same cases for an application server.
TLS_CASES: dict[str, tuple[list[Any], dict[str, str], str]] = {
    "application error": ([ONE, 1, TWO, 2, ApplicationError()], {}, "1 2 TransportError"),
    "short body": ([ONE, 1, TWO, 2], {"content-length": "100"}, "1 2 TransportError"),
    "long body": ([ONE, 1, TWO], {"content-length": f"{len(ONE)}"}, "1 END"),
    "end within an event": ([ONE, 1, b"data: 2\n"], {}, "1 END, pending"),
    "broken gzip": (
        [gzipped(ONE, TWO)[:-GZIP_END], 1, 2, b"\xff"],
        {"content-encoding": "gzip"},
        "1 2 TransportError",
    ),
}

# Known bugs of the libraries: (library, case) -> the outcome there. A fix upstream fails a test.
FAULTS: dict[tuple[str, str], str] = {
    # http.client checks only the length of the end of a chunk.
    ("requests", "bad end of a chunk"): "1 2 3 END",
    ("urllib3", "bad end of a chunk"): "1 2 3 END",
    ("urllib.request", "bad end of a chunk"): "1 2 3 END",
    ("http.client", "bad end of a chunk"): "1 2 3 END",
    # http.client takes a truncated head for a complete one.
    ("requests", "head cut off"): "END",
    ("urllib3", "head cut off"): "END",
    ("urllib.request", "head cut off"): "END",
    ("http.client", "head cut off"): "END",
    # x-gzip is unknown, although it means gzip (RFC 9110, 8.4.1.3).
    ("httpx", "x-gzip"): "TransportError",
    ("httpx2", "x-gzip"): "TransportError",
    ("aiohttp", "x-gzip"): "TransportError",
    # Decoded bytes are lost if the error arrives together with them.
    ("requests", "broken gzip, all together"): "TransportError",
    ("urllib3", "broken gzip, all together"): "TransportError",
    ("aiohttp", "broken gzip, all together"): "TransportError",
    # A truncated gzip body is not detected.
    ("requests", "truncated gzip"): "1 2 END",
    ("urllib3", "truncated gzip"): "1 2 END",
    ("aiohttp", "truncated gzip"): "1 2 END",
    # A framing error that arrives together with the head prevents the response.
    ("aiohttp", "bad chunk size, all together"): "no response",
    ("aiohttp", "bad end of a chunk, all together"): "no response",
    ("aiohttp", "long body, all together"): "no response",
    # Bytes over the Content-Length are an error.
    ("httpx HTTP/2", "long body"): "1 TransportError",
    ("httpx2 HTTP/2", "long body"): "1 TransportError",
}


def told(outcome: Outcome) -> str:
    """Describe an outcome as the tables above do."""
    words = [str(event.data) for event in outcome.events]
    if outcome.error is None:
        words.append(outcome.stream.end_reason.name + ", pending" * outcome.stream.pending)
    elif isinstance(outcome.error, SSEError):
        words.append(type(outcome.error).__name__)
    else:
        words.append("no response")
    return " ".join(words)


def expected(reader: Reader, case: str, waits: str, right: str) -> str:
    fault = FAULTS.get((reader.library, case), right)
    return FAULTS.get((reader.library, f"{case}, {waits}"), fault)


def prepared(script: list[Any], waits: set[int]) -> tuple[list[Any], dict[int, threading.Event]]:
    """Return the steps of a script, with events at the waits and the bytes between them joined."""
    taken = {count: threading.Event() for count in waits}
    steps: list[Any] = []
    for step in script:
        if isinstance(step, int):
            steps += [taken[step]] if step in taken else []
        elif isinstance(step, bytes) and steps and isinstance(steps[-1], bytes):
            steps[-1] += step
        else:
            steps.append(step)
    return steps, taken


def check(
    reader: Reader, wanted: str, taken: dict[int, threading.Event], url: str, **kwargs: Any
) -> None:
    outcome = reader.read(
        url, lambda count: taken[count].set() if count in taken else None, **kwargs
    )
    for event in taken.values():
        event.set()
    assert told(outcome) == wanted, repr(outcome.error)
    if wanted.endswith("TransportError"):
        assert outcome.stream.end_reason is EndReason.ERROR
        assert not isinstance(outcome.error, StreamTimeout)


def test_faults_table_names_only_known_cases() -> None:
    cases = {*CASES, *TLS_CASES, *(f"head {case}" for case in HEADS)}
    cases |= {f"{case}, {waits}" for case in CASES for waits in WAITS}
    assert {case for _, case in FAULTS} <= cases
    readers = [*READERS.values(), *HTTP2_READERS.values()]
    # Python 3.10 has no httpx2.
    libraries = {library.replace("httpx2", "httpx") for library, _ in FAULTS}
    assert libraries <= {reader.library for reader in readers}


@pytest.mark.parametrize(("reader", "case", "waits"), cross(READERS, CASES, WAITS, once=1))
def test_fault_in_body(reader: Reader, faults: FaultServer, case: str, waits: str) -> None:
    script, right = CASES[case]
    faults.scripts["/"], taken = prepared(script, WAITS[waits])
    check(reader, expected(reader, case, waits, right), taken, faults.url + "/")


@pytest.mark.parametrize(("tls_reader", "case"), cross({**READERS, **HTTP2_READERS}, TLS_CASES))
def test_fault_in_body_over_tls_and_http2(
    tls_reader: Reader, hypercorn_server: AsgiServer, case: str
) -> None:
    parts, fields, right = TLS_CASES[case]
    steps, taken = prepared(parts, WAITS["fault alone"])
    headers = [("content-type", "text/event-stream"), *fields.items()]
    hypercorn_server.answers["/"] = AsgiAnswer(steps, headers=headers)
    wanted = expected(tls_reader, case, "fault alone", right)
    check(tls_reader, wanted, taken, hypercorn_server.url + "/", ca=hypercorn_server.ca)


def test_body_cut_off_within_event_leaves_pending(reader: Reader, faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE + b"data: 2\n")]
    outcome = reader.read(faults.url + "/")
    assert told(outcome) == "1 TransportError"
    assert outcome.stream.pending
    assert outcome.stream.end_reason is EndReason.ERROR


@pytest.mark.parametrize(
    ("reader", "case"),
    cross(READERS, ["reset", "truncated chunk", "no last chunk", "short body"]),
)
def test_fault_while_nobody_reads_loses_no_event(
    reader: Reader, faults: FaultServer, case: str
) -> None:
    """Both the event and the failure after it are waiting when the reader returns."""
    steps, taken = prepared(CASES[case][0], {1})
    faults.scripts["/"] = steps

    async def use(stream: Any) -> None:
        assert (await anext(stream)).data == "1"
        taken[1].set()
        while faults.playing:
            await anyio.sleep(0.001)
        # The event loop receives what the server has sent.
        await anyio.sleep(0.01)
        assert (await anext(stream)).data == "2"
        with pytest.raises(TransportError):
            await anext(stream)

    reader.follow(use, faults.url + "/")


def test_transport_error_has_library_error_as_cause(reader: Reader, faults: FaultServer) -> None:
    for case in ["reset", "truncated chunk", "no last chunk", "short body"]:
        script, _ = CASES[case]
        faults.scripts["/"], _ = prepared(script, set())
        error = reader.read(faults.url + "/").error
        assert isinstance(error, TransportError)
        assert (error.phase, error.sent) == ("body", True)
        # Our transport detects a short body itself.
        assert error.__cause__ is not None or (reader.library == "sse_fast" and case != "reset")
        assert "127.0.0.1" not in str(error)


# -- The head --------------------------------------------------------------------------------------

# The library raises its own error, because there was no response to adapt.
OWN_ERRORS: dict[str, type[Exception]] = {
    "requests": requests.ConnectionError,
    "urllib3": urllib3.exceptions.ProtocolError,
    "urllib.request": http.client.HTTPException,
    "http.client": http.client.HTTPException,
    "aiohttp": aiohttp.ClientError,
    **{module.__name__: module.RemoteProtocolError for module in HTTPX},
    "sse_fast": TransportError,
}
HEADS: dict[str, list[Any]] = {
    "of endless fields": [b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n" * 1000] * 10_000],
    "with an endless field": [b"HTTP/1.1 200 OK\r\nX-A: ", *[b"b" * 10_000] * 10_000],
    "of another protocol": [b"SSH-2.0-OpenSSH_9.9\r\n\r\n"],
    "cut off": [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-A"],
}


@pytest.mark.parametrize(("reader", "case"), cross(READERS, HEADS, once=1))
def test_invalid_head_raises(reader: Reader, faults: FaultServer, case: str) -> None:
    faults.scripts["/"] = HEADS[case]
    outcome = reader.read(faults.url + "/")
    if (reader.library, f"head {case}") in FAULTS:
        assert told(outcome) == FAULTS[reader.library, f"head {case}"]
        return
    assert outcome.events == []
    assert isinstance(outcome.error, OWN_ERRORS[reader.library])
    if reader.library == "sse_fast":
        assert outcome.error.phase == "head"


def test_head_over_64_kib_refused_by_our_transport(reader: Reader, faults: FaultServer) -> None:
    fields = [f"X-{number}: {'b' * 1000}" for number in range(70)]
    faults.scripts["/"] = [head(*fields), ONE]
    outcome = reader.read(faults.url + "/")
    if reader.library == "sse_fast":
        assert isinstance(outcome.error, TransportError)
        assert outcome.error.phase == "head"
    else:
        assert told(outcome) == "1 END"


# -- Reads that were cancelled ---------------------------------------------------------------------

ASYNC = [reader for reader in [*READERS.values(), *HTTP2_READERS.values()] if reader.backend]


async def cancel_by_anyio(stream: Any) -> None:
    with anyio.move_on_after(0.02) as scope:
        await anext(stream)
    assert scope.cancelled_caught


async def cancel_by_asyncio(stream: Any) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(anext(stream), 0.02)


def check_cancelled(
    reader: Reader, url: str, more: threading.Event, cancel: Any, **options: Any
) -> None:
    """Read an event, cancel the wait for the second, and then let it arrive."""

    async def use(stream: Any) -> None:
        assert (await anext(stream)).data == "1"
        await cancel(stream)
        assert stream.end_reason is None
        more.set()
        if reader.library in ("aiohttp", "sse_fast"):
            assert [event.data async for event in stream] == ["2"]
            assert stream.end_reason is EndReason.END
            return
        # The cancelled read closed the iterator, which now looks as if it had ended.
        with pytest.raises(TransportError, match=r"right after a cancelled read.* next_event"):
            await anext(stream)
        assert stream.end_reason is EndReason.ERROR
        with pytest.raises(SSEError, match="has ended already, with TransportError"):
            await anext(stream)

    try:
        reader.run(use, url, **options)
    finally:
        more.set()


@pytest.mark.parametrize(
    ("reader", "cancel"),
    [
        *((reader, cancel_by_anyio) for reader in ASYNC),
        *((reader, cancel_by_asyncio) for reader in ASYNC if reader.backend == "asyncio"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_eof_after_cancelled_read_is_not_clean(
    reader: Reader, hypercorn_server: AsgiServer, cancel: Any
) -> None:
    more = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([ONE, more, TWO])
    url = hypercorn_server.url + "/"
    check_cancelled(reader, url, more, cancel, ca=hypercorn_server.ca)


@pytest.mark.parametrize("reader", [reader for reader in ASYNC if not reader.http2], ids=str)
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_eof_after_cancelled_read_in_any_framing(
    reader: Reader, faults: FaultServer, framing: str
) -> None:
    more = threading.Event()
    faults.scripts["/"] = framed(framing, [ONE, more, TWO])
    check_cancelled(reader, faults.url + "/", more, cancel_by_anyio)
