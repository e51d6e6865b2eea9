"""iter_events, aiter_events, register: whatever a user holds becomes a stream of events.

The adapter is found by the name of the object's type, so that no library is imported to look.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._errors import ResponseError, StreamTimeout, TransportError, layers
from sse_fast._parser import Parser
from sse_fast._source import READ_SIZE, REDIRECTS, Response, Source, without_secrets
from sse_fast._stream import AsyncEventStream, EndReason, EventStream

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from typing_extensions import TypeVar, Unpack

    from sse_fast._stream import ParserOptions

    D = TypeVar("D")
    T = TypeVar("T")
    Adapter = Callable[[Any], Source | Iterable[bytes] | AsyncIterable[bytes]]

__all__ = [
    "acheck_response",
    "aiter_events",
    "as_async",
    "check_response",
    "iter_events",
    "object_to",
    "open_events",
    "open_source",
    "register",
    "request_failed",
    "running_trio",
    "sender",
    "waker",
]

_ADAPTERS: dict[str, str | Adapter] = {
    "aiohttp.client_reqrep.ClientResponse": "aiohttp",
    "asyncio.streams.StreamReader": "asyncio",
    "http.client.HTTPResponse": "http_client",
    "httpx.Response": "httpx",
    "httpx2.Response": "httpx",
    "requests.models.Response": "requests",
    "socket.socket": "sockets",
    "urllib3.response.HTTPResponse": "urllib3",
}
"""Type name -> adapter, or the module here whose `open_source` is the adapter."""

_CLIENTS: dict[str, tuple[str, bool]] = {
    "aiohttp.client.ClientSession": ("aiohttp", True),
    "httpx.AsyncClient": ("httpx", True),
    "httpx.Client": ("httpx", False),
    "httpx2.AsyncClient": ("httpx", True),
    "httpx2.Client": ("httpx", False),
    "requests.sessions.Session": ("requests", False),
    "urllib3.poolmanager.PoolManager": ("urllib3", False),
}
"""Type name of a client -> the module here that sends by it, and whether that is awaited."""

_MAX_BODY = 64 * 1024
_MAX_BODY_SECONDS = 2.0
_WANTED = (
    "a response, a binary file, a socket, an iterable of bytes or bytes; "
    "sse_fast.register() takes a type of your own"
)


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
            f"Expected a source that is read without await, got {_type_name(source)} with an "
            "async body: use `async for event in sse_fast.aiter_events(...)`"
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
                f"Expected a source that is read with await, got {_type_name(source)} of a "
                "synchronous client, which would hold up the event loop: use iter_events, "
                "or an async client"
            )
        opened = as_async(opened)

    async def begin() -> tuple[Source, EndReason | None]:
        return opened, await acheck_response(opened)

    return AsyncEventStream(opened, parser, on_chunk, begin if check else None)


def register(type_name: str, adapter: Adapter) -> None:
    """Teach `iter_events` and `aiter_events` a type of your own.

    Args:
        type_name: module and qualified name of the class, `"package.module.Class"`; its
            subclasses are taken too.
        adapter: called with the object; returns an iterable or async iterable of its bytes as
            they arrive.

    Raises:
        TypeError: `type_name` is not a str, or `adapter` not callable.
    """
    if not isinstance(type_name, str):
        raise TypeError(
            f"Expected the name of a type as a str, got {_type_name(type_name)}: "
            "'package.module.Class'"
        )
    if not callable(adapter):
        raise TypeError(f"Expected adapter to be callable, got {_type_name(adapter)}")
    _ADAPTERS[type_name] = adapter


def __getattr__(name: str) -> Any:
    # `sse_fast.adapters.sockets.open_stream` without an import of its own, as it is for users.
    if name == "sockets":
        return _sockets()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_events(
    opened: Source,
    parser: Parser[T],
    check: bool,
    on_chunk: Callable[[bytes], object] | None,
) -> EventStream[T]:
    """The stream of what an adapter opened; its response is looked at, if `check` says so.

    Raises:
        ResponseError: the check failed; the response is closed.
    """
    assert isinstance(opened.chunks, Iterable)
    opened = opened._replace(chunks=iter(opened.chunks))
    reason = check_response(opened) if check else None
    stream: EventStream[T] = EventStream(opened, parser, on_chunk)
    if reason is not None:
        stream.end_reason = reason
        stream.close()
    return stream


def check_response(opened: Source, objection: str = "") -> EndReason | None:
    """The check of a source: why its stream is over at once, or None.

    `objection` is what there is to say against the response beforehand.

    Raises:
        ResponseError: the check failed; the response is closed.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or object_to(response)
    if objection:
        _read_refused(opened, response)
        raise _response_error(objection, response)
    if response.status != 204:
        return None
    # Read to its end, so that the connection is free for the next request.
    with suppress(Exception):
        next(cast("Iterator[bytes]", opened.chunks), None)
    return EndReason.NO_CONTENT


