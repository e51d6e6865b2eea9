"""EventStream and AsyncEventStream: a parser over a source of chunks, sync and async.

What the two share (slicing, the tap, the order of events and errors, how it all ends) is in
`_Stream`; each of them only reads the next chunk and closes the source in its own way.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, NamedTuple
from urllib.parse import urlsplit

from sse_fast._errors import DecodeError, EventTooLarge, SSEError, StreamTimeout, TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from typing_extensions import Self, TypedDict, TypeVar

    from sse_fast._parser import Event, Parser

    T = TypeVar("T", default=str)

    class ParserOptions(TypedDict, Generic[T], total=False):
        """The keywords of `Parser`, but for `decode`."""

        last_event_id: str
        max_event_size: int
        on_comment: Callable[[str], object] | None
        until: str | Callable[[Event[T]], object] | None
else:
    from typing import TypeVar

    T = TypeVar("T")

READ_SIZE = 64 * 1024
"""The most bytes to ask a source for, and to give to one `feed`, in bytes: no larger batch of
events is ever held."""


class EndReason(enum.Enum):
    """Why a stream came to its end."""

    UNTIL = "until"
    """`until` was met."""
    END = "end"
    """The source ended; `pending` says whether it did so in the middle of an event."""
    NO_CONTENT = "no content"
    """The server answered 204: there is nothing to read and nothing to ask again for."""
    CLOSED = "closed"
    """`close()` was called, or `with` was left."""
    ERROR = "error"
    """An exception was raised."""


class Headers(Mapping[str, str]):
    """The fields of a response head: names in any case; fields of one name joined by ", "."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in fields:
            name = name.lower()
            self._fields[name] = f"{self._fields[name]}, {value}" if name in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        # Names only: values may be secret.
        return f"<Headers {', '.join(self._fields)}>"


class Response:
    """The response that carries a stream: the same face whichever library made it.

    Attributes:
        status: the status code.
        headers: the header fields; their names compare without regard to case.
        url: the URL as the library knows it; "" if it does not.
        raw: the library's own response.
        body: at most the first 64 KiB of the body, if the response was refused; else b"".
    """

    __slots__ = ("body", "headers", "raw", "status", "url")

    def __init__(self, status: int, headers: Mapping[str, str], url: str, raw: Any) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.raw = raw
        self.body = b""

    def __repr__(self) -> str:
        return f"<Response {self.status} {without_secrets(self.url)}>"


def without_secrets(url: str) -> str:
    """Scheme, host and path of a URL: what may be shown in logs and messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Source(NamedTuple):
    """What an adapter makes of the object that the user holds."""

    chunks: Iterable[bytes] | AsyncIterable[bytes]
    """Bytes as they arrive. An async client's are async."""
    close: Callable[[], Any] | None = None
    """Gives the connection free; awaited if the chunks are async. None: the source is borrowed."""
    response: Response | None = None
    """None: a file, a socket, an iterable."""


def spent_body() -> Iterator[bytes]:
    """The chunks of a body that is gone: an error, where libraries would show an empty body."""
    raise TransportError(
        "Expected a body that was not read yet, got one that was read or closed before: "
        "nothing of it is left"
    )
    yield b""


