"""Relay: the bytes of an event stream to send on, made of the events of another.

A relay asks its source for one event whenever its consumer asks for the next bytes, so that an
event counts as taken once the consumer has sent it. While the source is quiet, the relay returns
comments; the read of the source goes on meanwhile, since cancelling it would lose the connection.
Therefore another thread or task reads the source: it is the only one that touches the source, it
holds no reference to the relay, and it closes the source when the relay is closed or dropped.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from sse_fast._background import (
    Outcome,
    Task,
    close_later,
    find_loop,
    get_running_trio,
    start_thread,
)
from sse_fast._core.options import encode_comment
from sse_fast._core.parser import Event
from sse_fast._seconds import check_seconds
from sse_fast._source import qualified_type_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from sse_fast._background import AsyncioLoop, TrioLoop

__all__ = ["AsyncRelay", "Relay", "relay"]

# The blank line makes it a whole block, which every proxy and client passes on.
_QUIET = encode_comment("") + b"\n"


@overload
def relay(events: AsyncIterable[Event[Any]], *, heartbeat: float | None = 15.0) -> AsyncRelay: ...


@overload
def relay(events: Iterable[Event[Any]], *, heartbeat: float | None = 15.0) -> Relay: ...


def relay(
    events: AsyncIterable[Event[Any]] | Iterable[Event[Any]], *, heartbeat: float | None = 15.0
) -> AsyncRelay | Relay:
    """Return an iterator of the bytes to send on, for the streaming response of a web framework.

    Each event is one item, encoded with its type, id and `retry`, so that the client can resume
    from it. The source is closed at its end, after an error, when the relay is closed, dropped or
    left by cancellation. An error of the source is raised after the events before it: let it pass,
    so that the server aborts the response and the client reconnects.

    Args:
        events: an iterator of `Event`, for example an `EventSource`, a stream of `iter_events` or a
            generator; an async one for an async relay. The relay owns it, and closes it together
            with the iterator that it makes. Other libraries' objects with `event` and `data`, and
            possibly `id` and `retry`, are events as well.
        heartbeat: seconds without an event after which a comment is returned, again and again; it
            keeps proxies from closing the connection, and reveals a client that left. None: no
            comments.

    Raises:
        TypeError: `events` is not an iterator of events.
        ValueError: `heartbeat` is not above 0, or too large for a clock.
    """
    if heartbeat is not None:
        check_seconds(heartbeat, "heartbeat", or_zero=False)
    if isinstance(events, AsyncIterable):
        return AsyncRelay(events, heartbeat)
    if isinstance(events, Iterable) and not isinstance(events, (str, bytes, bytearray)):
        return Relay(events, heartbeat)
    raise TypeError(
        f"Expected an iterator of events, got {qualified_type_name(events)}: pass the events, for "
        "example iter_events(response)"
    )


def _as_event(event: Any) -> Event[Any]:
    """Make an Event of another library's object for one."""
    try:
        kind, data = event.event, event.data
    except AttributeError:
        raise TypeError(
            f"Expected events with event and data, got {qualified_type_name(event)}: make an Event "
            "of each, or pass iter_events(response) if these are the chunks of a response"
        ) from None
    retry = getattr(event, "retry", None)
    if isinstance(retry, str):
        retry = int(retry) if retry.isascii() and retry.isdigit() else None
    identifier = getattr(event, "id", None)
    if identifier is None:
        identifier = ""
    elif type(identifier) is int:
        identifier = str(identifier)
    return Event(kind or "message", data, identifier, retry)


_END: Any = object()
"""The result of a read at the end of the source."""


def _list_owners(events: Any, iterator: Any) -> list[Any]:
    """Return the objects to close: the iterator, and the iterable that it came from."""
    return [iterator] if iterator is events else [iterator, events]


class _Sent(NamedTuple):
    """The state that the consumer has reached by what was sent to it."""

    last_event_id: str = ""
    retry: int | None = None


