"""Work in a task of its own, which outlives the wait for it: over asyncio and trio.

`find_loop` returns the running event loop, with the same methods for both libraries. A `Task` keeps
the result of its work until it is taken. `KeptReads` lets each read of a source be such a task.

A running task refers to its work and to its outcome, never to its `Task`. So a `Task` that is
dropped, together with the stream, the relay or the client that owns it, ends its work.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

R = TypeVar("R")

__all__ = ["KeptReads", "Outcome", "Task", "close_later", "find_loop", "get_running_trio"]

_running: set[Any] = set()
"""The tasks of asyncio, to which a loop refers weakly."""


def get_running_trio() -> Any:
    """Return the module `trio` if the caller runs under trio, otherwise None."""
    # Another thread may be importing trio at this moment, so that parts of it may be missing.
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return trio if lowlevel is not None and lowlevel.in_trio_run() else None


def find_loop() -> AsyncioLoop | TrioLoop:
    """Return the event loop that the caller runs in.

    Raises:
        RuntimeError: no event loop runs.
    """
    if (trio := get_running_trio()) is not None:
        return TrioLoop(trio)
    # A loop that runs has imported it, and most programs are synchronous.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        raise RuntimeError("no running event loop")
    return AsyncioLoop(asyncio)


class AsyncioLoop:
    """A loop of asyncio.

    Attributes:
        Event: the class of its events.
        Cancelled: the class of its cancellations.
    """

    def __init__(self, asyncio: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self.Event = asyncio.Event
        self.Cancelled = asyncio.CancelledError

    def call(self, function: Callable[[], object]) -> None:
        """Call the function in the loop, unless the loop has ended; thread-safe."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def start(
        self,
        work: Callable[[], Awaitable[R]],
        outcome: Outcome[R],
        at_end: Callable[[], object],
    ) -> Callable[[], object]:
        """Await `work()` in a task of its own, with the context of the caller; in the loop only.

        Args:
            work: a coroutine function.
            outcome: gets the result or the exception, but no cancellation.
            at_end: called at the end, possibly several times.

        Returns:
            A function that cancels the task, to be called in the loop.
        """

        async def run() -> None:
            try:
                outcome.set(await work(), None)
            except self.Cancelled:
                # A cancelled task would keep it, and thereby its frames and the source.
                pass
            except BaseException as error:
                outcome.set(None, error)
                if not isinstance(error, Exception):
                    # The loop stops at Ctrl-C, wherever it is raised.
                    raise
            finally:
                at_end()

        def finish(task: Any) -> None:
            # The task does not call it if it was cancelled before it began, or if a signal handler
            # raises.
            at_end()
            _running.discard(task)
            # Retrieve the exception, which the outcome has as well.
            if not task.cancelled():
                task.exception()

        task = self._loop.create_task(run())
        _running.add(task)
        task.add_done_callback(finish)
        cancel: Callable[[], object] = task.cancel
        return cancel

    def unset(self, event: Any) -> Any:
        """Return the event, which is set, as one that is not."""
        event.clear()
        return event

    async def wait(self, event: Any, seconds: float | None) -> None:
        """Wait until the event is set. It is set when the seconds are over."""
        timer = None if seconds is None else self._loop.call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            if timer is not None:
                timer.cancel()


class TrioLoop:
    """`AsyncioLoop` for trio. Its tasks are system tasks: no nursery of the program outlives them.

    Such a task lets no exception out, which would end the whole run of trio.
    """

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self.Event = trio.Event
        self.Cancelled = trio.Cancelled

    def call(self, function: Callable[[], object]) -> None:
        with suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def start(
        self,
        work: Callable[[], Awaitable[R]],
        outcome: Outcome[R],
        at_end: Callable[[], object],
    ) -> Callable[[], object]:
        scope = self._trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    outcome.set(await work(), None)
            except self.Cancelled:
                # The whole of trio ends.
                raise
            except BaseException as error:
                outcome.set(None, error)
            finally:
                at_end()

        self._trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
        cancel: Callable[[], object] = scope.cancel
        return cancel

    def unset(self, event: Any) -> Any:
        return self.Event()

    async def wait(self, event: Any, seconds: float | None) -> None:
        with self._trio.move_on_after(float("inf") if seconds is None else seconds):
            await event.wait()


