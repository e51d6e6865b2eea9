"""Work in a task of its own, which outlives the wait for it: over asyncio and trio.

`find_loop` returns the running event loop, with the same methods for both libraries. A `Task` keeps
the result of its work until it is taken. `KeptReads` lets each read of a source be such a task.

A running task refers to its work and to its outcome, never to its `Task`. So a `Task` that is
dropped, together with the stream, the relay or the client that owns it, ends its work.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

R = TypeVar("R")

__all__ = [
    "KeptReads",
    "Outcome",
    "Task",
    "close_later",
    "find_loop",
    "get_running_trio",
    "start_thread",
]

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

    # A client keeps one for each connection.
    __slots__ = ("Cancelled", "Event", "_asyncio", "_loop")

    def __init__(self, asyncio: Any) -> None:
        self._asyncio = asyncio
        self._loop = asyncio.get_running_loop()
        self.Event = asyncio.Event
        self.Cancelled = asyncio.CancelledError

    def call(self, function: Callable[[], object]) -> None:
        """Call the function in the loop, unless the loop has ended; thread-safe."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def start(
        self,
        pending: list[Callable[[], Awaitable[R]]],
        outcome: Outcome[R],
        at_end: Callable[[], object],
        cancels: list[Callable[[], object]],
    ) -> None:
        """Await the work in a task of its own, with the context of the caller; in the loop only.

        Args:
            pending: the work, which the task takes. So a call that an exception interrupted can be
                repeated.
            outcome: gets the result or the exception, but no cancellation.
            at_end: called at the end, possibly several times.
            cancels: gets the function that cancels the task, to be called in the loop.
        """
        has_begun = False

        async def run() -> None:
            nonlocal has_begun
            has_begun = bool(pending)
            if not has_begun:
                return
            try:
                cancels.append(self._asyncio.current_task().cancel)
                outcome.ended.append((await pending.pop()(), None))
            except self.Cancelled:
                # A cancelled task would keep it, and thereby its frames and the source.
                pass
            except BaseException as error:
                outcome.ended.append((None, error))
                if not isinstance(error, Exception):
                    # The loop stops at Ctrl-C, wherever it is raised.
                    raise
            finally:
                outcome.settle()
                at_end()

        def finish(task: Any) -> None:
            # The task does not call it if it was cancelled before it began, or if a signal handler
            # raises.
            if has_begun or pending:
                at_end()
            _running.discard(task)
            # Retrieve the exception, which the outcome has as well.
            if not task.cancelled():
                task.exception()

        task = self._loop.create_task(run())
        _running.add(task)
        task.add_done_callback(finish)

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

    __slots__ = ("Cancelled", "Event", "_token", "_trio")

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
        pending: list[Callable[[], Awaitable[R]]],
        outcome: Outcome[R],
        at_end: Callable[[], object],
        cancels: list[Callable[[], object]],
    ) -> None:
        scope = self._trio.CancelScope()

        async def run() -> None:
            if not pending:
                return
            try:
                with scope:
                    outcome.ended.append((await pending.pop()(), None))
            except self.Cancelled:
                # The whole of trio ends.
                raise
            except BaseException as error:
                outcome.ended.append((None, error))
            finally:
                outcome.settle()
                at_end()

        cancels.append(scope.cancel)
        self._trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())

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
        # At most one item. It is appended in one step of C, in which no signal handler raises.
        self.ended: list[tuple[R | None, BaseException | None]] = []
        self.is_abandoned = is_abandoned
        # Whether the result has an owner.
        self.is_taken = False

    @property
    def is_known(self) -> bool:
        return bool(self.ended)

    def set(self, result: R | None, failure: BaseException | None) -> None:
        self.ended.append((result, failure))
        self.settle()

    def settle(self) -> None:
        """Discard the result if nobody will take it."""
        if self.is_abandoned:
            self.discard()

    def get(self) -> R:
        result, failure = self.ended[0]
        if failure is not None:
            try:
                raise failure
            finally:
                # The traceback of the failure refers to this frame.
                del failure
        return result  # type: ignore[return-value]

    def has_failed(self, error: BaseException | None = None) -> bool:
        """Return whether the work has raised: this exception, or any."""
        failures = [failure for _, failure in self.ended if failure is not None]
        return any(error is None or error is failure for failure in failures)

    def discard(self) -> None:
        self.is_abandoned = True
        # pop() is atomic: of two threads, one discards the result.
        with suppress(IndexError):
            result, failure = self.ended.pop()
            if failure is None and self._discard is not None:
                self._discard(result)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Drop the result, which has an owner now, or the failure."""
        self.is_taken = True
        # The traceback of a failure refers to this object.
        self.ended.clear()


def start_thread(pending: list[Callable[[], object]], name: str) -> None:
    """Call the only function of a list in a daemon thread, with the context of the caller.

    It is taken out of the list, so that a call can be repeated that an exception interrupted. A
    daemon does not keep the process alive if nothing wakes it.
    """
    if pending:
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(_run_once, pending), name=name, daemon=True).start()


def _run_once(pending: list[Callable[[], object]]) -> None:
    with suppress(IndexError):
        pending.pop()()


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

        self._at_end = at_end
        self._pending = [work]
        self._cancels: list[Callable[[], object]] = []

    def start(self) -> None:
        """Start the work; in the event loop only. It may be called again."""
        if self._pending and not self.is_done:
            self._loop.start(self._pending, self._outcome, self._at_end, self._cancels)

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
        outcome, pending, at_end, cancels = (
            self._outcome,
            self._pending,
            self._at_end,
            self._cancels,
        )
        if outcome.is_taken:
            return
        if self.is_done and not (self._discards and outcome.is_known):
            outcome.forget()
            return

        def end() -> None:
            if pending:
                pending.clear()
                at_end()
            # Once: another cancellation would interrupt the work while it cleans up.
            while cancels:
                cancels.pop()()
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
    loop.start([work], Outcome(is_abandoned=True), lambda: None, [])


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
        read.start()
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
            # The traceback of the exception refers to this frame.
            del read
            raise
        try:
            self._read = None
            return chunk
        except BaseException:
            # A signal handler raised.
            self._read = read
            raise

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
