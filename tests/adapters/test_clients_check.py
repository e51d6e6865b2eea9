"""Every response is checked alike: one that is no event stream is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sse_fast import EndReason, Response, ResponseError, SSEError, aiter_events, iter_events
from sse_fast._source import Headers, Source
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import (
    EVENTS,
    HTTP2_READERS,
    OPENERS,
    READERS,
    STREAM,
    UNREAD_UNDER_TRIO,
    Reader,
    collect,
    cross,
    plain,
    read_async,
)
from tests.support.faults import CHUNKED, FaultServer, Step, head
from tests.support.server import Answer, Server

TYPE = "text/event-stream"
JSON = "application/json"
TLS_READERS = {**READERS, **HTTP2_READERS}

pytestmark = UNREAD_UNDER_TRIO


# -- Refused ---------------------------------------------------------------------------------------

# Status, content type, further fields, the body, the message, the seconds to wait.
REFUSED: dict[str, tuple[str, str | None, list[tuple[str, str]], bytes, str, float | None]] = {
    "302": ("302 Found", None, [("Location", "/other")], b"moved", "got 302", None),
    "401": ("401 Unauthorized", JSON, [], b'{"error": "no"}', "status 200, got 401", None),
    "429": ("429 Slow Down", JSON, [("Retry-After", "7")], b"{}", "status 200, got 429", 7.0),
    "500 of a stream": ("500 Oops", TYPE, [], b"data: 1\n\n", "status 200, got 500", None),
    "another type": ("200 OK", "text/html", [], b"<p>", f"'{TYPE}', got 'text/html'", None),
    "no type": ("200 OK", None, [], b"data: 1\n\n", f"'{TYPE}', got none", None),
    "two types": (
        "200 OK", TYPE, [("Content-Type", "text/html")], b"<p>",
        f"'{TYPE}', got '{TYPE}, text/html'", None,
    ),
    "two types, one field": (
        "200 OK", f"{TYPE}; a=b, {JSON}, */*, x", [], b"{}", f"'{TYPE}', got '{TYPE}; a=b,", None,
    ),
}  # fmt: skip


def check_refused(outcome: Any, case: str) -> None:
    status, _, _, body, message, seconds = REFUSED[case]
    assert outcome.events == []
    assert isinstance(outcome.error, ResponseError)
    assert message in str(outcome.error)
    assert "secret" not in str(outcome.error)
    assert outcome.error.response.status == int(status[:3])
    assert outcome.error.response.body == body
    assert outcome.error.retry_after == seconds


@pytest.mark.parametrize(
    ("reader", "framing", "case"), cross(READERS, ["chunked", "length", "close"], REFUSED)
)
def test_response_without_event_stream_is_refused(
    reader: Reader, faults: FaultServer, case: str, framing: str
) -> None:
    status, content_type, pairs, body, _, _ = REFUSED[case]
    fields = [f"{name}: {value}" for name, value in pairs]
    script: list[Step] = [head(*fields, status=status, type=content_type), body]
    if framing == "chunked":
        script = [
            head(CHUNKED, *fields, status=status, type=content_type),
            b"%X\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        ]
    elif framing == "length":
        fields.append(f"Content-Length: {len(body)}")
        script[0] = head(*fields, status=status, type=content_type)
    faults.scripts["/?q=secret"] = script
    check_refused(reader.read(faults.url + "/?q=secret"), case)
    assert len(faults.requests) == 1


@pytest.mark.parametrize(("tls_reader", "case"), cross(TLS_READERS, REFUSED))
def test_response_is_refused_over_tls_and_http2(
    tls_reader: Reader, hypercorn_server: AsgiServer, case: str
) -> None:
    status, content_type, pairs, body, _, _ = REFUSED[case]
    if content_type is not None:
        pairs = [("Content-Type", content_type), *pairs]
    headers = [(name.lower(), value) for name, value in pairs]
    hypercorn_server.answers["/"] = AsgiAnswer([body], int(status[:3]), headers)
    url = hypercorn_server.url + "/?q=secret"
    check_refused(tls_reader.read(url, ca=hypercorn_server.ca), case)


@pytest.mark.parametrize(
    ("reader", "types"),
    cross(READERS, [("text/html", TYPE), (f"{TYPE}; charset=utf-8", TYPE), (TYPE, "*/*", "none")]),
)
def test_last_valid_content_type_field_counts(
    reader: Reader, faults: FaultServer, types: tuple[str, ...]
) -> None:
    fields = [f"Content-Type: {each}" for each in types]
    faults.scripts["/"] = [head(*fields, type=None), STREAM]
    outcome = reader.read(faults.url + "/")
    assert (plain(outcome.events), outcome.error) == (EVENTS, None)


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream;charset=utf-8", True),
        ("text/event-stream ; charset=utf-8", True),
        ("text/event-stream; charset=iso-8859-1", True),
        ("text/event-streamX", False),
        ("application/text/event-stream", False),
        ("text/event-stream, text/html", False),
        ("text/html, text/event-stream", True),
        ("application/json, text/event-stream; charset=utf-8", True),
        ("text/event-stream, */*", True),
        ("text/event-stream, , text/", True),
        ('text/event-stream; a="b, text/html"', True),
        ('text/event-stream; a="b, text/html', True),
        ("text/event-stream charset=utf-8", True),
        (";text/event-stream", False),
        ("*/*", False),
    ],
)
def test_check_compares_essence_of_content_type(
    server: Server, content_type: str, accepted: bool
) -> None:
    server.answers["/"] = Answer([STREAM], headers={"Content-Type": content_type})
    with OPENERS["requests"](server.url + "/") as response:
        if accepted:
            # An event stream is UTF-8 whatever the charset says.
            assert plain(iter_events(response)) == EVENTS
        else:
            with pytest.raises(ResponseError):
                iter_events(response)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("7, 9", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("-1", None),
        ("\u0663", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_parsed(value: str, seconds: float | None) -> None:
    response = httpx.Response(503, headers=[(b"Retry-After", value.encode())], content=b"")
    with pytest.raises(ResponseError) as caught:
        iter_events(response)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("value", "age", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", None, 30.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", None, 30.0),
        ("Sun Nov  6 08:49:37 1994", None, 30.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "20", 10.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "soon", 30.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", None, 0.0),
    ],
)
def test_retry_after_date_is_compared_with_server_clock(
    value: str, age: str | None, seconds: float
) -> None:
    headers = {"Retry-After": value, "Date": "Sun, 06 Nov 1994 08:49:07 GMT"}
    if age is not None:
        headers["Age"] = age
    with pytest.raises(ResponseError) as caught:
        iter_events(httpx.Response(503, headers=headers, content=b""))
    assert caught.value.retry_after == seconds


def test_error_joins_headers_and_hides_secrets() -> None:
    fields = [(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2"), (b"Set", b"secret")]
    request = httpx.Request("GET", "http://user:secret@host/path?secret#secret")
    response = httpx.Response(200, headers=fields, content=b"", request=request)
    with pytest.raises(ResponseError) as caught:
        iter_events(response)
    face = caught.value.response
    assert face.headers["X-A"] == "1, 2"
    assert len(face.headers) == 3
    assert str(caught.value).endswith("'text/plain': http://host/path")
    assert repr(face) == "<Response 200 http://host/path>"
    assert "secret" not in repr(face.headers)


def test_iter_events_refuses_at_the_call(opener: Any, server: Server) -> None:
    server.answers["/a"] = Answer(
        [b'{"error": "no"}'], "length", 429, {"Content-Type": "x/y", "Retry-After": "7"}
    )
    with opener(server.url + "/a?q=secret") as response:
        with pytest.raises(ResponseError, match="Expected status 200, got 429") as caught:
            iter_events(response)
        error = caught.value
        assert error.response.status == 429
        assert error.response.body == b'{"error": "no"}'
        assert error.retry_after == 7.0
        assert "secret" not in str(error)


# -- Let through -----------------------------------------------------------------------------------


def test_check_false_accepts_any_response(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM], "length", 201, {})
    with opener(server.url + "/") as response:
        assert plain(iter_events(response, check=False)) == EVENTS


def test_check_false_accepts_any_response_async(aopener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM], "length", 201, {})
    found = read_async(
        aopener, server.url + "/", lambda response: collect(aiter_events(response, check=False))
    )
    assert found == EVENTS


def test_no_content_ends_before_first_event(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([], "none", 204, {})
    with opener(server.url + "/") as response:
        events = iter_events(response)
        # Released before the first event is requested.
        assert not hasattr(response, "is_closed") or response.is_closed
        assert list(events) == []
        assert events.end_reason is EndReason.NO_CONTENT
    with opener(server.url + "/") as response:
        events = iter_events(response, check=False)
        assert list(events) == []
        assert events.end_reason is EndReason.END


def test_no_content_is_not_refused(tls_reader: Reader, hypercorn_server: AsgiServer) -> None:
    hypercorn_server.answers["/"] = AsgiAnswer([], 204, [])
    outcome = tls_reader.read(hypercorn_server.url + "/", ca=hypercorn_server.ca)
    assert (outcome.events, outcome.error) == ([], None)
    assert outcome.stream.end_reason is EndReason.NO_CONTENT


# -- The check of an async response ----------------------------------------------------------------


def test_async_check_runs_at_entry_and_first_event(aopener: Any, server: Server) -> None:
    server.answers["/"] = Answer(
        [b"no"], "length", 503, {"Retry-After": "Wed, 21 Oct 2115 07:28:00 GMT"}
    )
    server.answers["/204"] = Answer([], "none", 204, {})

    async def read(response: Any) -> None:
        stream = aiter_events(response)
        assert stream.end_reason is None
        with pytest.raises(ResponseError, match="got 503") as caught:
            await anext(stream)
        assert caught.value.response.body == b"no"
        assert caught.value.retry_after > 10**9
        assert stream.end_reason is EndReason.ERROR
        assert response.is_closed if hasattr(response, "is_closed") else response.closed
        with pytest.raises(SSEError, match="has ended already, with ResponseError"):
            await anext(stream)
        # Entering checks it as well.
        with pytest.raises(ResponseError, match="got 503"):
            async with aiter_events(response):
                pass

    async def read_204(response: Any) -> None:
        stream = aiter_events(response)
        assert [event async for event in stream] == []
        assert stream.end_reason is EndReason.NO_CONTENT

    read_async(aopener, server.url + "/", read)
    read_async(aopener, server.url + "/204", read_204)


def test_cancelled_async_check_can_be_repeated(
    aopener: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 1.0)
    hold = threading.Event()
    server.answers["/"] = Answer([b"begun"], status=500, hold=hold)

    async def read(response: Any) -> None:
        stream = aiter_events(response)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.1)
        assert stream.end_reason is None
        with pytest.raises(ResponseError) as caught:
            await anext(stream)
        assert caught.value.response.body == b"begun"

    try:
        read_async(aopener, server.url + "/", read)
    finally:
        hold.set()


def test_cancelled_check_raises_cancelled_error() -> None:
    """The task is cancelled in each turn of the loop up to the end of the body."""

    async def chunks() -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield b"no"

    async def aclose() -> None:
        pass

    async def run() -> None:
        for turns in range(12):
            face = Response(500, Headers(), "", None)
            reader = asyncio.create_task(anext(aiter_events(Source(chunks(), aclose, face))))
            for _ in range(turns):
                await asyncio.sleep(0)
            cancelled = reader.cancel()
            await asyncio.wait({reader})
            assert reader.cancelled() is cancelled

    asyncio.run(run())


# -- The body of a refused response ----------------------------------------------------------------


def test_body_of_refused_response_is_bounded(
    tls_reader: Reader, hypercorn_server: AsgiServer
) -> None:
    hypercorn_server.answers["/"] = AsgiAnswer([b"x" * 50_000] * 10, 500)
    outcome = tls_reader.read(hypercorn_server.url + "/", ca=hypercorn_server.ca)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"x" * 65536


def test_endless_refused_body_is_bounded_in_time(
    tls_reader: Reader, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.3)
    hypercorn_server.answers["/"] = AsgiAnswer([b"more ", 0.02] * 100, 500)
    outcome = tls_reader.read(hypercorn_server.url + "/", ca=hypercorn_server.ca)
    assert isinstance(outcome.error, ResponseError)
    assert 0 < len(outcome.error.response.body) < 500


def test_refused_response_may_break_off(reader: Reader, faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED, status="500 Oops") + b"64\r\nhalf"]
    outcome = reader.read(faults.url + "/")
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"half"


@pytest.mark.parametrize(
    ("reader", "framing", "body"),
    cross(READERS, [CHUNKED, "Content-Length: 100", "X-Until: the end"], [b"begun", b""]),
)
def test_silent_refused_body_is_bounded_in_time(
    reader: Reader, faults: FaultServer, monkeypatch: pytest.MonkeyPatch, framing: str, body: bytes
) -> None:
    """The server holds the body open until the response was refused."""
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.2)
    hold = threading.Event()
    sent = b"%X\r\n%b\r\n" % (len(body), body) if body and framing == CHUNKED else body
    faults.scripts["/"] = [head(framing, status="500 Oops") + sent, hold]
    start = time.monotonic()
    outcome = reader.read(faults.url + "/")
    # The timeouts of the library and the server are longer.
    assert time.monotonic() - start < 5
    hold.set()
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == body


@pytest.mark.matrix
def test_silent_refused_body_over_tls_is_bounded(
    tls_reader: Reader, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 1.0)
    hold = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([b"begun", hold], 500)
    start = time.monotonic()
    outcome = tls_reader.read(hypercorn_server.url + "/", ca=hypercorn_server.ca)
    assert time.monotonic() - start < 5
    hold.set()
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"begun"