def open_source(source: Any) -> Source:
    """What `iter_events` reads of an object: its chunks, its response, how it is closed.

    Raises:
        TypeError: not a source, or one of text.
    """
    if isinstance(source, Source):
        return source
    for cls in type(source).__mro__:
        adapter = _ADAPTERS.get(f"{cls.__module__}.{cls.__qualname__}")
        if adapter is not None:
            if isinstance(adapter, str):
                adapter = cast("Adapter", import_module(f"{__name__}.{adapter}").open_source)
            opened = adapter(source)
            return opened if isinstance(opened, Source) else _open_plain(opened)
    return _open_plain(source)


def sender(client: Any, *, is_async: bool) -> Callable[..., Any]:
    """What sends a `Request` by a client, which is None for sockets of our own: a function of the
    request and the seconds to connect and to wait for a byte; it gives the `Source`, which is to
    be awaited if `is_async`. It follows no redirects.

    Raises:
        TypeError: no client, or one of the other kind.
        ImportError: httptools is missing, which sockets of our own want, or anyio.
    """
    name = "asend" if is_async else "send"
    # What is missing is missed here, before anything is asked.
    if is_async:
        try:
            import_module("anyio")
        except ImportError:
            raise ImportError(
                "Expected anyio for AsyncEventSource, got none: pip install 'sse-fast[client]'"
            ) from None
    if client is None:
        import_module(f"{__name__}._http1").load_httptools()
        return cast("Callable[..., Any]", partial(getattr(_sockets(), name), None))
    for cls in type(client).__mro__:
        file, awaited = _CLIENTS.get(f"{cls.__module__}.{cls.__qualname__}", ("", is_async))
        if awaited != is_async:
            other = "AsyncEventSource" if awaited else "EventSource"
            raise TypeError(
                f"Expected a client whose calls are {'' if is_async else 'not '}awaited, got "
                f"{_type_name(client)}: use {other}"
            )
        if file:
            return partial(getattr(import_module(f"{__name__}.{file}"), name), client)
    raise TypeError(
        "Expected a requests.Session, a urllib3.PoolManager, a client of httpx or httpx2 or an "
        f"aiohttp.ClientSession, got {_type_name(client)}"
    )


def request_failed(url: str, error: Exception, unsent: AbstractSet[str]) -> TransportError:
    """What a library raised instead of a response. `unsent` are the names of the errors that
    nothing of the request was sent before."""
    all_layers = list(layers(error))
    names = {cls.__name__ for each in all_layers for cls in type(each).__mro__}
    sent = not names & unsent
    # Not by what they are derived from: to urllib3, a refused connection is a kind of time-out.
    timeout = any("Timeout" in type(each).__name__ for each in all_layers)
    kind = StreamTimeout if timeout else TransportError
    # Not the text of the library's own errors, which show the query.
    reasons = (each.strerror for each in all_layers if isinstance(each, OSError))
    reason = next((each for each in reasons if isinstance(each, str)), type(error).__name__)
    return kind(
        f"Expected a {'response of' if sent else 'connection to'} {without_secrets(url)}, got: "
        f"{reason}",
        phase="head" if sent else "connect",
        sent=sent,
    )


def _sockets() -> Any:
    return import_module(f"{__name__}.sockets")


def _open_plain(source: Any) -> Source:
    if isinstance(source, str):
        raise TypeError(f"Expected {_WANTED}, got str: open(path, 'rb') reads a file")
    if isinstance(source, os.PathLike):
        raise TypeError(f"Expected {_WANTED}, got a path: open(path, 'rb') reads a file")
    if isinstance(source, io.IOBase) or _has_read(source):
        return _open_file(source)
    if not isinstance(source, bytes):
        # Copied, as it could change: it is parsed slice by slice, later.
        with suppress(TypeError):
            source = bytes(memoryview(source))
    if isinstance(source, bytes):
        return Source((source,))
    # A mapping or a set is a mistake: its parts have no order that a stream could have.
    unordered = isinstance(source, (Mapping, AbstractSet))
    if isinstance(source, (Iterable, AsyncIterable)) and not unordered:
        return Source(source)
    raise TypeError(f"Expected {_WANTED}, got {_type_name(source)}")


def _has_read(source: Any) -> bool:
    """Whether it is like a file; one whose read() has to be awaited is not."""
    read = getattr(source, "read", None)
    if not callable(read) or isinstance(source, AsyncIterable):
        return False
    # Here, as few programs come this way and it takes a while to load.
    import inspect

    return not inspect.iscoroutinefunction(read)


def _open_file(file: Any) -> Source:
    if isinstance(getattr(file, "file", file), io.TextIOBase):
        raise TypeError(f"Expected {_WANTED}, got a text file: open it with mode 'rb'")
    raw = getattr(file, "raw", file)
    # Windows has no get_blocking() before Python 3.12, and no such files.
    can_tell = isinstance(raw, io.FileIO) and hasattr(os, "get_blocking")
    if can_tell and not os.get_blocking(raw.fileno()):
        # When nothing is there yet, it looks as if it were at its end.
        raise TypeError(
            f"Expected {_WANTED}, got a non-blocking file: os.set_blocking(fd, True) changes it"
        )
    # read() would wait until the buffer is full; read1() returns what there is.
    read = getattr(file, "read1", file.read)
    return Source(iter(lambda: read(READ_SIZE), b""))


