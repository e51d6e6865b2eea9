"""Drop-in for httpx-sse 0.4: `import sse_fast.compat.httpx_sse as httpx_sse`.

docs/guides/other-parsers.md lists the differences from the original.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any

try:
    import httpx
except ModuleNotFoundError:
    raise ImportError(
        "The library 'httpx' is not installed: pip install 'sse-fast[httpx]'"
    ) from None

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._dialect_parser import DialectParser
from sse_fast.compat._hooks import LIBRARIES, Hook

__all__ = [
    "EventSource",
    "SSEError",
    "ServerSentEvent",
    "__version__",
    "aconnect_sse",
    "connect_sse",
]

__version__ = "0.4.3"
"""The version of httpx-sse whose API this module has."""

LIBRARY = LIBRARIES["httpx_sse"]


class SSEError(httpx.TransportError):
    """The response is not an event stream."""


class ServerSentEvent:
    """One event.

    Attributes:
        event: The event type; "message" if the stream names none.
        data: The values of the data lines, joined with LF.
        id: The last event ID in force, or "".
        retry: The reconnection time in ms that this event sets, or None.
    """

    def __init__(
        self,
        event: str | None = None,
        data: str | None = None,
        id: str | None = None,
        retry: int | None = None,
    ) -> None:
        self._event = event or "message"
        self._data = "" if data is None else data
        self._id = "" if id is None else id
        self._retry = retry

    @property
    def event(self) -> str:
        """The event type."""
        return self._event

    @property
    def data(self) -> str:
        """The data."""
        return self._data

    @property
    def id(self) -> str:
        """The last event ID."""
        return self._id

    @property
    def retry(self) -> int | None:
        """The reconnection time in ms, or None."""
        return self._retry

    def json(self) -> Any:
        """Parse the data as JSON."""
        return json.loads(self.data)

    def __repr__(self) -> str:
        values = [f"event={self.event!r}"]
        if self.data != "":
            values.append(f"data={self.data!r}")
        if self.id != "":
            values.append(f"id={self.id!r}")
        if self.retry is not None:
            values.append(f"retry={self.retry!r}")
        return f"ServerSentEvent({', '.join(values)})"


def _dialect(event_class: type) -> Dialect:
    return Dialect(
        event_class,
        ("_event", "_data", "_id", "_retry"),
        dispatch_values=True,
        read_retry=int,
    )


def _parser(dialect: Dialect) -> DialectParser:
    # The original does not limit the size of an event.
    return DialectParser(dialect, max_event_size=sys.maxsize)


def _has_bytes(response: Any, method: str) -> bool:
    """Return whether to parse the bytes of a response instead of the text from `method`.

    The text is needed if the response is a stand-in, overrides `method`, or is not UTF-8.
    """
    defined_in = getattr(getattr(response, method, None), "__module__", None)
    if defined_in not in ("httpx._models", "httpx2._models"):
        return False
    return codecs.lookup(response.encoding or "utf-8").name == "utf-8"


def _iter_events(response: Any, dialect: Dialect) -> Iterator[Any]:
    feed = _parser(dialect).feed
    if _has_bytes(response, "iter_text"):
        for chunk in response.iter_bytes():
            yield from feed(chunk)
    else:
        for text in response.iter_text():
            yield from feed(text.encode("utf-8", "surrogatepass"))


async def _aiter_events(response: Any, dialect: Dialect) -> AsyncGenerator[Any, None]:
    feed = _parser(dialect).feed
    if _has_bytes(response, "aiter_text"):
        async for chunk in response.aiter_bytes():
            for event in feed(chunk):
                yield event
    else:
        async for text in response.aiter_text():
            for event in feed(text.encode("utf-8", "surrogatepass")):
                yield event


class EventSource:
    """Reads the events of a response.

    Args:
        response: A response of `httpx`, or a stand-in. Its body may have been read already.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @property
    def response(self) -> httpx.Response:
        """The response that is read."""
        return self._response

    def _check_content_type(self) -> None:
        content_type = self._response.headers.get("content-type", "").partition(";")[0]
        if "text/event-stream" not in content_type:
            raise SSEError(
                "Expected response header Content-Type to contain 'text/event-stream', "
                f"got {content_type!r}"
            )

    def iter_sse(self) -> Iterator[ServerSentEvent]:
        """Yield the events of a response of `httpx.Client`.

        Raises:
            SSEError: The response has another content type.
            httpx.HTTPError: Reading the body failed.
        """
        self._check_content_type()
        yield from _iter_events(self._response, _DIALECT)

    async def aiter_sse(self) -> AsyncGenerator[ServerSentEvent, None]:
        """Yield the events of a response of `httpx.AsyncClient`, like `iter_sse`."""
        self._check_content_type()
        events = _aiter_events(self._response, _DIALECT)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()


