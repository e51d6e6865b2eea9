"""Relay: the bytes of an event stream to send on, made of the events of another.

A relay asks its source for one event whenever its consumer asks for the next bytes, so that an
event counts as taken once the consumer has sent it. While the source is quiet, the relay returns
comments; the read of the source goes on meanwhile, since cancelling it would lose the connection.
Therefore another thread or task reads the source: it is the only one that touches the source, it
holds no reference to the relay, and it closes the source when the relay is closed or dropped.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, overload

from sse_fast._background import select_backend
from sse_fast._core.parser import Event
from sse_fast._seconds import check_seconds
from sse_fast._source import qualified_type_name
from sse_fast._wake import get_running_trio

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["AsyncRelay", "Relay", "relay"]

_COMMENT = b":\n\n"


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
            generator; an async one for an async relay. The relay owns it. Other libraries' objects
            with `event` and `data`, and possibly `id` and `retry`, are events as well.
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
        self._last_event_id = event.id
        if event.retry is not None:
            self._retry = event.retry
        return self._encode_retry() + block

    def encode_quiet(self) -> bytes:
        """Return a comment, and before it the fields that came without an event."""
        return self.encode_rest() + _COMMENT

    def encode_rest(self) -> bytes:
        """Return the fields that came without an event."""
        block = self._encode_retry()
        last_event_id = getattr(self._stream, "last_event_id", self._last_event_id)
        if last_event_id != self._last_event_id:
            self._last_event_id = last_event_id
            block += f"id: {last_event_id}\n\n".encode()
        return block

    def _encode_retry(self) -> bytes:
        retry = getattr(self._stream, "retry", None)
        if retry is None or retry == self._retry:
            return b""
        self._retry = retry
        return b"retry: %d\n\n" % retry


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


class _Outcome:
    """The result of a read of the source: an event, `_END` or an error."""

    __slots__ = ("error", "event")

    def __init__(self, event: Event[Any] = _END, error: BaseException | None = None) -> None:
        self.event = event
        self.error = error

    def take(self) -> Event[Any]:
        """Return the event or `_END`; raise the error."""
        error, self.error = self.error, None
        if error is None:
            return self.event
        try:
            raise error
        finally:
            # Break the reference cycle (traceback -> frame -> error).
            del error


# -- Sync ------------------------------------------------------------------------------------------


class _Exchange:
    """The state that a relay shares with the thread that reads its source."""

    def __init__(self, events: Iterator[Event[Any]], owner: Any) -> None:
        self.events = events
        # The object to close: a generator, a stream, or the iterable that the events came from.
        self.owner = owner
        self.changed = threading.Condition()
        self.is_wanted = False
        self.is_reading = False
        self.is_closed = False
        self.outcome: _Outcome | None = None

    def run(self) -> None:
        """Read an event whenever one is wanted, until the relay closes (in a thread)."""
        is_last = False
        while not is_last:
            with self.changed:
                self.changed.wait_for(lambda: self.is_wanted or self.is_closed)
                if self.is_closed:
                    break
                self.is_wanted, self.is_reading = False, True
            try:
                outcome = _Outcome(next(self.events))
            except StopIteration:
                outcome, is_last = _Outcome(), True
            except BaseException as error:
                outcome, is_last = _Outcome(error=error), True
            if is_last:
                _close(self.owner)
            with self.changed:
                self.is_reading = False
                self.outcome = outcome
                del outcome
                self.changed.notify_all()
        if not is_last:
            _close(self.owner)

    def close(self) -> None:
        """Let the thread close the source and end; wake it if the source allows that."""
        with self.changed:
            self.is_closed = True
            is_reading = self.is_reading
            self.outcome = None
            self.changed.notify_all()
        # Streams of this package can be closed during a read of another thread, which ends it.
        if is_reading and hasattr(self.owner, "end_reason"):
            _close(self.owner)


def _close(owner: Any) -> None:
    close = getattr(owner, "close", None)
    if close is not None:
        with suppress(Exception):
            close()


class Relay(Iterator[bytes]):
    """The bytes of an event stream to send on, made by `relay`: an iterator, a context manager."""

    def __init__(self, events: Iterable[Event[Any]], heartbeat: float | None) -> None:
        iterator = iter(events)
        owner = iterator if hasattr(iterator, "close") else events
        self._exchange = _Exchange(iterator, owner)
        self._encoder = _Encoder(events)
        self._heartbeat = heartbeat
        self._thread: threading.Thread | None = None
        self._is_waiting = False
        self._is_asked = False
        self._is_ended = False

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
        if self._is_waiting:
            raise RuntimeError("Another thread is already waiting for this relay")
        if self._is_ended:
            raise StopIteration
        self._is_waiting = True
        try:
            outcome = self._wait()
        finally:
            self._is_waiting = False
        if self._is_ended:
            raise StopIteration
        if outcome is None:
            return self._encoder.encode_quiet()
        try:
            event = outcome.take()
            if event is not _END:
                return self._encoder.encode(event)
        except BaseException:
            self.close()
            raise
        self.close()
        if rest := self._encoder.encode_rest():
            return rest
        raise StopIteration

    def _wait(self) -> _Outcome | None:
        """Wait for the result of a read, or return None when a comment is due."""
        exchange = self._exchange
        if self._thread is None:
            # A daemon, because a read that nothing wakes must not keep the process alive.
            self._thread = threading.Thread(target=exchange.run, name="sse_fast relay", daemon=True)
            self._thread.start()
        with exchange.changed:
            if not self._is_asked:
                self._is_asked = exchange.is_wanted = True
                exchange.changed.notify_all()
            exchange.changed.wait_for(
                lambda: exchange.outcome is not None or exchange.is_closed, self._heartbeat
            )
            outcome, exchange.outcome = exchange.outcome, None
            if outcome is not None:
                self._is_asked = False
            return outcome

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
            _close(self._exchange.owner)


# -- Async -----------------------------------------------------------------------------------------


class _AsyncExchange:
    """The state that an async relay shares with the task that reads its source."""

    def __init__(self, events: AsyncIterator[Event[Any]], owner: Any) -> None:
        self.events = events
        self.owner = owner
        backend = select_backend()
        self.wanted = backend.gate()
        self.ready = backend.gate()
        self.outcome: _Outcome | None = None
        self.task = backend(self._run)

    async def _run(self) -> None:
        """Read an event whenever one is wanted, and close the source in the same task."""
        outcome = _Outcome()
        try:
            while await self.wanted.wait():
                self.outcome = _Outcome(await self.events.__anext__())
                self.ready.open()
        except StopAsyncIteration:
            pass
        except Exception as error:
            outcome.error = error
        except BaseException:
            # The relay raises this one unless it was closed, which cancels the task.
            outcome.error = RuntimeError("The read of the source of a relay was cancelled")
            raise
        finally:
            try:
                await _aclose(self.owner)
            finally:
                # Also after a cancellation, because another task may wait for it.
                self.outcome = outcome
                self.ready.open()
                del outcome


async def _aclose(owner: Any) -> None:
    """Close the source, also in a cancelled task; ignore errors."""
    close = getattr(owner, "aclose", None)
    if close is None:
        return
    if (trio := get_running_trio()) is None:
        with suppress(Exception):
            await close()
        return
    # A cancelled scope of trio would cancel every await within it.
    with trio.CancelScope(shield=True), suppress(Exception):
        await close()


class AsyncRelay(AsyncIterator[bytes]):
    """The bytes of an event stream to send on, made by `relay`: an async iterator.

    It is an async context manager as well, and runs on asyncio and trio.
    """

    def __init__(self, events: AsyncIterable[Event[Any]], heartbeat: float | None) -> None:
        self._events = events.__aiter__()
        self._owner = self._events if hasattr(self._events, "aclose") else events
        self._encoder = _Encoder(events)
        self._heartbeat = heartbeat
        self._exchange: _AsyncExchange | None = None
        self._is_waiting = False
        self._is_asked = False
        self._is_ended = False

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
        if self._is_waiting:
            raise RuntimeError("Another task is already waiting for this relay")
        if self._is_ended:
            raise StopAsyncIteration
        self._is_waiting = True
        try:
            outcome = await self._wait()
        except BaseException:
            # A consumer that is cancelled does not come back.
            self._leave()
            raise
        finally:
            self._is_waiting = False
        if self._is_ended:
            raise StopAsyncIteration
        if outcome is None:
            return self._encoder.encode_quiet()
        try:
            event = outcome.take()
            if event is not _END:
                return self._encoder.encode(event)
        except BaseException:
            self._leave()
            raise
        self._leave()
        if rest := self._encoder.encode_rest():
            return rest
        raise StopAsyncIteration

    async def _wait(self) -> _Outcome | None:
        """Wait for the result of a read, or return None when a comment is due."""
        if self._exchange is None:
            self._exchange = _AsyncExchange(self._events, self._owner)
        exchange = self._exchange
        if not self._is_asked:
            self._is_asked = True
            exchange.wanted.open()
        if not await exchange.ready.wait(self._heartbeat):
            return None
        self._is_asked = False
        outcome, exchange.outcome = exchange.outcome, None
        return outcome

    def _leave(self) -> None:
        """End the relay; its task closes the source."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._exchange is not None:
            self._exchange.task.cancel()
        else:
            # The source was never read, and closing it needs a loop.
            with suppress(RuntimeError):
                select_backend()(_aclose, self._owner)

    async def aclose(self) -> None:
        """End the relay and wait until its source is closed; idempotent."""
        if self._exchange is None:
            self._is_ended = True
            await _aclose(self._owner)
        else:
            self._leave()
            await self._exchange.task.wait()
