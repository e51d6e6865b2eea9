"""Work that goes on when the wait for it is given up: in a thread, or in a task.

The client sends each request as such a job. A wait for a response may time out or be cancelled at
any moment; the next wait takes the result, so that no request is sent twice.

A thread or a task refers to the outcome only, not to its job. So a job that is dropped, with the
source that owns it, is abandoned: the work is woken or cancelled, and its result is discarded.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sse_fast._errors import TransportError
from sse_fast._wake import get_running_trio

if TYPE_CHECKING:
    from queue import SimpleQueue

R = TypeVar("R")

__all__ = ["TaskJob", "ThreadJob"]

_tasks: set[Any] = set()
"""The tasks of asyncio that run, since its loops hold them by weak references only."""


class _Outcome(Generic[R]):
    """The result or the failure of a job, until it is taken or discarded.

    Args:
        discard: called with a result that nobody takes.
    """

    def __init__(self, discard: Callable[[R], object]) -> None:
        self._discard = discard
        self._ended: list[tuple[R | None, BaseException | None]] = []
        self.is_abandoned = False
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

    def discard(self) -> None:
        self.is_abandoned = True
        # pop() is atomic: of two threads, one discards the result.
        with suppress(IndexError):
            result, failure = self._ended.pop()
            if failure is None:
                self._discard(result)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Drop the result, which has an owner now, or the failure."""
        self.is_taken = True
        # The traceback of a failure refers to this object.
        self._ended.clear()


class ThreadJob(Generic[R]):
    """Work in a daemon thread.

    Args:
        work: called in the thread, with the context of the caller.
        signals: gets an item when the work is done.
        wake: ends the work early, from any thread.
        discard: called with a result that nobody takes, in any thread.
    """

    def __init__(
        self,
        work: Callable[[], R],
        signals: SimpleQueue[None],
        wake: Callable[[], object],
        discard: Callable[[R], object],
    ) -> None:
        self._outcome: _Outcome[R] = _Outcome(discard)
        self._wake = wake
        # Calls the work once, whichever thread comes first.
        self._pending = [_bind_work(work, self._outcome, signals)]

    def start(self) -> None:
        """Start the thread; idempotent, also if an exception interrupted an earlier call."""
        if self._pending:
            pending = self._pending
            threading.Thread(
                target=_run_once, args=(pending,), name="sse_fast", daemon=True
            ).start()

    @property
    def is_done(self) -> bool:
        """Whether `get_result` may be called."""
        return self._outcome.is_known

    def get_result(self) -> R:
        """Return the result, or raise the exception of the work."""
        return self._outcome.get()

    def release(self) -> None:
        """Give up the result: the caller has stored it."""
        self._outcome.forget()

    def abandon(self) -> None:
        """End the work early, and discard its result; thread-safe and idempotent."""
        if self._outcome.is_taken:
            return
        self._pending.clear()
        self._outcome.is_abandoned = True
        if not self.is_done:
            with suppress(Exception):
                self._wake()
        self._outcome.discard()

    def __del__(self) -> None:
        # An exception may have interrupted the constructor.
        with suppress(AttributeError):
            self.abandon()


def _bind_work(
    work: Callable[[], R], outcome: _Outcome[R], signals: SimpleQueue[None]
) -> Callable[[], None]:
    context = contextvars.copy_context()

    def run() -> None:
        result = failure = None
        try:
            result = context.run(work)
        except BaseException as error:
            failure = error
        outcome.set(result, failure)
        # The traceback of the failure refers to this frame.
        del result, failure
        signals.put(None)

    return run


def _run_once(pending: list[Callable[[], None]]) -> None:
    with suppress(IndexError):
        pending.pop()()


