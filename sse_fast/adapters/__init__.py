"""iter_events, aiter_events, register: whatever a user holds becomes a stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from sse_fast._check import acheck_response, open_events
from sse_fast._core.parser import Parser
from sse_fast._source import Source, as_async, qualified_type_name
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters._registry import open_source, register

if TYPE_CHECKING:
    from typing_extensions import TypeVar, Unpack

    from sse_fast._stream import ParserOptions

    D = TypeVar("D")

__all__ = ["aiter_events", "iter_events", "open_source", "register"]


@overload
def iter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: None = ...,
    **parser_options: Unpack[ParserOptions[str]],
) -> EventStream[str]: ...
@overload
def iter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Callable[[bytes], D],
    **parser_options: Unpack[ParserOptions[D]],
) -> EventStream[D]: ...
@overload
def iter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Mapping[str, Callable[[bytes], D]],
    **parser_options: Unpack[ParserOptions[str | D]],
) -> EventStream[str | D]: ...
@overload
def iter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Mapping[str, Callable[[bytes], Any]],
    **parser_options: Unpack[ParserOptions[Any]],
) -> EventStream[Any]: ...
def iter_events(
    source: Any,
    *,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    **parser_options: Any,
) -> EventStream[Any]:
    """Iterate over the events of a source, each as soon as its bytes have arrived.

    Args:
        source: a response of requests, urllib3, httpx, httpx2 or http.client, not read yet or
            read already; a binary file; a connected socket (behind any response head); an
            iterable of bytes; bytes.
        check: refuse a response with another status than 200 or another content type than
            text/event-stream. A 204 is not refused: its stream ends at once.
        on_chunk: called with the raw bytes as they arrive, before they are parsed.
        **parser_options: the keywords of `Parser`.

    Raises:
        TypeError: not a source, or one of text, or one that wants `aiter_events`.
        ResponseError: the check failed; the response is closed.

    While iterating: `TransportError` with the source's own exception as its cause, and what
    `Parser.feed` raises.
    """
    parser: Parser[Any] = Parser(**parser_options)
    opened = open_source(source)
    if not isinstance(opened.chunks, Iterable):
        raise TypeError(
            f"Expected a source that is read without await, got {qualified_type_name(source)} "
            "with an async body: use `async for event in sse_fast.aiter_events(...)`"
        )
    return open_events(opened, parser, check, on_chunk)


@overload
def aiter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: None = ...,
    **parser_options: Unpack[ParserOptions[str]],
) -> AsyncEventStream[str]: ...
@overload
def aiter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Callable[[bytes], D],
    **parser_options: Unpack[ParserOptions[D]],
) -> AsyncEventStream[D]: ...
@overload
def aiter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Mapping[str, Callable[[bytes], D]],
    **parser_options: Unpack[ParserOptions[str | D]],
) -> AsyncEventStream[str | D]: ...
@overload
def aiter_events(
    source: object,
    *,
    check: bool = ...,
    on_chunk: Callable[[bytes], object] | None = ...,
    decode: Mapping[str, Callable[[bytes], Any]],
    **parser_options: Unpack[ParserOptions[Any]],
) -> AsyncEventStream[Any]: ...
def aiter_events(
    source: Any,
    *,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    **parser_options: Any,
) -> AsyncEventStream[Any]:
    """The async twin of `iter_events`; the check comes when the first event is asked for.

    Args:
        source: a response of httpx or httpx2 from an async client, or any response that was read
            already; an async iterable of bytes; an `asyncio.StreamReader`; a connected
            non-blocking socket (asyncio); bytes, an iterable of bytes or a binary file (whose
            reads hold up the event loop).
        check: as in `iter_events`.
        on_chunk: as in `iter_events`.
        **parser_options: the keywords of `Parser`.

    Raises:
        TypeError: not a source, or one of text, or a response of a synchronous client.

    While iterating: `ResponseError`, and what `iter_events` raises.
    """
    parser: Parser[Any] = Parser(**parser_options)
    opened = open_source(source)
    if not isinstance(opened.chunks, AsyncIterable):
        if opened.response is not None and not isinstance(opened.chunks, tuple):
            raise TypeError(
                f"Expected a source that is read with await, got {qualified_type_name(source)} "
                "of a synchronous client, which would hold up the event loop: use iter_events, "
                "or an async client"
            )
        opened = as_async(opened)

    async def begin() -> tuple[Source, EndReason | None]:
        return opened, await acheck_response(opened)

    return AsyncEventStream(opened, parser, on_chunk, begin if check else None)


def __getattr__(name: str) -> Any:
    # `sse_fast.adapters.sockets.open_stream` without an import of its own, as it is for users.
    if name == "sockets":
        import sse_fast.adapters.sockets as sockets  # by attribute: it recurses

        return sockets
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
