"""`compat.httpx_sse` and the original behave alike over servers and transports."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import httpx
import pytest

from tests.support.compat_pairs import (
    BACKENDS,
    EVENTS,
    HTTPX_SSE,
    STREAM,
    Fault,
    chunks,
    compare_httpx_sse,
    raised,
    run,
    values,
)
from tests.support.libraries import EVENT_STREAM
from tests.support.server import Answer, Server
from tests.support.threaded_reader import OF_TRIO

# The server has no TLS, and loading the system's authorities for each client takes time.
UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def sync_events(module: Any, url: str, **options: Any) -> Any:
    """Return the events of the body and the error after them."""
    client = options.pop("client", {})
    with (
        httpx.Client(timeout=5, verify=UNUSED, **client) as http,
        module.connect_sse(http, options.pop("method", "GET"), url, **options) as source,
    ):
        assert type(source) is module.EventSource
        seen: list[Any] = []
        error = None
        try:
            for event in source.iter_sse():
                seen += values([event])
        except httpx.HTTPError as caught:
            error = type(caught).__name__, str(caught), caught.request.method
    assert source.response.is_closed
    return seen, error


async def async_events(module: Any, url: str, **options: Any) -> Any:
    client = options.pop("client", {})
    async with (
        httpx.AsyncClient(timeout=5, verify=UNUSED, **client) as http,
        module.aconnect_sse(http, options.pop("method", "GET"), url, **options) as source,
    ):
        assert type(source) is module.EventSource
        seen: list[Any] = []
        error = None
        try:
            async for event in source.aiter_sse():
                seen += values([event])
        except httpx.HTTPError as caught:
            error = type(caught).__name__, str(caught), caught.request.method
    assert source.response.is_closed
    return seen, error


WAYS = pytest.mark.parametrize("way", ["sync", "asyncio", pytest.param("trio", marks=OF_TRIO)])


def over_http(way: str, url: str, **options: Any) -> Any:
    """Read with both modules, and return the result if it is the same."""
    if way == "sync":
        return compare_httpx_sse(lambda module: sync_events(module, url, **options))
    return compare_httpx_sse(lambda module: run(way, lambda: async_events(module, url, **options)))


@WAYS
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_events_over_http_framings(server: Server, way: str, framing: str) -> None:
    server.answers["/events"] = Answer(chunks(), framing)
    assert over_http(way, f"{server.url}/events") == (EVENTS, None)


@WAYS
def test_request_is_the_same(server: Server, way: str) -> None:
    server.answers["/events"] = Answer([STREAM])
    options = {
        "method": "POST",
        "json": {"a": 1},
        "params": {"q": "x"},
        "headers": {"X-Any": "1", "Accept": "*/*"},
        "cookies": {"c": "1"},
        "client": {"base_url": server.url, "headers": {"X-Client": "2"}},
    }
    of_way = sync_events if way == "sync" else async_events
    for module in HTTPX_SSE:
        # A copy for each, since the original changes the dict.
        given_to = {**options, "headers": dict(options["headers"])}  # type: ignore[call-overload]
        result = of_way(module, "/events", **given_to)
        assert (result if way == "sync" else run(way, lambda r=result: r)) == (EVENTS, None)
    theirs, ours = server.requests

    def shown(request: Any) -> Any:
        fields = {name: value for name, value in request.headers.items() if name != "host"}
        return request.method, request.path, request.body, fields

    assert shown(ours) == shown(theirs)
    assert theirs.method == "POST"
    assert theirs.headers["accept"] == "text/event-stream"
    assert theirs.headers["cache-control"] == "no-store"
    assert theirs.headers["x-client"] == "2"


@WAYS
def test_truncated_body_raises_after_events(server: Server, way: str) -> None:
    server.answers["/events"] = Answer(chunks(), "cut")
    events, error = over_http(way, f"{server.url}/events")
    assert events == EVENTS
    assert error[0] == "RemoteProtocolError"


@WAYS
def test_read_timeout_raises_after_events(server: Server, way: str) -> None:
    held = threading.Event()
    server.answers["/events"] = Answer([STREAM], hold=held)
    # A busy machine may need long to send the events.
    timeout = httpx.Timeout(5, read=0.5)
    events, error = over_http(way, f"{server.url}/events", timeout=timeout)
    held.set()
    assert events == EVENTS
    assert error[0] == "ReadTimeout"


@WAYS
def test_gzip_body_and_wrong_coding(server: Server, way: str) -> None:
    server.answers["/events"] = Answer(chunks(), gzip=True)
    assert over_http(way, f"{server.url}/events") == (EVENTS, None)
    wrong = {**Answer([]).headers, "Content-Encoding": "gzip"}
    server.answers["/events"] = Answer([STREAM], headers=wrong)
    events, error = over_http(way, f"{server.url}/events")
    assert (events, error[0]) == ([], "DecodingError")


@WAYS
@pytest.mark.parametrize("status", [200, 404])
def test_other_content_type_raises_sse_error(server: Server, way: str, status: int) -> None:
    """Only the content type is checked, not the status."""
    server.answers["/events"] = Answer([STREAM], status=status, headers={"Content-Type": "a/b"})
    url = f"{server.url}/events"
    calls = {
        "sync": lambda module: raised(lambda: sync_events(module, url)),
    }
    call = calls.get(
        way, lambda module: raised(lambda: run(way, lambda: async_events(module, url)))
    )
    # The error has no request, so accessing it raises RuntimeError.
    assert compare_httpx_sse(call)[0] == "RuntimeError"
    server.answers["/events"] = Answer([STREAM], status=status)
    assert over_http(way, url) == (EVENTS, None)


@WAYS
def test_leaving_early_closes_response(server: Server, way: str) -> None:
    held = threading.Event()
    server.answers["/events"] = Answer([STREAM], hold=held)
    url = f"{server.url}/events"

    def read(module: Any) -> Any:
        with httpx.Client(verify=UNUSED) as http, module.connect_sse(http, "GET", url) as source:
            event = next(iter(source.iter_sse()))
        return values([event]), source.response.is_closed

    async def aread(module: Any) -> Any:
        async with (
            httpx.AsyncClient(verify=UNUSED) as http,
            module.aconnect_sse(http, "GET", url) as source,
        ):
            events = source.aiter_sse()
            event = await events.__anext__()
            await events.aclose()
        return values([event]), source.response.is_closed

    seen = compare_httpx_sse(
        read if way == "sync" else lambda module: run(way, lambda: aread(module))
    )
    held.set()
    assert seen == (EVENTS[:1], True)


@WAYS
def test_exception_in_block_closes_response(server: Server, way: str) -> None:
    server.answers["/events"] = Answer([STREAM])
    url = f"{server.url}/events"
    for module in HTTPX_SSE:
        sources = []

        def read(module: Any = module, sources: list[Any] = sources) -> None:
            with (
                httpx.Client(verify=UNUSED) as http,
                module.connect_sse(http, "GET", url) as source,
            ):
                sources.append(source)
                raise Fault

        async def aread(module: Any = module, sources: list[Any] = sources) -> None:
            async with (
                httpx.AsyncClient(verify=UNUSED) as http,
                module.aconnect_sse(http, "GET", url) as source,
            ):
                sources.append(source)
                raise Fault

        with pytest.raises(Fault):
            read() if way == "sync" else run(way, aread)
        assert sources[0].response.is_closed


@BACKENDS
def test_events_over_asgi(backend: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert dict(scope["headers"])[b"accept"] == b"text/event-stream"
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in chunks():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(app=app)
    seen = over_http(backend, "http://test/", client={"transport": transport})
    assert seen == (EVENTS, None)


def test_events_over_wsgi_and_mock_transports() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENT_STREAM, content=STREAM)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return chunks()

    for transport in (httpx.MockTransport(handler), httpx.WSGITransport(app=app)):
        seen = over_http("sync", "http://test/", client={"transport": transport})
        assert seen == (EVENTS, None)