_DIALECT = _dialect(ServerSentEvent)


def _event_stream_headers(headers: Any) -> httpx.Headers:
    """Return a copy of the caller's headers with those for an event stream."""
    fields = httpx.Headers(headers)
    fields["Accept"] = "text/event-stream"
    fields["Cache-Control"] = "no-store"
    return fields


@contextmanager
def connect_sse(
    client: httpx.Client, method: str, url: str | httpx.URL, **kwargs: Any
) -> Iterator[EventSource]:
    """Request an event stream, and yield the response as an `EventSource`.

    Args:
        client: Sends the request.
        method: The request method, for example "GET".
        url: The URL, absolute or relative to the client's `base_url`.
        kwargs: Further arguments of `client.stream()`.
    """
    headers = _event_stream_headers(kwargs.pop("headers", None))
    with client.stream(method, url, headers=headers, **kwargs) as response:
        yield EventSource(response)


@asynccontextmanager
async def aconnect_sse(
    client: httpx.AsyncClient, method: str, url: str | httpx.URL, **kwargs: Any
) -> AsyncIterator[EventSource]:
    """Request an event stream with an `httpx.AsyncClient`, like `connect_sse`."""
    headers = _event_stream_headers(kwargs.pop("headers", None))
    async with client.stream(method, url, headers=headers, **kwargs) as response:
        yield EventSource(response)


@cache
def _methods(event_class: type) -> tuple[Any, Any]:
    """Return `iter_sse` and `aiter_sse` that make events of this class.

    Cached, because a hook is recognized by the identity of its replacement.
    """
    dialect = _dialect(event_class)

    def iter_sse(self: Any) -> Iterator[Any]:
        self._check_content_type()
        yield from _iter_events(self._response, dialect)

    async def aiter_sse(self: Any) -> AsyncGenerator[Any, None]:
        self._check_content_type()
        events = _aiter_events(self._response, dialect)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    return iter_sse, aiter_sse


def _load() -> None:
    import httpx_sse
    import httpx_sse._api  # noqa: F401


def find_hooks() -> list[Hook]:
    """Return the hooks for `install()`, which keep the original's own classes."""
    api = LIBRARY.load_module("httpx_sse._api", _load)
    original = LIBRARY.find_part(api, "EventSource", "response")
    LIBRARY.find_part(original, "_check_content_type", "self")
    LIBRARY.find_part(original, "iter_sse", "self")
    LIBRARY.find_part(original, "aiter_sse", "self")
    iter_sse, aiter_sse = _methods(
        LIBRARY.find_part(api, "ServerSentEvent", "event, data, id, retry")
    )
    return [Hook(original, "iter_sse", iter_sse), Hook(original, "aiter_sse", aiter_sse)]


def read_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Read a stream with httpx-sse, with or without the hooks installed."""
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(chunks)
    )
    import httpx_sse

    events: Iterator[Any] = httpx_sse.EventSource(response).iter_sse()
    return events
