"""EventSource and AsyncEventSource: the client that reconnects.

What to do next is decided in `_reconnect`, and the way there is in `_client_base`; here are the two
ways to wait.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._client_base import ClientBase, End, Over, refuse_async
from sse_fast._errors import StreamTimeout
from sse_fast._reconnect import ReadyState, ReconnectPolicy
from sse_fast._source import without_secrets
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters import acheck_response, as_async, check_response, running_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client_base import ClientOptions
    from sse_fast._parser import Event, Parser
    from sse_fast._request import Request
    from sse_fast._source import Response, Source

    D = TypeVar("D")
    R = TypeVar("R")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "AsyncEventSource",
    "EventSource",
    "ReadyState",
    "ReconnectPolicy",
    "afetch_event_source",
    "fetch_event_source",
]

_CLOSE_SECONDS = 1.0
"""The longest that a connection which is given up may take to close."""


class EventSource(ClientBase[T], Iterator["Event[T]"]):
    """The events of a URL, over as many connections as it takes: an iterator and a context manager.

    What the HTML standard's EventSource does (9.2), and what a server needs beside: any method and
    body, header fields, callbacks, limits. An event is taken when the next one is asked for;
    `last_event_id` is the id after the last event that was taken, and what the next connection asks
    to go on from. So an event may come twice, if the program stopped within it, but none is lost.

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization.
        method: the request method.
        headers: header fields: a mapping, pairs, or a callable without arguments that gives them
            before each attempt. None as a value leaves out a field that would be sent (Accept,
            Accept-Encoding, Cache-Control).
        json: a body to be sent as JSON.
        data: a body of bytes, text (as UTF-8) or a mapping (as a form).
        client: a `requests.Session`, `urllib3.PoolManager`, `httpx.Client` or `httpx2.Client`
            (`AsyncEventSource`: `httpx.AsyncClient`, `httpx2.AsyncClient`,
            `aiohttp.ClientSession`), whose cookies, auth, parameters and proxies are used, and
            which stays open. A request that `close()` interrupts before its response goes on in a
            thread, up to its time-out. None: HTTP/1.1 over sockets of our own (extra `client`).
        uds: the path of a Unix socket to connect to, without a client.
        ssl_context: for https without a client. A certificate of your own in it, as in that of a
            client, is shown to every server that asks for one, also where a redirect leads.
        last_event_id: the id to go on from, for example that of an earlier process.
        policy: when to ask again, a `ReconnectPolicy`.
        until: what ends the stream, as in `Parser`. A stream that ends without it was cut off.
        decode: as in `Parser`.
        resume: how to ask for the rest after a first response: "get" (a GET of the same URL with
            Last-Event-ID, as MCP has it), a callable that gets the last event ID and returns the
            URL to GET or a mapping of url, method, headers, json, data (to another origin goes
            nothing else of yours or of the client's); None: by the same request.
        resend: whether a request other than GET or HEAD may be sent again, although the server may
            have acted on it.
        on_open: called with the `Response` of each attempt that was answered, before it is judged.
        on_error: called with each failure. A number of seconds: ask again after those; None: as the
            policy says; an exception ends it.
        on_comment: as in `Parser`.
        on_chunk: as in `iter_events`.
        connect_timeout: seconds to connect; None: no limit.
        idle_timeout: seconds without a byte, comments included, after which the connection is given
            up; None: no limit.
        event_timeout: seconds without an event, while one is waited for (or the response), after
            which the connection is given up: at once by `AsyncEventSource`, else when the next
            bytes arrive, or after as long without any; None: no limit.
        max_event_size: as in `Parser`.

    Attributes:
        url: as it was given.
        response: the latest `Response`, or None.
        end_reason: the `EndReason`; None while it runs.

    Raises:
        ValueError: a URL, method, header field or time-out that is none.
        TypeError: a wrong type; a body that could not be sent twice; a client of the other kind.
        ImportError: the extra `client` is missing.

    While iterating, behind all that the policy does: `ResponseError`, `TransportError`,
    `StreamTimeout` before and `StreamIncomplete` within the stream; what `Parser.feed` raises; and
    what callbacks raise, but for `RetriableError`, which asks again whatever the policy says. After
    a `DecodeError`, or an exception of `on_comment`, `on_chunk` or `until`, it goes on.
    """

    _is_async = False
    _stream: EventStream[T] | None

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: EventSource[str],
            url: str,
            *,
            decode: None = ...,
            **options: Unpack[ClientOptions[str]],
        ) -> None: ...
        @overload
        def __init__(
            self: EventSource[D],
            url: str,
            *,
            decode: Callable[[bytes], D],
            **options: Unpack[ClientOptions[D]],
        ) -> None: ...
        @overload
        def __init__(
            self: EventSource[Any],
            url: str,
            *,
            decode: Mapping[str, Callable[[bytes], Any]],
            **options: Unpack[ClientOptions[Any]],
        ) -> None: ...
        def __init__(self, url: str, **options: Any) -> None: ...

    def __next__(self) -> Event[T]:
        if self._watched is not None:
            self._watched.since = time.monotonic()
        caught: BaseException | None = None
        stream = self._stream
        if stream is not None and not self._busy:
            # Whoever asks for the next event has done with the one before.
            stream.take()
            try:
                event: Event[T] = next(stream)
            except StopIteration:
                caught = End()
            except BaseException as error:
                caught = error
            else:
                self._had_event = True
                return event
        try:
            event = _at_once(self._advance(caught))
        except Over:
            raise StopIteration from None
        finally:
            caught = None
        self._had_event = True
        return event

    def __enter__(self) -> Self:
        _at_once(self._open())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> Response:
        """Ask, if there is no connection, until there is one; return its response.

        `with` and the first event do the same. Where the server has no events (204), the response
        says so.
        """
        _at_once(self._open())
        return self._opened()

    def run(
        self, on_message: Callable[[Event[T]], Any], *, on_close: Callable[[], Any] | None = None
    ) -> EndReason:
        """Call `on_message` with each event, until there are no more; return why.

        An event is taken when `on_message` has returned. What it raises goes to `on_error`, and
        then out of here: the next call begins with the same event.

        Args:
            on_message: called with each event.
            on_close: called at each clean end of a connection.
        """
        refuse_async(on_message=on_message, on_close=on_close)
        before, self._on_close = self._on_close, on_close
        try:
            for event in self:
                try:
                    _refuse_awaitable(on_message(event))
                except BaseException as error:
                    failure = error
                else:
                    continue
                _at_once(self._not_taken(failure))
        finally:
            self._on_close = before
        assert self.end_reason is not None
        return self.end_reason

    def _end_stream(self, stream: EventStream[T] | None) -> None:
        if stream is not None:
            stream.close()
        self._signals.put(None)

    def _wait_for(self, happened: Callable[[], object], seconds: float | None = None) -> None:
        """Until that is so, or the time is up. Not by a Condition, which loses the signal that
        comes from the handler of a signal of the system."""
        due = None if seconds is None else time.monotonic() + seconds
        with suppress(Empty):
            while not happened():
                left = None if due is None else max(0.0, due - time.monotonic())
                self._signals.get(timeout=left)

    def _elsewhere(self, work: Callable[[], R], discard: Callable[[R | None], object]) -> R:
        """What `work` returns, in a thread of its own, which close() can leave behind: it goes on
        to its end, and what came of it is given to `discard`; at once, with None, to hasten it."""
        done: list[tuple[R | None, BaseException | None]] = []
        left = False
        context = contextvars.copy_context()

        def run() -> None:
            result = failure = None
            try:
                result = context.run(work)
            except BaseException as error:
                failure = error
            done.append((result, failure))
            self._signals.put(None)
            if left and failure is None:
                discard(result)

        threading.Thread(target=run, name="sse_fast", daemon=True).start()
        try:
            self._wait_for(lambda: done or self._closed)
        except BaseException:
            left = True
            discard(done[0][0] if done else None)
            raise
        if not done:
            left = True
            # It may have come to its end just now.
            discard(done[0][0] if done else None)
            raise Over
        result, failure = done[0]
        if failure is not None:
            raise failure
        return cast("R", result)

    async def _send(self, request: Request) -> Source:
        wakers: list[Callable[[], object]] = []
        left_behind = False

        def connected(wake: Callable[[], object]) -> None:
            wakers.append(wake)
            if left_behind:
                wake()

        options = {"connected": connected} if self._raw else {}
        # Where nothing arrives for so long, neither does an event.
        quiet = [each for each in (self._idle_timeout, self._event_timeout) if each is not None]

        def discard(source: Source | None) -> None:
            nonlocal left_behind
            left_behind = True
            for wake in wakers if source is None else ():
                with suppress(Exception):
                    wake()
            if source is not None and source.close is not None:
                with suppress(Exception):
                    source.close()

        # Most libraries show nothing of a connection before its response has come.
        source = self._elsewhere(
            lambda: cast(
                "Source",
                self._send_by(request, self._connect_timeout, min(quiet, default=None), **options),
            ),
            discard,
        )
        return source._replace(chunks=iter(cast("Iterable[bytes]", source.chunks)))

    async def _check(self, source: Source, objection: str) -> EndReason | None:
        if not objection:
            return check_response(source)

        def discard(reason: EndReason | None) -> None:
            # Whoever reads holds a lock that closing would wait for.
            if source.wake is not None:
                with suppress(Exception):
                    source.wake()

        # To read what a server has to say may take two seconds.
        return self._elsewhere(lambda: check_response(source, objection), discard)

    async def _close_source(self, source: Source) -> None:
        if source.close is not None:
            with suppress(Exception):
                source.close()

    def _make_stream(self, source: Source, parser: Parser[T]) -> EventStream[T]:
        return EventStream(source, parser, self._on_chunk)

    async def _release(self, stream: EventStream[T]) -> None:
        with suppress(Exception):
            stream.close()

    async def _read(self) -> Event[T]:
        for event in cast("EventStream[T]", self._stream):
            return event
        raise End

    async def _sleep(self, seconds: float) -> None:
        self._wait_for(lambda: self._closed or self._asked is not None, seconds)

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        return _refuse_awaitable(callback(*arguments))


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
            source = await self._send_by(request, self._connect_timeout, self._idle_timeout)
            return source if isinstance(source.chunks, AsyncIterator) else as_async(source)
        if self._closed:
            raise Over
        raise StreamTimeout(
            f"Expected a response of {without_secrets(request.url)} within {self._event_timeout:g} "
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


def fetch_event_source(
    url: str,
    *,
    on_message: Callable[[Event[Any]], Any],
    on_close: Callable[[], Any] | None = None,
    **options: Any,
) -> EndReason:
    """Call `on_message` with each event of a URL, until there are no more; return why.

    Args:
        url: as in `EventSource`.
        on_message: called with each event; it is taken when that has returned.
        on_close: called at each clean end of a connection.
        **options: the keywords of `EventSource`, and its errors.
    """
    # Before anything is sent.
    refuse_async(on_message=on_message, on_close=on_close)
    with EventSource(url, **options) as source:
        return source.run(on_message, on_close=on_close)


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


def _at_once(steps: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends."""
    try:
        steps.send(None)
    except StopIteration as stop:
        return cast("R", stop.value)
    raise RuntimeError("Expected a coroutine that does not suspend, got one that does")


async def _in_short(close: Callable[[], Awaitable[Any]]) -> None:
    """Also in a task that has been cancelled."""
    import anyio

    with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(Exception):
        await close()


def _event_loop() -> tuple[Any, Any]:
    """What runs a function in the present event loop, from any thread, and what starts a coroutine
    function there, from within."""
    if (trio := running_trio()) is not None:
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


def _refuse_awaitable(answer: Any) -> Any:
    if answer is not None and inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(
            "Expected a callback that is not awaited, got one that wants it: use AsyncEventSource"
        )
    return answer