class TaskJob(Generic[R]):
    """Work in a task of asyncio, or in a system task of trio, out of which no exception comes.

    Args:
        work: awaited in the task, with the context of the caller.
        discard: awaited with a result that nobody takes.
    """

    def __init__(
        self, work: Callable[[], Awaitable[R]], discard: Callable[[R], Awaitable[object]]
    ) -> None:
        import anyio

        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._woken = anyio.Event()
        self._call_in_loop, start = _find_loop()

        def discard_later(result: R) -> None:
            start(lambda: discard(result), [])

        self._outcome: _Outcome[R] = _Outcome(discard_later)
        start(_bind_awaitable(work, self._outcome, self._scope), [self._done, self._woken])

    @property
    def is_done(self) -> bool:
        """Whether `get_result` may be called."""
        return self._done.is_set()

    async def wait(self) -> None:
        """Wait until the work is done, or `interrupt` was called.

        The wait may be cancelled and repeated.
        """
        await self._woken.wait()

    async def wait_until_done(self) -> None:
        """Wait until the work is done, whether it was cancelled or not."""
        await self._done.wait()

    def interrupt(self) -> None:
        """End the wait for the work; in the event loop only."""
        self._woken.set()

    def get_result(self) -> R:
        """Return the result, or raise the exception of the work.

        Raises:
            TransportError: the work was cancelled, for example because the event loop ends.
        """
        if not self._outcome.is_known:
            raise TransportError(
                "The task that sends the request was cancelled: call reconnect() to ask again",
                phase="head",
            )
        return self._outcome.get()

    def release(self) -> None:
        """Give up the result: the caller has stored it."""
        self._outcome.forget()

    def abandon(self) -> None:
        """Cancel the work, and discard its result; in the event loop only, idempotent."""
        if not self._outcome.is_taken:
            self._scope.cancel()
            self._outcome.discard()

    def __del__(self) -> None:
        # Any thread may drop the job, and the loop may be closed. An exception may have interrupted
        # the constructor.
        with suppress(RuntimeError, AttributeError):
            if not self._outcome.is_taken and (not self.is_done or self._outcome.is_known):
                self._call_in_loop(_bind_abandon(self._scope, self._outcome))


def _bind_abandon(scope: Any, outcome: _Outcome[Any]) -> Callable[[], None]:
    def abandon() -> None:
        scope.cancel()
        outcome.discard()

    return abandon


def _bind_awaitable(
    work: Callable[[], Awaitable[R]], outcome: _Outcome[R], scope: Any
) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        with scope:
            try:
                result = await work()
            except Exception as error:
                outcome.set(None, error)
            else:
                outcome.set(result, None)

    return run


def _find_loop() -> tuple[Callable[[Callable[[], object]], object], Callable[..., object]]:
    """Return two functions of the running event loop.

    Returns:
        A thread-safe function that calls a function in the loop; and a function that starts a
        coroutine function in a task of its own, at whose end it sets the events, to be called in
        the loop.
    """
    if (trio := get_running_trio()) is not None:
        token = trio.lowlevel.current_trio_token()

        def spawn(work: Callable[[], Awaitable[None]], events: list[Any]) -> None:
            trio.lowlevel.spawn_system_task(
                _swallow, work, events, trio.Cancelled, context=contextvars.copy_context()
            )

        return token.run_sync_soon, spawn
    # Imported late, because most programs are synchronous.
    import asyncio

    loop = asyncio.get_running_loop()

    def start(work: Callable[[], Any], events: list[Any]) -> None:
        task = loop.create_task(work())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        # A waiter is woken however the task ends; twice, because a signal handler may raise in the
        # first callback.
        for event in events * 2:
            task.add_done_callback(partial(_set_event, event))
        # Retrieve the exception of an interrupted task; the outcome has those of the work.
        task.add_done_callback(_retrieve)

    return loop.call_soon_threadsafe, start


def _set_event(event: Any, task: object) -> None:
    event.set()


def _retrieve(task: Any) -> None:
    if not task.cancelled():
        task.exception()


async def _swallow(
    work: Callable[[], Awaitable[None]], events: list[Any], cancelled: type[BaseException]
) -> None:
    """Await `work`, and let no exception out: it would end the whole run of trio."""
    try:
        await work()
    except cancelled:
        raise
    except BaseException:
        # The outcome of the job has no result, which the next wait reports.
        return
    finally:
        for event in events:
            event.set()
