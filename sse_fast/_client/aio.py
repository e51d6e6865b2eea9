"""AsyncEventSource and afetch_event_source: the client over asyncio and trio.

`reconnect` decides what to do next and `base` does it; this file waits.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._check import acheck_response
from sse_fast._client.base import ClientBase, End, Over
from sse_fast._errors import StreamTimeout
from sse_fast._source import as_async, redact_url
from sse_fast._stream import AsyncEventStream, EndReason
from sse_fast._wake import get_running_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client.base import ClientOptions
    from sse_fast._core.parser import Event, Parser
    from sse_fast._request import Request
    from sse_fast._source import Response, Source

    D = TypeVar("D")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["AsyncEventSource", "afetch_event_source"]

_CLOSE_SECONDS = 1.0
"""The longest that a connection which is given up may take to close."""


class AsyncEventSource(ClientBase[T], AsyncIterator["Event[T]"]):
    """The async twin of `EventSource`, for asyncio and, with a client of httpx, for trio.

    `on_open`, `on_error`, `on_message`, `on_close`, `headers` and `resume` may be async. A wait for
    an event that is cancelled loses none: the next one connects anew, from the last event that was
    taken.
    """

    _is_async = True
    _stream: AsyncEventStream[T] | None
    # What runs a function in the event loop, from any thread; and a coroutine, from within.
    _in_loop: Callable[[Callable[[], object]], object] | None = None
    _start: Callable[[Callable[[], Awaitable[None]]], object]
    # What ends the wait for a response, and for the next attempt.
    _scope: Any = None
    _alarm: Any = None

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: AsyncEventSource[str],
            url: str,
            *,
            decode: None = ...,
            **options: Unpack[ClientOptions[str]],
        ) -> None: ...
        @overload
        def __init__(
            self: AsyncEventSource[D],
            url: str,
            *,
            decode: Callable[[bytes], D],
            **options: Unpack[ClientOptions[D]],
        ) -> None: ...
        @overload
        def __init__(
            self: AsyncEventSource[Any],
            url: str,
            *,
            decode: Mapping[str, Callable[[bytes], Any]],
            **options: Unpack[ClientOptions[Any]],
        ) -> None: ...
        def __init__(self, url: str, **options: Any) -> None: ...

    async def __anext__(self) -> Event[T]:
        if self._watched is not None:
            self._watched.since = time.monotonic()
        caught: BaseException | None = None
        stream = self._stream
        if stream is not None and not self._busy:
            stream.take()
            try:
                event: Event[T] = await stream.__anext__()
            except StopAsyncIteration:
                caught = End()
            except GeneratorExit:
                # Nothing can be awaited any more.
                raise
            except BaseException as error:
                caught = error
            else:
                self._had_event = True
                return event
        try:
            event = await self._advance(caught)
        except Over:
            raise StopAsyncIteration from None
        finally:
            caught = None
        self._had_event = True
        return event

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except GeneratorExit:
            raise
        except BaseException:
            # There will be no __aexit__.
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> Response:
        """Ask, if there is no connection, until there is one; return its response.

        `async with` and the first event do the same. Where the server has no events (204), the
        response says so.
        """
        await self._open()
        return self._opened()

    async def run(
        self, on_message: Callable[[Event[T]], Any], *, on_close: Callable[[], Any] | None = None
    ) -> EndReason:
        """Call `on_message` with each event, until there are no more; return why.

        An event is taken when `on_message` has returned, or been awaited. What it raises goes to
        `on_error`, and then out of here: the next call begins with the same event.

        Args:
            on_message: called with each event.
            on_close: called at each clean end of a connection.
        """
        before, self._on_close = self._on_close, on_close
        try:
            async for event in self:
                try:
                    await self._call(on_message, event)
                except GeneratorExit:
                    # Nothing can be awaited any more.
                    raise
                except BaseException as error:
                    failure = error
                else:
                    continue
                await self._not_taken(failure)
        finally:
            self._on_close = before
        assert self.end_reason is not None
        return self.end_reason

    async def aclose(self) -> None:
        """What `close()` does, and wait until the connection is given free."""
        self._mark_closed()
        stream = self._stream
        self._wake(None)
        if stream is not None:
            await self._release(stream)

    def _enter(self) -> None:
        super()._enter()
        self._in_loop, self._start = _event_loop()

    def _end_stream(self, stream: AsyncEventStream[T] | None) -> None:
        if stream is not None:
            stream.end()
        if self._in_loop is not None:
            # The loop may have been closed.
            with suppress(RuntimeError):
                self._in_loop(partial(self._wake, stream))

    def _wake(self, stream: AsyncEventStream[T] | None) -> None:
        """In the event loop."""
        if self._scope is not None and self._closed:
            self._scope.cancel()
        if self._alarm is not None:
            self._alarm.set()
        if stream is not None:
            # The loop may be about to end, and what is in it with it.
            with suppress(RuntimeError):
                self._start(stream.aclose)

    async def _send(self, request: Request) -> Source:
        import anyio

        with anyio.move_on_after(self._event_timeout) as self._scope:
            if self._closed:
                raise Over
            source = await self._send_request(request, self._connect_timeout, self._idle_timeout)
            return source if isinstance(source.chunks, AsyncIterator) else as_async(source)
        if self._closed:
            raise Over
        raise StreamTimeout(
            f"Expected a response of {redact_url(request.url)} within {self._event_timeout:g} "
            "seconds, got none: raise event_timeout if it may take longer",
            phase="head",
        )

    async def _check(self, source: Source, objection: str) -> EndReason | None:
        import anyio

        with anyio.CancelScope() as self._scope:
            return await acheck_response(source, objection)
        raise Over

    async def _close_source(self, source: Source) -> None:
        if source.close is not None:
            await _in_short(source.close)

    def _make_stream(self, source: Source, parser: Parser[T]) -> AsyncEventStream[T]:
        return AsyncEventStream(source, parser, self._on_chunk)

    async def _release(self, stream: AsyncEventStream[T]) -> None:
        await _in_short(stream.aclose)

    async def _read(self) -> Event[T]:
        async for event in cast("AsyncEventStream[T]", self._stream):
            return event
        raise End

    async def _sleep(self, seconds: float) -> None:
        import anyio

        self._alarm = anyio.Event()
        # Looked at only now: what comes later sets the alarm.
        if not self._closed and self._asked is None:
            with anyio.move_on_after(seconds):
                await self._alarm.wait()

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        answer = callback(*arguments)
        if answer is not None and inspect.isawaitable(answer):
            answer = await answer
        return answer


async def afetch_event_source(
    url: str,
    *,
    on_message: Callable[[Event[Any]], Any],
    on_close: Callable[[], Any] | None = None,
    **options: Any,
) -> EndReason:
    """The async twin of `fetch_event_source`; its callbacks may be async."""
    async with AsyncEventSource(url, **options) as source:
        return await source.run(on_message, on_close=on_close)


async def _in_short(close: Callable[[], Awaitable[Any]]) -> None:
    """Also in a task that has been cancelled."""
    import anyio

    with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(Exception):
        await close()


def _event_loop() -> tuple[Any, Any]:
    """What runs a function in the present event loop, from any thread, and what starts a coroutine
    function there, from within.
    """
    if (trio := get_running_trio()) is not None:
        token = trio.lowlevel.current_trio_token()
        return token.run_sync_soon, lambda work: trio.lowlevel.spawn_system_task(_in_short, work)
    import asyncio

    loop = asyncio.get_running_loop()
    tasks: set[Any] = set()

    def start(work: Callable[[], Awaitable[None]]) -> None:
        task = loop.create_task(_in_short(work))
        # The loop itself holds it weakly.
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return loop.call_soon_threadsafe, start
