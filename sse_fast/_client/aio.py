"""AsyncEventSource and afetch_event_source: the client over asyncio and trio.

`reconnect` decides what to do next and `base` does it; this file waits.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._background import Task, close_later, find_loop
from sse_fast._check import acheck_response
from sse_fast._client.base import ClientBase
from sse_fast._client.state import ConnectionEnded, Opening, SourceExhausted
from sse_fast._core.parser import ACCELERATED
from sse_fast._errors import StreamTimeout, TransportError
from sse_fast._interrupts import IgnoredErrors
from sse_fast._seconds import check_seconds
from sse_fast._source import as_async, redact_url
from sse_fast._stream import AsyncEventStream, EndReason
from sse_fast._wake import adrain

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client.options import ClientOptions
    from sse_fast._core.parser import Event
    from sse_fast._source import Response, Source
    from sse_fast._watch import Watch

    D = TypeVar("D")
    R = TypeVar("R")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["AsyncEventSource", "afetch_event_source"]

_CLOSE_SECONDS = 1.0
"""The longest that a connection which is given up may take to close."""


class _PlainAnext:
    """`AsyncEventSource.__anext__` without the compiled fast path."""

    __slots__ = ()

    def __anext__(self) -> Any:
        return self._anext()

    async def _anext(self) -> Any:
        raise NotImplementedError


if TYPE_CHECKING or not ACCELERATED:
    _FastAnext = _PlainAnext
else:
    from sse_fast._client._source_c import FastAnext as _FastAnext


class AsyncEventSource(_FastAnext, ClientBase[T], AsyncIterator["Event[T]"]):
    """The events of a URL, over as many connections as it takes: an async iterator.

    It is an async context manager as well. All of it runs on asyncio, and with a client of httpx or
    httpx2 also on trio.

    It implements the EventSource of the HTML standard (9.2), and adds any method and body, header
    fields, callbacks and limits. An event counts as taken when the next one is asked for.
    `last_event_id` is the id after the last event taken, from which the next connection resumes. So
    no event is lost, but an event is delivered again if the program stopped before it asked for the
    next one.

    A cancelled wait loses nothing and repeats no request: the next wait goes on where it was, for
    the response, an event or the next attempt. `on_open`, `on_error`, `headers`, `resume` and the
    callbacks of `run` can be async.

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization. A
            relative one is joined to the `base_url` of the client.
        method: the request method.
        headers: header fields: a mapping, pairs, or a callable without arguments that returns
            them before each attempt (may be async). None as a value removes a default field
            (Accept, Accept-Encoding, Cache-Control) or Last-Event-ID.
        json: a body to be sent as JSON.
        data: a body of bytes, text (as UTF-8) or a mapping (as a form).
        client: an `httpx.AsyncClient`, `httpx2.AsyncClient` or `aiohttp.ClientSession`, whose
            cookies, auth, parameters and proxies are used, and which stays open. None: our own
            HTTP/1.1 transport, over asyncio only (extra `client`).
        uds: the path of a Unix socket to connect to; without `client` only.
        ssl_context: the `ssl.SSLContext` for https; without `client` only. Its client certificate
            is sent to every server that asks for one, including the targets of redirects. The same
            holds for the certificate of a `client`.
        last_event_id: the id to resume from, for example that of an earlier process; None is "".
        policy: when to connect again, a `ReconnectPolicy`.
        until: what ends the stream, as in `Parser`. A stream that ends without it was cut off.
        until_event: event types that end the stream, as in `Parser`. A stream that ends without
            such an event, or block without data, was cut off.
        decode: as in `Parser`.
        resume: how to ask for the rest after a first stream. "get": by a GET of the same URL with
            Last-Event-ID, as MCP does. A callable (may be async): gets the last event ID and
            returns the URL to GET, or a mapping of url, method, headers, json and data; nothing
            else of yours or of the client's is sent to another origin. None: by the same request.
        resend: whether a request other than GET or HEAD may be sent again, although the server may
            have acted on it.
        check: whether to refuse a success other than 200, or a content type that is not
            text/event-stream. Statuses from 300 on, 204 and 205 follow the policy in any case.
        name: the name of the source in logs and in its `repr`; None: its URL without the query.
        on_open: called with the final `Response` of each attempt, before it is accepted or refused.
            `ready_state` is OPEN in it if the response will be accepted.
        on_error: called with each failure. Return seconds to reconnect after, or None to follow the
            policy, or raise to end the source.
        on_comment: as in `Parser`.
        on_chunk: as in `iter_events`.
        connect_timeout: seconds to connect; None: no limit.
        idle_timeout: seconds without a byte, comments included, after which the connection is
            given up; None: no limit.
        event_timeout: seconds to wait for the response and an event before the connection is given
            up; None: no limit.
        progress: called with each event; `event_timeout` counts only those for which it is true.
        max_event_size: as in `Parser`.

    Attributes:
        url: the URL that was passed, absolute.
        name: the name of the source, or its URL without the query.
        response: the latest `Response`, or None.
        end_reason: the `EndReason`; None while the source runs.

    Raises:
        ValueError: an invalid URL, method, header field or timeout.
        TypeError: a wrong type, a body that could not be sent twice, or a client that is not async.
        ImportError: the extra `client` is missing.

    Iterating raises the last failure when the policy allows no further attempt: `ResponseError`,
    `StreamTimeout`, `TransportError`, or `StreamIncomplete` if the connection was lost within a
    stream. It also raises the errors of `Parser.feed` and of callbacks; a `RetriableError` of a
    callback is not raised but reconnects, whatever the policy. After a `DecodeError`, or an
    exception of `on_comment`, `on_chunk` or `until`, the next iteration continues the stream.
    After an error that ended the source, it raises an `SSEError` until `reconnect()` is called.
    """

    _is_async = True
    _stream: AsyncEventStream[T] | None

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
        def __anext__(self) -> Awaitable[Event[T]]: ...

    async def _anext(self) -> Event[T]:
        """Return the next event in every case that the fast path of `__anext__` leaves out."""
        caught: BaseException | None = None
        event: Event[T] | None = None
        stream = self._stream
        if stream is not None and not self._is_reading and self._kept_event is None:
            stream.take()
            if self._chosen_id is not None:
                self._review_chosen_id()
            try:
                event = await stream.__anext__()
                if stream._bytes_read != self._bytes_seen:
                    self._note_arrival(stream)
                self._events += 1
                return event
            except GeneratorExit:
                # The coroutine is being closed, so nothing can be awaited.
                raise
            except BaseException as error:
                if event is not None:
                    # A signal handler raised: the next call returns the event.
                    self._kept_event = event
                    raise
                caught = error
        try:
            await self._go_on(caught)
        finally:
            caught = None
        return self._take_kept_event()

    async def _after_failed_read(self, caught: BaseException | None) -> Event[T]:
        """Return the next event after what the stream has raised in the fast path."""
        try:
            await self._go_on(caught)
        finally:
            caught = None
        # No line follows, so that an exception of a signal handler comes before the event is taken.
        return self._take_kept_event()

    async def _go_on(self, caught: BaseException | None) -> None:
        """Store the next event in `_kept_event`, over as many connections as it takes.

        Args:
            caught: what the stream has raised, or None if it was not read.
        """
        try:
            if isinstance(caught, StopAsyncIteration):
                caught = ConnectionEnded()
            if caught is not None or not self._has_kept_event():
                await self._alone(self._advance, caught)
        except SourceExhausted:
            raise StopAsyncIteration from None
        finally:
            caught = None

    async def next_event(self, timeout: float | None = None) -> Event[T] | None:
        """Return the next event, or None when there are no more.

        Args:
            timeout: seconds to wait for it, the waits for a response and for the next attempt
                included; None: no limit.

        Raises:
            TimeoutError: no event arrived in time. Nothing is lost, and no request is sent again
                for it: the next call goes on.
            Exception: the errors of iteration.
        """
        import anyio

        if timeout is not None:
            check_seconds(timeout, "timeout")
        with anyio.move_on_after(timeout):
            try:
                return await self.__anext__()
            except StopAsyncIteration:
                return None
        raise TimeoutError(f"No event arrived within {timeout:g} seconds")

    async def __aenter__(self) -> Self:
        try:
            await self._alone(self._open)
        except GeneratorExit:
            raise
        except BaseException:
            # __aexit__ is not called after an exception in __aenter__.
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
        """Connect, if there is no connection, and return the response.

        `async with` and the first event do the same. If the server has no events, the response is a
        204.
        """
        await self._alone(self._open)
        return self._latest_response()

    async def run(
        self, on_message: Callable[[Event[T]], Any], *, on_close: Callable[[], Any] | None = None
    ) -> EndReason:
        """Call `on_message` with each event until there are no more; return why.

        An event is taken when `on_message` has returned, or has been awaited. An exception of it is
        passed to `on_error` and then raised; the next call of `run` begins with the same event.

        Args:
            on_message: called with each event.
            on_close: called at each clean end of a connection.
        """
        before, self._on_close = self._on_close, on_close
        try:
            while True:
                event = failure = None
                try:
                    try:
                        event = await self.__anext__()
                    except StopAsyncIteration:
                        break
                    await self._call(on_message, event)
                    continue
                except GeneratorExit:
                    # The coroutine is being closed, so nothing can be awaited.
                    raise
                except BaseException as error:
                    if event is None:
                        raise
                    failure = error
                try:
                    await self._message_failed(failure)
                finally:
                    del failure
        finally:
            self._on_close = before
        assert self.end_reason is not None
        return self.end_reason

    async def aclose(self) -> None:
        """Close the source for good, and wait until its connection is released."""
        self._mark_closed()
        stream = self._stream
        self._wake(None)
        if stream is not None:
            await self._release(stream)
        if not self._is_reading:
            await self._drop_opening()

    def _prepare_to_read(self) -> None:
        self._loop = find_loop()

    def _end_stream(self, stream: AsyncEventStream[T] | None) -> None:
        if stream is not None:
            stream.end()
        if self._loop is not None:
            self._loop.call(partial(self._wake, stream))

    def _wake(self, stream: AsyncEventStream[T] | None) -> None:
        """Wake the reader and close the stream; runs in the event loop."""
        opening = self._opening
        if self._is_closed and opening is not None and opening.job is not None:
            opening.job.interrupt()
        if self._sleep_interrupt is not None:
            self._sleep_interrupt.set()
        if self._is_closed and opening is not None and not self._is_reading:
            # Nobody waits for the attempt under way.
            close_later(partial(_close_shielded, self._drop_opening))
        if stream is not None:
            close_later(partial(_close_shielded, stream.aclose))

    async def _send(self, opening: Opening) -> Source:
        import anyio

        if opening.job is None:
            # In a task of its own, so that a cancelled wait neither drops nor repeats the request.
            opening.job = Task(
                partial(
                    self._send_request, opening.request, self._connect_timeout, self._idle_timeout
                ),
                _close,
            )
        job = opening.job
        job.start()
        opening.watch.begin()
        try:
            left = opening.watch.seconds_left()
            if left is None:
                await job.wait()
            else:
                with anyio.move_on_after(left):
                    await job.wait()
        finally:
            opening.watch.end(has_bytes=False)
        # The wait was ended by close() or by the timeout.
        if not job.is_done:
            if self._is_closed:
                raise SourceExhausted
            raise StreamTimeout(
                f"No response from {redact_url(opening.request.url)} within "
                f"{self._event_timeout:g} seconds: raise event_timeout if it may take longer",
                phase="head",
            )
        source: Source = _get_result(job)
        return source if isinstance(source.chunks, AsyncIterator) else as_async(source)

    async def _end_job(self, job: Task[Any]) -> None:
        job.abandon()
        await _close_shielded(job.wait)

    async def _check(self, opening: Opening, source: Source, rejection: str) -> EndReason | None:
        response = cast("Response", source.response)
        if not rejection and response.status == 200:
            return None
        if opening.job is None:
            # In a task of its own, so that a cancelled wait does not cut the body short.
            opening.job = Task(partial(acheck_response, source, rejection))
        job = opening.job
        job.start()
        await job.wait()
        if not job.is_done:
            raise SourceExhausted
        return cast("EndReason | None", _get_result(job))

    async def _drain_source(self, source: Source) -> None:
        if source.reusable:
            await adrain(cast("AsyncIterator[bytes]", source.chunks))

    async def _close_source(self, source: Source) -> None:
        await _close(source)

    def _make_stream(self, source: Source, watch: Watch | None) -> AsyncEventStream[T]:
        parser, comments = self._make_parser(last_event_id=self._reconnection.last_event_id)
        return AsyncEventStream(
            source, parser, self._on_chunk, comments=comments, keep_reads=True, watch=watch
        )

    async def _release(self, stream: AsyncEventStream[T]) -> None:
        await _close_shielded(stream.aclose)

    def _keeps_stream(self, stream: Any, error: BaseException) -> bool:
        # After the end, only the release of the connection was interrupted.
        is_whole = stream.end_reason in (None, EndReason.UNTIL, EndReason.END)
        return is_whole and not isinstance(error, MemoryError)

    async def _read(self) -> None:
        stream = cast("AsyncEventStream[T]", self._stream)
        try:
            self._kept_event = await stream.__anext__()
        except StopAsyncIteration:
            raise ConnectionEnded from None
        self._note_arrival(stream)

    async def _sleep(self, seconds: float) -> None:
        import anyio

        self._sleep_interrupt = anyio.Event()
        # Check after the alarm exists, so that a later close() or reconnect() sets it.
        if not self._is_closed and self._requested_delay is None:
            with anyio.move_on_after(seconds):
                await self._sleep_interrupt.wait()

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        result = callback(*arguments)
        if result is not None and inspect.isawaitable(result):
            result = await result
        return result


async def afetch_event_source(
    url: str,
    *,
    on_message: Callable[[Event[Any]], Any],
    on_close: Callable[[], Any] | None = None,
    **options: Any,
) -> EndReason:
    """Call `on_message` with each event of a URL until there are no more; return why.

    Args:
        url: as in `AsyncEventSource`.
        on_message: called with each event (may be async); the event is taken when the call has
            returned, or has been awaited.
        on_close: called at each clean end of a connection (may be async).
        **options: the keywords of `AsyncEventSource`.

    Raises:
        Exception: what `AsyncEventSource` and its iteration raise.
    """
    async with AsyncEventSource(url, **options) as source:
        return await source.run(on_message, on_close=on_close)


async def _close(source: Source) -> None:
    """Close a source that no stream owns; ignore errors."""
    if source.close is not None:
        await _close_shielded(source.close)


def _get_result(job: Task[R]) -> R:
    if job.is_cancelled:
        # For example because the event loop ends.
        raise TransportError(
            "The task that sends the request was cancelled: call reconnect() to ask again",
            phase="head",
        )
    return job.get_result()


async def _close_shielded(close: Callable[[], Awaitable[Any]]) -> None:
    """Await `close()` for at most `_CLOSE_SECONDS`, shielded from cancellation; ignore errors."""
    import anyio

    with anyio.move_on_after(_CLOSE_SECONDS, shield=True), IgnoredErrors():
        await close()