class _RelayBase:
    """The common part of sync and async relays: everything except waiting and closing.

    The client's last event ID and `retry` follow those of the source.
    """

    _stop: type[Exception]

    def __init__(self, events: Any, heartbeat: float | None) -> None:
        # Streams of this package also know of an id or a `retry` that came without an event.
        self._stream = events if hasattr(events, "end_reason") else None
        self._heartbeat = heartbeat
        self._is_waiting = False
        self._is_ended = False
        # The number of results of reads that were taken, which is that of the next read.
        self._taken = 0
        self._sent = _Sent()

    def _leave(self) -> None:
        """End the relay, and let its source be closed."""
        raise NotImplementedError

    def _refuse_second(self) -> None:
        if self._is_waiting:
            raise RuntimeError(
                "Another thread or task is already waiting for this relay: make one for each client"
            )

    def _encode(self, exchange: _Exchange | _AsyncExchange) -> bytes:
        """Return the bytes to send after a wait; raise `_stop` at the end of the relay.

        After an exception of a signal handler, at any line, it can be called again.
        """
        outcome, taken, sent = exchange.outcome, self._taken, self._sent
        if self._is_ended:
            raise self._stop
        if outcome is None:
            part, self._sent = self._encode_rest(sent)
            return part + _QUIET
        try:
            event = outcome.get()
            encoded = self._encode_rest(sent) if event is _END else self._encode_event(event, sent)
        except BaseException as error:
            if isinstance(error, Exception) or outcome.has_failed(error):
                self._leave()
                # The traceback of the exception refers to the outcome.
                outcome.forget()
            raise
        if event is _END:
            self._leave()
            if not encoded[0]:
                raise self._stop
        try:
            exchange.outcome, self._taken, self._sent = None, taken + 1, encoded[1]
            return encoded[0]
        except BaseException:
            exchange.outcome, self._taken, self._sent = outcome, taken, sent
            raise

    def _encode_event(self, event: Any, sent: _Sent) -> tuple[bytes, _Sent]:
        if not isinstance(event, Event):
            event = _as_event(event)
        block: bytes = event.encode()
        if not event.id and sent.last_event_id:
            # Event.encode() has no line for an empty id, which would leave the earlier one.
            block = b"id:\n" + block
        retry = sent.retry if event.retry is None else event.retry
        before, sent = self._encode_retry(_Sent(event.id, retry))
        return before + block, sent

    def _encode_rest(self, sent: _Sent) -> tuple[bytes, _Sent]:
        """Return the fields that came without an event."""
        block, sent = self._encode_retry(sent)
        last_event_id = getattr(self._stream, "last_event_id", sent.last_event_id)
        if last_event_id == sent.last_event_id:
            return block, sent
        block += f"id: {last_event_id}\n\n".encode()
        return block, sent._replace(last_event_id=last_event_id)

    def _encode_retry(self, sent: _Sent) -> tuple[bytes, _Sent]:
        """Return a block with the `retry` of the stream, unless it was sent already."""
        retry = getattr(self._stream, "retry", None)
        if retry is None or retry == sent.retry:
            return b"", sent
        return b"retry: %d\n\n" % retry, sent._replace(retry=retry)


# -- Sync ------------------------------------------------------------------------------------------


class _Exchange:
    """The state that a relay shares with the thread that reads its source.

    It survives an exception that a signal handler raises between any two lines of the consumer.
    """

    def __init__(self, events: Iterator[Event[Any]], owners: list[Any]) -> None:
        self.events = events
        self.owners = owners
        # The numbers of the reads to do, each possibly several times; None to end.
        self.wanted: SimpleQueue[int | None] = SimpleQueue()
        self.latest_wanted = -1
        # Gets an item when there is a result, and at the end.
        self.changed: SimpleQueue[None] = SimpleQueue()
        self.outcome: Outcome[Event[Any]] | None = None
        self.is_reading = False
        self.is_closed = False
        # Empty once the thread runs, or will not be needed.
        self.pending: list[Callable[[], object]] = [self.run]

    def run(self) -> None:
        """Read an event whenever one is wanted, until the relay closes (in a thread)."""
        count = 0
        for number in iter(self.wanted.get, None):
            if number != count:
                continue
            count += 1
            self.is_reading = True
            # Checked after `is_reading` was set: close() sees that one, or is seen here.
            if self.is_closed:
                break
            outcome: Outcome[Event[Any]] = Outcome()
            try:
                outcome.set(next(self.events), None)
            except StopIteration:
                outcome.set(_END, None)
            except BaseException as error:
                outcome.set(None, error)
            self.is_reading = False
            is_last = outcome.has_failed() or outcome.get() is _END
            if is_last:
                self.close_source()
            self.outcome = outcome
            del outcome
            self.changed.put(None)
            if is_last:
                return
        self.close_source()

    def wait(self, number: int, seconds: float | None) -> None:
        """Wait for the result of a read, for at most some seconds, or until the relay closes."""
        start_thread(self.pending, "sse_fast relay")
        if self.latest_wanted != number:
            self.wanted.put(number)
            self.latest_wanted = number
        deadline = None if seconds is None else time.monotonic() + seconds
        with suppress(Empty):
            while self.outcome is None and not self.is_closed:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self.changed.get(timeout=left)

    def close(self) -> None:
        """Let the thread close the source and end; wake it if the source allows that."""
        self.is_closed = True
        self.wanted.put(None)
        self.changed.put(None)
        try:
            self.pending.pop()
        except IndexError:
            # Streams of this package can be closed during a read of another thread, which ends it.
            if self.is_reading and hasattr(self.events, "end_reason"):
                self.close_source()
        else:
            # No thread has begun.
            self.close_source()

    def close_source(self) -> None:
        for owner in self.owners:
            with suppress(Exception):
                owner.close()