def as_async(opened: Source) -> Source:
    """The same, with chunks that are awaited."""
    chunks = iter(cast("Iterable[bytes]", opened.chunks))
    close = opened.close or getattr(chunks, "close", None)

    async def each() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def aclose() -> None:
        if close is not None:
            close()

    return opened._replace(chunks=each(), close=aclose)


async def acheck_response(opened: Source, objection: str = "") -> EndReason | None:
    """The async twin of `check_response`.

    Raises:
        ResponseError: the check failed; the response is still to be closed.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or object_to(response)
    if not objection:
        if response.status != 204:
            return None
        # Read to its end, so that the connection is free for the next request.
        with suppress(Exception):
            async for _ in cast("AsyncIterable[bytes]", opened.chunks):
                break
        return EndReason.NO_CONTENT
    with suppress(Exception):
        await _within(_MAX_BODY_SECONDS, _aread_refused(opened, response))
    raise _response_error(objection, response)


def _read_refused(opened: Source, response: Response) -> None:
    """The beginning of the body, into `response.body`; then the response is closed."""
    chunks: Iterable[bytes] = cast("Iterable[bytes]", opened.chunks)
    body = bytearray()
    deadline = time.monotonic() + _MAX_BODY_SECONDS

    def read() -> None:
        try:
            with suppress(Exception):
                for chunk in chunks:
                    body.extend(chunk)
                    if len(body) >= _MAX_BODY or time.monotonic() > deadline:
                        break
        finally:
            with suppress(Exception):
                if opened.close is not None:
                    opened.close()

    wake = opened.wake
    if wake is not None:

        def wake_quietly() -> None:
            with suppress(Exception):
                wake()

        timer = threading.Timer(_MAX_BODY_SECONDS, wake_quietly)
        timer.daemon = True
        timer.start()
        try:
            read()
        finally:
            timer.cancel()
    else:
        # A read that nothing can end without harm to others, as in HTTP/2, goes on by itself.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_MAX_BODY_SECONDS)
    response.body = bytes(body[:_MAX_BODY])


async def _aread_refused(opened: Source, response: Response) -> None:
    async for chunk in cast("AsyncIterable[bytes]", opened.chunks):
        response.body = (response.body + chunk)[:_MAX_BODY]
        if len(response.body) == _MAX_BODY:
            break


async def _within(seconds: float, what: Coroutine[Any, Any, None]) -> None:
    """Await it for so long; what it is cut short of raises, or ends quietly."""
    if (trio := running_trio()) is not None:
        with trio.move_on_after(seconds):
            await what
        return
    # Here, as most programs are synchronous.
    import asyncio

    # Not by wait_for(), which before Python 3.12 may lose a cancellation.
    task = asyncio.ensure_future(what)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        # Nothing else can read or close the source before that has come to its end.
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def running_trio() -> Any:
    """The module `trio`, within a run of its; else None."""
    # It may be in the midst of its import, by another thread.
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return trio if lowlevel is not None and lowlevel.in_trio_run() else None


def object_to(response: Response) -> str:
    """Why the response carries no event stream; "": it does, or is a 204."""
    where = f": {without_secrets(response.url)}" if response.url else ""
    if response.status == 204:
        return ""
    if response.status in REDIRECTS and "location" in response.headers:
        return (
            f"Expected status 200 and no redirect, got {response.status}{where}; "
            "response.headers['location'] says where it leads"
        )
    if response.status != 200:
        return f"Expected status 200, got {response.status}{where}"
    content_type = response.headers.get("content-type", "").strip()
    essence = content_type.partition(";")[0].split(maxsplit=1)
    if not essence or essence[0].casefold() != "text/event-stream":
        got = repr(content_type) if content_type else "none"
        return f"Expected content type 'text/event-stream', got {got}{where}"
    return ""


def _response_error(objection: str, response: Response) -> ResponseError:
    """Retry-After is a number of seconds or a date (RFC 9110, 10.2.3)."""
    # Here, as it would bring half the email package and socket into `import sse_fast`.
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    value = response.headers.get("retry-after", "").strip()
    delay: float | None = None
    if value.isascii() and value.isdigit():
        delay = float(value)
    elif value:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(value)
            # Where it names no zone, GMT is meant.
            date = date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
            delay = max(0.0, date.timestamp() - time.time())
    return ResponseError(objection, response, delay)


def waker(sock: Any) -> Callable[[], object]:
    """What wakes a reader of that socket, from any thread: it will see the end of the connection.

    Closing would not do it, and waits for the locks that the reader holds.
    """
    import socket

    if isinstance(sock, socket.socket):
        # Not what ssl.SSLSocket makes of it, which takes the session away under the reader.
        return partial(socket.socket.shutdown, sock, socket.SHUT_RDWR)

    def wake() -> None:
        # What trio and asyncio show of their sockets; uvloop, and urllib3 for TLS within TLS, show
        # no more than the number.
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except (TypeError, AttributeError):
            with socket.socket(fileno=os.dup(sock.fileno())) as twin:
                twin.shutdown(socket.SHUT_RDWR)

    return wake


def _type_name(value: object) -> str:
    cls = type(value)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
