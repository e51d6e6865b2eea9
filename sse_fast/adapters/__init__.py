"""iter_events and aiter_events: the events of a response, a file, a socket or an iterable.

Each other file adapts the objects of one library; `_registry` finds it by an object's type.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from sse_fast._check import acheck_response, open_events
from sse_fast._seconds import check_timeouts
from sse_fast._source import Source, as_async, qualified_type_name
from sse_fast._stream import AsyncEventStream, EndReason, EventStream, make_parser
from sse_fast.adapters._registry import open_source, register

if TYPE_CHECKING:
    from typing_extensions import TypeVar, Unpack

    from sse_fast._core.parser import Event
    from sse_fast._stream import ParserOptions
    from sse_fast._watch import Watch

    D = TypeVar("D", default=Any)
    T = TypeVar("T", default=str)

    class EventsOptions(ParserOptions[T], total=False):
        """The keywords of `iter_events` except `decode`."""

        check: bool
        on_chunk: Callable[[bytes], object] | None
        idle_timeout: float | None
        event_timeout: float | None
        progress: Callable[[Event[T]], object] | None


__all__ = ["aiter_events", "iter_events", "open_source", "register"]


@overload
def iter_events(
    source: object, *, decode: None = ..., **options: Unpack[EventsOptions[str]]
) -> EventStream[str]: ...
@overload
def iter_events(
    source: object,
    *,
    decode: Callable[[bytes], D] | Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[EventsOptions[D]],
) -> EventStream[D]: ...
def iter_events(
    source: Any,
    *,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    idle_timeout: float | None = None,
    event_timeout: float | None = None,
    progress: Callable[[Event[Any]], object] | None = None,
    **parser_options: Any,
) -> EventStream[Any]:
    """Iterate over the events of a source, each as soon as its bytes have arrived.

    Args:
        source: a response of requests, urllib3, httpx, httpx2 or http.client, whether its body was
            read or not; a binary file; a connected socket, after any response head; an iterable of
            bytes; or bytes.
        check: refuse a response whose status is not 200 or whose content type is not
            text/event-stream. A 204 is not refused: its stream ends immediately.
        on_chunk: called with the raw bytes as they arrive, before they are parsed.
        idle_timeout: seconds without a byte after which the response is given up; None: no limit.
            The time that the program spends between events does not count.
        event_timeout: seconds without an event after which the response is given up; None: no
            limit.
        progress: called with each event; `event_timeout` counts only those for which it is true, so
            that heartbeats sent as events do not hide a server that makes no progress.
        **parser_options: the keywords of `Parser`. Comments are delivered in order with events.

    Returns:
        The stream, which releases the response when it ends.

    Raises:
        TypeError: the object is not a source, is a source of text, or needs `aiter_events`.
        ValueError: a timeout is not above 0, or is set for a source whose reads cannot be ended: a
            file, a socket, an iterable, or a response of HTTP/2.
        ResponseError: the check failed; the response is closed.

    Iterating raises `TransportError`, with the exception of the source as its cause,
    `StreamTimeout`, and what `Parser.feed` raises.
    """
    parser, comments = make_parser(**parser_options)
    watch = _make_watch(idle_timeout, event_timeout, progress)
    opened = open_source(source)
    if not isinstance(opened.chunks, Iterable):
        raise TypeError(
            f"{qualified_type_name(source)} has an async body: use "
            "`async for event in sse_fast.aiter_events(...)`"
        )
    was_read = opened.response is not None and isinstance(opened.chunks, tuple)
    if watch is not None and opened.wake is None and not was_read:
        raise ValueError(
            f"Reads from {qualified_type_name(source)} cannot be ended by idle_timeout or "
            "event_timeout: set a timeout where the source was made, or use aiter_events"
        )
    return open_events(opened, parser, check, on_chunk, comments, watch)


@overload
def aiter_events(
    source: object, *, decode: None = ..., **options: Unpack[EventsOptions[str]]
) -> AsyncEventStream[str]: ...
@overload
def aiter_events(
    source: object,
    *,
    decode: Callable[[bytes], D] | Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[EventsOptions[D]],
) -> AsyncEventStream[D]: ...
def aiter_events(
    source: Any,
    *,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    idle_timeout: float | None = None,
    event_timeout: float | None = None,
    progress: Callable[[Event[Any]], object] | None = None,
    **parser_options: Any,
) -> AsyncEventStream[Any]:
    """Iterate over the events of an async source.

    The response is checked by `async with`, by `await`, or at the first event.

    Args:
        source: a response of aiohttp, or of an async client of httpx or httpx2; any response whose
            body was read; an async iterable of bytes; an `asyncio.StreamReader`; a connected
            non-blocking socket (asyncio); or bytes, an iterable of bytes or a binary file, whose
            reads block the event loop.
        check: as in `iter_events`.
        on_chunk: as in `iter_events`.
        idle_timeout: as in `iter_events`, for every source.
        event_timeout: as in `iter_events`, for every source.
        progress: as in `iter_events`.
        **parser_options: the keywords of `Parser`.

    Returns:
        The stream, which releases the response when it ends.

    Raises:
        TypeError: the object is not a source, is a source of text, or is a response of a
            synchronous client.

    Iterating raises `ResponseError`, and what `iter_events` raises.
    """
    parser, comments = make_parser(**parser_options)
    watch = _make_watch(idle_timeout, event_timeout, progress)
    opened = open_source(source)
    if not isinstance(opened.chunks, AsyncIterable):
        if opened.response is not None and not isinstance(opened.chunks, tuple):
            raise TypeError(
                f"{qualified_type_name(source)} comes from a synchronous client and would block "
                "the event loop: use iter_events, or an async client"
            )
        opened = as_async(opened)

    async def begin(chunks: AsyncIterator[bytes]) -> tuple[Source, EndReason | None]:
        return opened, await acheck_response(opened._replace(chunks=chunks))

    return AsyncEventStream(
        opened, parser, on_chunk, begin if check else None, comments=comments, watch=watch
    )


def _make_watch(
    idle_timeout: float | None,
    event_timeout: float | None,
    progress: Callable[[Event[Any]], object] | None,
) -> Watch | None:
    """Return the time limits of a stream, or None if there are none."""
    if idle_timeout is None and event_timeout is None and progress is None:
        return None
    check_timeouts(idle_timeout=idle_timeout, event_timeout=event_timeout)
    if progress is not None and not callable(progress):
        raise TypeError(f"Expected progress to be callable, got {qualified_type_name(progress)}")
    if progress is not None and event_timeout is None:
        raise ValueError("progress says which events event_timeout counts: set event_timeout too")
    # Imported late: few programs need it.
    from sse_fast._watch import Watch

    return Watch(idle_timeout, event_timeout, progress)


def __getattr__(name: str) -> Any:
    # `sse_fast.adapters.sockets.open_stream` is to work without an import of the module.
    if name == "sockets":
        # `from sse_fast.adapters import sockets` would call this function again.
        import sse_fast.adapters.sockets as sockets

        return sockets
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