class _Stream(Generic[T]):
    """What both kinds of stream have in common: all but reading and closing."""

    response: Response | None
    end_reason: EndReason | None
    _reading = False

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
    ) -> None:
        self.response = source.response
        self.end_reason = None
        self._parser = parser
        self._on_chunk = on_chunk
        # How the source is closed, until that has been done. A list, as taking from it is one step:
        # two threads that close at once do it once.
        self._closers: list[Callable[[], Any]] = []
        # The latest events to come out of the parser, and those of them not handed over yet.
        self._batch: list[Event[T]] = []
        self._events: Iterator[Event[T]] = iter(self._batch)
        # An error that stands behind the events of the batch.
        self._error: DecodeError | EventTooLarge | None = None
        # Whether the parser keeps events back, as a callback raised.
        self._kept_back = False
        self._id_before_batch = parser.last_event_id
        self._id_when_closed: str | None = None
        # What has arrived and was not fed yet; None: nothing, a read is due.
        self._unfed: bytes | memoryview | None = None
        self._interrupted = False

    @property
    def last_event_id(self) -> str:
        """The last event ID in force after the last event that was handed over."""
        if self._id_when_closed is not None:
            return self._id_when_closed
        ahead = length_hint(self._events)
        if not ahead and self._error is None and not self._kept_back:
            return self._parser.last_event_id
        handed_over = len(self._batch) - ahead
        return self._batch[handed_over - 1].id if handed_over else self._id_before_batch

    @property
    def retry(self) -> int | None:
        """The reconnection time that the server asked for, in ms, or None."""
        return self._parser.retry

    @property
    def pending(self) -> bool:
        """Whether the bytes so far end within an event; after the end, whether it was cut off."""
        return self._parser.pending

    def _end(self, reason: EndReason) -> None:
        if self.end_reason is None:
            self.end_reason = reason

    def _end_closed(self) -> None:
        """Drop the events not handed over: for `last_event_id`, they were never there."""
        self._id_when_closed = self.last_event_id
        self._end(EndReason.CLOSED)
        self._events = iter(())

    def _next_parsed(self) -> Event[T] | None:
        """The next event for which nothing has to be read; None: a read is due, or the end."""
        while True:
            for event in self._events:
                return event
            if self.end_reason is EndReason.CLOSED:
                return None
            if self._error is not None:
                error, self._error = self._error, None
                if isinstance(error, EventTooLarge):
                    self._end(EndReason.ERROR)
                raise error
            if self._parser.done:
                self._end(EndReason.UNTIL)
            if self.end_reason is not None or self._unfed is None:
                return None
            self._parse(self._unfed)

    def _parse(self, chunk: bytes | memoryview) -> None:
        """Feed one slice. After an exception the parser wants feeding again, be it with nothing."""
        rest: bytes | memoryview | None = None
        if type(chunk) is bytes and len(chunk) > READ_SIZE:
            chunk = memoryview(chunk)
        if isinstance(chunk, memoryview) and len(chunk) > READ_SIZE:
            chunk, rest = chunk[:READ_SIZE], chunk[READ_SIZE:]
        self._unfed = b"" if rest is None else rest
        self._id_before_batch = self.last_event_id
        self._batch = []
        self._kept_back = True
        try:
            batch = self._parser.feed(chunk)
        except (DecodeError, EventTooLarge) as error:
            self._error = error
            # They are handed over before it.
            batch, error.events = error.events, []
        else:
            self._unfed = rest
        self._kept_back = False
        if self.end_reason is None:
            # Else a callback closed the stream.
            self._batch = batch
            self._events = iter(batch)

    def _ended(self) -> None:
        """A read came to the end of the source."""
        if self._interrupted and self.end_reason is None:
            self._end(EndReason.ERROR)
            raise TransportError(
                "Expected the next bytes of the stream, got its end right after a read that was "
                "cancelled, which tells nothing: ask again, from last_event_id on"
            )
        self._end(EndReason.END)

    def _arrived(self, chunk: bytes) -> None:
        """A read gave a chunk."""
        if self.end_reason is not None:
            return
        self._interrupted = False
        if type(chunk) is not bytes:
            chunk = _as_bytes(chunk)
        self._unfed = chunk
        if self._on_chunk is not None:
            self._on_chunk(chunk)

    def _failed(self, error: Exception) -> None:
        """What a read raised comes out as a TransportError, unless the stream was closed."""
        if self.end_reason is not None:
            return
        self._end(EndReason.ERROR)
        if isinstance(error, SSEError):
            raise error
        # Some libraries wrap a time-out in an error that does not say so.
        chain = (error, error.__cause__, error.__context__)
        names = {cls.__name__ for each in chain for cls in type(each).__mro__}
        kind = StreamTimeout if any("Timeout" in name for name in names) else TransportError
        # The text of the original may show a query or a header: it stays in __cause__.
        raise kind(f"Expected the next bytes of the stream, got {type(error).__name__}") from error


def _as_bytes(chunk: object) -> bytes:
    """A copy, as the source may use its buffer again."""
    try:
        return bytes(memoryview(chunk))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"Expected chunks of bytes from the source, got {type(chunk).__name__}: "
            "hand over the body as it arrives, before anything decodes it"
        ) from None


