"""Relay: the bytes of an event stream to send on, made of the events of another.

A relay asks its source for one event whenever its consumer asks for the next bytes, so that an
event counts as taken once the consumer has sent it. While the source is quiet, the relay returns
comments; the read of the source goes on meanwhile, since cancelling it would lose the connection.
Therefore another thread or task reads the source: it is the only one that touches the source, it
holds no reference to the relay, and it closes the source when the relay is closed or dropped.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from sse_fast._background import Outcome, Task, close_later, find_loop, get_running_trio
from sse_fast._core.options import encode_comment
from sse_fast._core.parser import Event
from sse_fast._source import qualified_type_name

if TYPE_CHECKING:
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
        ValueError: `heartbeat` is not positive.
    """
    if heartbeat is not None:
        if isinstance(heartbeat, bool) or not isinstance(heartbeat, (int, float)):
            raise TypeError(
                f"Expected heartbeat in seconds or None, got {qualified_type_name(heartbeat)}"
            )
        if not heartbeat > 0:
            raise ValueError("heartbeat must be positive: pass None for a relay without comments")
    if isinstance(events, AsyncIterable):
        return AsyncRelay(events, heartbeat)
    if isinstance(events, Iterable) and not isinstance(events, (str, bytes, bytearray)):
        return Relay(events, heartbeat)
    raise TypeError(
        f"Expected an iterator of events, got {qualified_type_name(events)}: pass the events, for "
        "example iter_events(response)"
    )


class _Encoder:
    """Encodes events so that the client's last event ID and `retry` follow those of the source."""

    def __init__(self, events: Any) -> None:
        # Streams of this package also know of an id or a `retry` that came without an event.
        self._stream = events if hasattr(events, "end_reason") else None
        self._last_event_id = ""
        self._retry: int | None = None

    def encode(self, event: Event[Any]) -> bytes:
        if not isinstance(event, Event):
            event = _as_event(event)
        block = event.encode()
        if not event.id and self._last_event_id:
            # Event.encode() has no line for an empty id, which would leave the earlier one.
            block = b"id:\n" + block
        sent = self._retry if event.retry is None else event.retry
        retry, lines = self._encode_retry(sent)
        block = lines + block
        # Last, so that an interrupted call can be repeated.
        self._last_event_id, self._retry = event.id, retry
        return block

    def encode_quiet(self) -> bytes:
        """Return a comment, and before it the fields that came without an event."""
        return self.encode_rest() + _QUIET

    def encode_rest(self) -> bytes:
        """Return the fields that came without an event."""
        retry, block = self._encode_retry(self._retry)
        last_event_id = getattr(self._stream, "last_event_id", self._last_event_id)
        if last_event_id != self._last_event_id:
            block += f"id: {last_event_id}\n\n".encode()
        self._last_event_id, self._retry = last_event_id, retry
        return block

    def _encode_retry(self, sent: int | None) -> tuple[int | None, bytes]:
        """Return the `retry` of the stream, and its block if it is not the one that was sent."""
        retry = getattr(self._stream, "retry", None)
        if retry is None or retry == sent:
            return sent, b""
        return retry, b"retry: %d\n\n" % retry


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
    return Event(kind or "message", data, getattr(event, "id", None) or "", retry)


_END: Any = object()
"""The result of a read at the end of the source."""


def _list_owners(events: Any, iterator: Any) -> list[Any]:
    """Return the objects to close: the iterator, and the iterable that it came from."""
    return [iterator] if iterator is events else [iterator, events]


class _RelayBase:
    """The common part of sync and async relays: everything except waiting and closing."""

    def __init__(self, events: Any, heartbeat: float | None) -> None:
        self._encoder = _Encoder(events)
        self._heartbeat = heartbeat
        self._is_waiting = False
        self._is_asked = False
        self._is_ended = False

    def _leave(self) -> None:
        """End the relay, and let its source be closed."""
        raise NotImplementedError

    def _refuse_second(self) -> None:
        if self._is_waiting:
            raise RuntimeError(
                "Another thread or task is already waiting for this relay: make one for each client"
            )

    def _encode(self, exchange: _Exchange | _AsyncExchange) -> bytes:
        """Return the bytes to send after a wait; b"" at the end of the relay."""
        outcome = exchange.outcome
        if self._is_ended:
            return b""
        if outcome is None:
            return self._encoder.encode_quiet()
        try:
            event = outcome.get()
            part = self._encoder.encode_rest() if event is _END else self._encoder.encode(event)
        except BaseException:
            self._leave()
            # The traceback of the exception refers to the outcome.
            outcome.forget()
            raise
        # Last, so that a wait that a signal handler interrupted before can be repeated.
        if event is _END:
            self._leave()
        exchange.outcome = None
        self._is_asked = False
        return part