class Relay(_RelayBase, Iterator[bytes]):
    """The bytes of an event stream to send on, made by `relay`: an iterator, a context manager."""

    _stop = StopIteration

    def __init__(self, events: Iterable[Event[Any]], heartbeat: float | None) -> None:
        super().__init__(events, heartbeat)
        iterator = iter(events)
        self._exchange = _Exchange(iterator, _list_owners(events, iterator))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def __next__(self) -> bytes:
        self._refuse_second()
        # The flag is cleared twice: an exception of a signal handler may come in the first.
        try:
            try:
                self._is_waiting = True
                if not self._is_ended:
                    self._exchange.wait(self._taken, self._heartbeat)
            finally:
                self._is_waiting = False
        finally:
            self._is_waiting = False
        return self._encode(self._exchange)

    def close(self) -> None:
        """End the relay and close its source; idempotent and thread-safe.

        A read that goes on in another thread ends if the source can be woken: streams of this
        package can. Otherwise the source is closed when that read returns.
        """
        if not self._is_ended:
            self._is_ended = True
            self._exchange.close()

    def _leave(self) -> None:
        self.close()


# -- Async -----------------------------------------------------------------------------------------


class _AsyncExchange:
    """The state that an async relay shares with the task that reads its source."""

    def __init__(self, events: AsyncIterator[Event[Any]], owners: list[Any]) -> None:
        self.events = events
        self.owners = owners
        self.loop = find_loop()
        self.wanted = self.loop.Event()
        self.ready = self.loop.Event()
        self.outcome: Outcome[Event[Any]] | None = None

    async def run(self) -> None:
        """Read an event whenever one is wanted, and close the source in the same task."""
        last: Outcome[Event[Any]] = Outcome()
        try:
            while True:
                await self.wanted.wait()
                self.wanted = self.loop.unset(self.wanted)
                outcome: Outcome[Event[Any]] = Outcome()
                outcome.set(await self.events.__anext__(), None)
                self.outcome = outcome
                self.ready.set()
        except StopAsyncIteration:
            last.set(_END, None)
        except self.loop.Cancelled:
            # The relay raises this one unless it was closed, which cancels the task.
            last.set(None, RuntimeError("The read of the source of a relay was cancelled"))
            raise
        except BaseException as error:
            last.set(None, error)
            raise
        finally:
            try:
                await _aclose(self.owners)
            finally:
                # Also after a cancellation, because another task may wait for it.
                self.outcome = last
                self.ready.set()
                del last


async def _aclose(owners: list[Any]) -> None:
    """Close the source, also in a cancelled task; ignore errors."""
    # A cancelled scope of trio would cancel every await within it.
    trio = get_running_trio()
    with nullcontext() if trio is None else trio.CancelScope(shield=True):
        for owner in owners:
            with suppress(Exception):
                # Some libraries have a close() that is to be awaited.
                closed = getattr(owner, "aclose", None) or owner.close
                if inspect.isawaitable(result := closed()):
                    await result


class AsyncRelay(_RelayBase, AsyncIterator[bytes]):
    """The bytes of an event stream to send on, made by `relay`: an async iterator.

    It is an async context manager as well, and runs on asyncio and trio. A cancelled wait ends it.
    """

    # A stream made of it lets no wait be cancelled.
    is_ended_by_cancellation = True
    _stop = StopAsyncIteration

    def __init__(self, events: AsyncIterable[Event[Any]], heartbeat: float | None) -> None:
        super().__init__(events, heartbeat)
        self._events = events.__aiter__()
        self._owners = _list_owners(events, self._events)
        self._exchange: _AsyncExchange | None = None
        self._task: Task[None] | None = None
        self._is_asked = False
        self._loop: AsyncioLoop | TrioLoop | None = None
        # A relay may be made before its loop runs.
        with suppress(RuntimeError):
            self._loop = find_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        with suppress(Exception):
            self._leave()

    async def __anext__(self) -> bytes:
        self._refuse_second()
        if self._is_ended:
            raise StopAsyncIteration
        try:
            self._is_waiting = True
            return self._encode(await self._wait())
        except BaseException:
            # A consumer that is cancelled does not come back.
            self._leave()
            raise
        finally:
            self._is_waiting = False

    async def _wait(self) -> _AsyncExchange:
        """Wait for the result of a read, or until a comment is due."""
        if self._exchange is None or self._task is None:
            self._exchange = _AsyncExchange(self._events, self._owners)
            self._task = Task(self._exchange.run)
            self._task.start()
        exchange = self._exchange
        if not self._is_asked:
            self._is_asked = True
            exchange.wanted.set()
        if exchange.outcome is None:
            exchange.ready = exchange.loop.unset(exchange.ready)
            await exchange.loop.wait(exchange.ready, self._heartbeat)
        if exchange.outcome is not None:
            self._is_asked = False
        return exchange

    def _leave(self) -> None:
        """End the relay; its task closes the source."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._task is not None:
            self._task.abandon()
            return
        # The source was never read, and closing it needs a task. This may be another thread.
        loop = self._loop
        with suppress(RuntimeError):
            loop = find_loop()
        if loop is not None:
            loop.call(partial(close_later, partial(_aclose, self._owners)))

    async def aclose(self) -> None:
        """End the relay and wait until its source is closed; idempotent."""
        if self._task is None:
            self._is_ended = True
            await _aclose(self._owners)
        else:
            self._leave()
            await self._task.wait()
