"""Tasks in the background, which outlive the task that started them: over asyncio and trio.

A backend is a class of tasks, whose `gate` is a class of waits. `select_backend` returns that of
the library that runs.
"""

from __future__ import annotations

import contextvars
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._wake import get_running_trio

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["AsyncioGate", "AsyncioTask", "TrioGate", "TrioTask", "select_backend"]

_RUNNING: set[Any] = set()
"""The tasks of asyncio, to which a loop refers weakly."""


class AsyncioGate:
    """A wait that ends when the gate is opened, or after some seconds."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._is_open = False

    def open(self) -> None:
        self._is_open = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float | None = None) -> bool:
        """Return whether the gate was opened, and shut it."""
        if not self._is_open:
            self._waiter = self._loop.create_future()
            timer = None if seconds is None else self._loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        was_open, self._is_open = self._is_open, False
        return was_open


class AsyncioTask:
    """A task that outlives the task that started it, and that any thread can cancel."""

    gate = AsyncioGate

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        import asyncio

        async def run() -> None:
            # A cancelled task would keep its exception, and thereby its frames and the source.
            with suppress(asyncio.CancelledError):
                await work(*arguments)

        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(run())
        # The loop refers to its tasks weakly.
        _RUNNING.add(self._task)
        self._task.add_done_callback(_RUNNING.discard)

    def cancel(self) -> None:
        with suppress(RuntimeError):  # The loop is closed, and has cancelled its tasks.
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def wait(self) -> None:
        import asyncio

        await asyncio.wait({self._task})


class TrioGate:
    """`AsyncioGate` under trio."""

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._event = trio.Event()

    def open(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None = None) -> bool:
        with self._trio.move_on_after(float("inf") if seconds is None else seconds):
            await self._event.wait()
        was_open = self._event.is_set()
        if was_open:
            self._event = self._trio.Event()
        return was_open


class TrioTask:
    """`AsyncioTask` under trio: a system task, since no nursery of the program outlives it."""

    gate = TrioGate

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        import trio

        self._scope = scope = trio.CancelScope()
        self._finished = finished = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

        async def run() -> None:
            try:
                with scope:
                    await work(*arguments)
            except trio.Cancelled:
                raise
            except BaseException:
                # An exception of a system task would end trio; the relay raises it.
                pass
            finally:
                finished.set()

        trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())

    def cancel(self) -> None:
        with suppress(Exception):  # trio has ended, and has cancelled its tasks.
            self._token.run_sync_soon(self._scope.cancel)

    async def wait(self) -> None:
        await self._finished.wait()


def select_backend() -> type[AsyncioTask | TrioTask]:
    return AsyncioTask if get_running_trio() is None else TrioTask