class Outcome(Generic[R]):
    """The result or the failure of work in the background, until it is taken or discarded.

    Args:
        discard: called with a result that nobody takes.
        is_abandoned: whether nobody will take the result.
    """

    def __init__(
        self, discard: Callable[[R], object] | None = None, *, is_abandoned: bool = False
    ) -> None:
        self._discard = discard
        self._ended: list[tuple[R | None, BaseException | None]] = []
        self.is_abandoned = is_abandoned
        # Whether the result has an owner.
        self.is_taken = False

    @property
    def is_known(self) -> bool:
        return bool(self._ended)

    def set(self, result: R | None, failure: BaseException | None) -> None:
        self._ended.append((result, failure))
        if self.is_abandoned:
            self.discard()

    def get(self) -> R:
        result, failure = self._ended[0]
        if failure is not None:
            try:
                raise failure
            finally:
                # The traceback of the failure refers to this frame.
                del failure
        return result  # type: ignore[return-value]

    def has_failed(self, error: BaseException) -> bool:
        return any(failure is error for _, failure in self._ended)

    def discard(self) -> None:
        self.is_abandoned = True
        # pop() is atomic: of two threads, one discards the result.
        with suppress(IndexError):
            result, failure = self._ended.pop()
            if failure is None and self._discard is not None:
                self._discard(result)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Drop the result, which has an owner now, or the failure."""
        self.is_taken = True
        # The traceback of a failure refers to this object.
        self._ended.clear()


class Task(Generic[R]):
    """Work in a task of its own, with the context of the caller.

    Args:
        work: awaited in the task.
        discard: awaited with a result that nobody takes.

    Raises:
        RuntimeError: there is no running event loop.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[R]],
        discard: Callable[[R], Awaitable[object]] | None = None,
    ) -> None:
        self._loop = loop = find_loop()
        self._discards = discard is not None

        def discard_later(result: R) -> None:
            if discard is not None:
                _start_unwatched(loop, partial(discard, result))

        self._outcome: Outcome[R] = Outcome(discard_later)
        # The last one is set when the work is done, an earlier one if its wait was interrupted.
        self._events = events = [loop.Event()]

        def at_end() -> None:
            for event in events:
                event.set()

        self._cancel = loop.start(work, self._outcome, at_end)

    @property
    def is_done(self) -> bool:
        """Whether the work has ended."""
        is_done: bool = self._events[-1].is_set()
        return is_done

    @property
    def is_cancelled(self) -> bool:
        """Whether the work was cancelled and has no result, for example because the loop ends."""
        return self.is_done and not self._outcome.is_known

    async def wait(self) -> None:
        """Wait until the work is done, whether it was cancelled or not, or `interrupt` was called.

        The wait may be cancelled and repeated.
        """
        await self._events[-1].wait()

    def interrupt(self) -> None:
        """End the waits for the work; in the event loop only."""
        if not self.is_done:
            self._events.append(self._loop.Event())
            self._events[-2].set()

    def get_result(self) -> R:
        """Return the result, or raise the exception of the work, which was not cancelled."""
        return self._outcome.get()

    def has_failed(self, error: BaseException) -> bool:
        """Return whether this is the exception of the work."""
        return self._outcome.has_failed(error)

    def release(self) -> None:
        """Give up the result: the caller has stored it."""
        self._outcome.forget()

    def abandon(self) -> None:
        """Cancel the work, and discard its result; thread-safe and idempotent."""
        outcome, cancel = self._outcome, self._cancel
        if outcome.is_taken:
            return
        if self.is_done and not (self._discards and outcome.is_known):
            outcome.forget()
            return

        def end() -> None:
            # Once: another cancellation would interrupt the work while it cleans up.
            if not outcome.is_abandoned:
                cancel()
            outcome.discard()

        self._loop.call(end)

    def __del__(self) -> None:
        # An exception may have interrupted the constructor.
        with suppress(AttributeError):
            self.abandon()


def close_later(close: Callable[[], Awaitable[Any]]) -> None:
    """Await `close()` in a task of its own, if the caller runs in an event loop; ignore errors."""
    # There is no loop, or it is about to end.
    with suppress(RuntimeError):
        _start_unwatched(find_loop(), close)


def _start_unwatched(loop: AsyncioLoop | TrioLoop, work: Callable[[], Awaitable[Any]]) -> None:
    loop.start(work, Outcome(is_abandoned=True), lambda: None)


class KeptReads(AsyncIterator[bytes]):
    """Async chunks whose reads go on when the wait for them is cancelled.

    Each read is a `Task`, and the next wait takes its result.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._read: Task[bytes] | None = None

    async def __anext__(self) -> bytes:
        if self._read is None:
            self._read = Task(self._chunks.__anext__)
        read = self._read
        await read.wait()
        try:
            if read.is_cancelled:
                raise ConnectionAbortedError("The task that reads the source was cancelled")
            chunk = read.get_result()
        except BaseException as error:
            # Otherwise a signal handler raised, and the next wait takes the result.
            if read.is_cancelled or read.has_failed(error):
                self._read = None
                read.release()
            raise
        finally:
            # The traceback of an exception refers to this frame.
            del read
        # No call follows: a signal handler could raise in it, and the chunk would be lost.
        self._read = None
        return chunk

    def interrupt(self) -> None:
        """End the read under way; its waiter gets an error."""
        if self._read is not None:
            self._read.abandon()

    def closing_before(self, close: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Return `close` in a form that ends the read before."""

        async def stop_and_close() -> None:
            if (read := self._read) is not None:
                read.abandon()
                await read.wait()
                self._read = None
            await close()

        return stop_and_close