# -- Sync ------------------------------------------------------------------------------------------


class _Exchange:
    """The state that a relay shares with the thread that reads its source."""

    def __init__(self, events: Iterator[Event[Any]], owners: list[Any]) -> None:
        self.events = events
        self.owners = owners
        self.changed = threading.Condition()
        self.is_wanted = False
        self.is_reading = False
        self.is_closed = False
        self.outcome: Outcome[Event[Any]] | None = None

    def run(self) -> None:
        """Read an event whenever one is wanted, until the relay closes (in a thread)."""
        is_last = False
        while not is_last:
            with self.changed:
                self.changed.wait_for(lambda: self.is_wanted or self.is_closed)
                if self.is_closed:
                    break
                self.is_wanted, self.is_reading = False, True
            outcome: Outcome[Event[Any]] = Outcome()
            try:
                outcome.set(next(self.events), None)
            except StopIteration:
                outcome.set(_END, None)
                is_last = True
            except BaseException as error:
                outcome.set(None, error)
                is_last = True
            if is_last:
                self.close_source()
            with self.changed:
                self.is_reading = False
                self.outcome = outcome
                del outcome
                self.changed.notify_all()
        if not is_last:
            self.close_source()

    def close(self) -> None:
        """Let the thread close the source and end; wake it if the source allows that."""
        with self.changed:
            self.is_closed = True
            is_reading = self.is_reading
            self.outcome = None
            self.changed.notify_all()
        # Streams of this package can be closed during a read of another thread, which ends it.
        if is_reading and hasattr(self.events, "end_reason"):
            self.close_source()

    def close_source(self) -> None:
        for owner in self.owners:
            with suppress(Exception):
                owner.close()


class Relay(_RelayBase, Iterator[bytes]):
    """The bytes of an event stream to send on, made by `relay`: an iterator, a context manager."""

    def __init__(self, events: Iterable[Event[Any]], heartbeat: float | None) -> None:
        super().__init__(events, heartbeat)
        iterator = iter(events)
        self._exchange = _Exchange(iterator, _list_owners(events, iterator))
        self._thread: threading.Thread | None = None

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
        if not self._is_ended:
            try:
                self._is_waiting = True
                self._wait()
                if part := self._encode(self._exchange):
                    return part
            finally:
                self._is_waiting = False
        raise StopIteration

    def _wait(self) -> None:
        """Wait for the result of a read, or until a comment is due."""
        exchange = self._exchange
        if self._thread is None:
            # With the context of the consumer. A daemon, because a read that nothing wakes must not
            # keep the process alive.
            self._thread = threading.Thread(
                target=contextvars.copy_context().run,
                args=(exchange.run,),
                name="sse_fast relay",
                daemon=True,
            )
            self._thread.start()
        with exchange.changed:
            if not self._is_asked:
                self._is_asked = exchange.is_wanted = True
                exchange.changed.notify_all()
            exchange.changed.wait_for(
                lambda: exchange.outcome is not None or exchange.is_closed, self._heartbeat
            )

    def close(self) -> None:
        """End the relay and close its source; idempotent and thread-safe.

        A read that goes on in another thread ends if the source can be woken: streams of this
        package can. Otherwise the source is closed when that read returns.
        """
        if self._is_ended:
            return
        self._is_ended = True
        self._exchange.close()
        if self._thread is None:
            self._exchange.close_source()

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

    It is an async context manager as well, and runs on asyncio and trio.
    """

    def __init__(self, events: AsyncIterable[Event[Any]], heartbeat: float | None) -> None:
        super().__init__(events, heartbeat)
        self._events = events.__aiter__()
        self._owners = _list_owners(events, self._events)
        self._exchange: _AsyncExchange | None = None
        self._task: Task[None] | None = None
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
        if not self._is_ended:
            try:
                self._is_waiting = True
                if part := self._encode(await self._wait()):
                    return part
            finally:
                self._is_waiting = False
        raise StopAsyncIteration

    async def _wait(self) -> _AsyncExchange:
        """Wait for the result of a read, or until a comment is due."""
        if self._exchange is None or self._task is None:
            self._exchange = _AsyncExchange(self._events, self._owners)
            self._task = Task(self._exchange.run)
        exchange = self._exchange
        if not self._is_asked:
            self._is_asked = True
            exchange.wanted.set()
        if exchange.outcome is None:
            exchange.ready = exchange.loop.unset(exchange.ready)
            try:
                await exchange.loop.wait(exchange.ready, self._heartbeat)
            except BaseException:
                # A consumer that is cancelled does not come back.
                self._leave()
                raise
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