class EventStream(_Stream[T], Iterator["Event[T]"]):
    """The events of a stream of bytes, made by `iter_events`: an iterator and a context manager.

    It goes on after a `DecodeError`, and after an exception of `on_comment`, `on_chunk` or
    `until`. The `events` of an error that it raises are empty: they were handed over before.
    Reading to the end, an error, `close()` and leaving `with` give the response free; a file or a
    socket stays open.

    Attributes:
        response: the `Response`; None for a file, a socket, an iterable.
        end_reason: the `EndReason`; None while it runs.
    """

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(source, parser, on_chunk)
        assert isinstance(source.chunks, Iterable)
        self._chunks = iter(source.chunks)
        close = source.close or getattr(self._chunks, "close", None)
        self._closers += [close] if close is not None else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __next__(self) -> Event[T]:
        for event in self._events:
            return event
        try:
            while True:
                found = self._next_parsed()
                if found is not None:
                    return found
                if self.end_reason is not None:
                    raise StopIteration
                self._read()
        finally:
            if self.end_reason is not None:
                # All is handed over: how the source takes its leave changes nothing.
                with suppress(Exception):
                    self._close_source()

    def close(self) -> None:
        """End the stream and give the response free: from any thread, any number of times.

        A read that another thread is in at that moment ends the stream when it returns.
        """
        self._end_closed()
        if not self._reading:
            self._close_source()

    def _read(self) -> None:
        self._reading = True
        try:
            # Looked at only now: a close() in another thread either sees `_reading` or is seen.
            if self.end_reason is not None:
                return
            chunk = next(self._chunks)
        except StopIteration:
            self._ended()
            return
        except Exception as error:
            self._failed(error)
            return
        except BaseException:
            self._interrupted = True
            raise
        finally:
            self._reading = False
        self._arrived(chunk)

    def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            close()
        except BaseException:
            # It may be tried again.
            self._closers.append(close)
            raise


class AsyncEventStream(_Stream[T], AsyncIterator["Event[T]"]):
    """The async twin of `EventStream`, made by `aiter_events`.

    The response is looked at when the first event is asked for. Leaving `async with` gives it free
    at once; without it, an `async for` that is left early does so at some later time.

    Attributes:
        response: the `Response`; None for a file, a socket, an iterable.
        end_reason: the `EndReason`; None while it runs.
    """

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
        check: Callable[[Source], Awaitable[EndReason | None]] | None = None,
    ) -> None:
        super().__init__(source, parser, on_chunk)
        assert isinstance(source.chunks, AsyncIterable)
        self._chunks = source.chunks.__aiter__()
        close = source.close or getattr(self._chunks, "aclose", None)
        self._closers += [close] if close is not None else []
        self._source = source
        self._check = check

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Event[T]:
        for event in self._events:
            return event
        try:
            if self._check is not None and self.end_reason is None:
                await self._check_response(self._check)
            while True:
                found = self._next_parsed()
                if found is not None:
                    return found
                if self.end_reason is not None:
                    raise StopAsyncIteration
                await self._read()
        finally:
            # Only now: a close that is slow, or cancelled, must not stand before an event.
            if self.end_reason is not None:
                with suppress(Exception):
                    await self._close_source()

    async def aclose(self) -> None:
        """End the stream and give the response free; any number of times.

        A read that another task is in at that moment ends the stream when it returns.
        """
        self._end_closed()
        if not self._reading:
            await self._close_source()

    async def _check_response(self, check: Callable[[Source], Awaitable[EndReason | None]]) -> None:
        try:
            reason = await check(self._source)
        except Exception:
            self._end(EndReason.ERROR)
            raise
        self._check = None
        if reason is not None:
            self._end(reason)

    async def _read(self) -> None:
        self._reading = True
        try:
            chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._ended()
            return
        except Exception as error:
            self._failed(error)
            return
        except BaseException:
            self._interrupted = True
            raise
        finally:
            self._reading = False
        self._arrived(chunk)

    async def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            await close()
        except BaseException:
            # It may be tried again.
            self._closers.append(close)
            raise
