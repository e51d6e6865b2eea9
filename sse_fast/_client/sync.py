"""EventSource and fetch_event_source: the blocking client.

`reconnect` decides what to do next and `base` does it; this file waits.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._check import check_response
from sse_fast._client.base import ClientBase
from sse_fast._client.jobs import ThreadJob
from sse_fast._client.options import refuse_async
from sse_fast._client.state import (
    ConnectionEnded,
    Opening,
    SourceExhausted,
    WaitGivenUp,
    WaitInterrupted,
    WaitRefused,
)
from sse_fast._client.watchdog import LateChunks
from sse_fast._core.parser import ACCELERATED
from sse_fast._errors import StreamTimeout
from sse_fast._interrupts import IgnoredErrors, find_handler_error
from sse_fast._seconds import check_seconds
from sse_fast._source import redact_url
from sse_fast._stream import EndReason, EventStream
from sse_fast._wake import drain

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client.options import ClientOptions
    from sse_fast._core.parser import Event
    from sse_fast._request import Request
    from sse_fast._source import Response, Source
    from sse_fast._watch import Watch

    R = TypeVar("R")
    D = TypeVar("D")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["EventSource", "fetch_event_source"]


class _PlainNext:
    """`EventSource.__next__` without the compiled fast path."""

    __slots__ = ()

    def __next__(self) -> Any:
        return self._next()

    def _next(self) -> Any:
        raise NotImplementedError


if TYPE_CHECKING or not ACCELERATED:
    _FastNext = _PlainNext
else:
    from sse_fast._client._source_c import FastNext as _FastNext


class EventSource(_FastNext, ClientBase[T], Iterator["Event[T]"]):
    """The events of a URL, over as many connections as it takes: an iterator and a context manager.

    It implements the EventSource of the HTML standard (9.2), and adds any method and body, header
    fields, callbacks and limits. An event counts as taken when the next
    one is asked for. `last_event_id` is the id after the last event taken, from which the next
    connection resumes. So no event is lost, but an event is delivered again if the program stopped
    before it asked for the next one.

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization. A
            relative one is joined to the `base_url` of the client.
        method: the request method.
        headers: header fields: a mapping, pairs, or a callable without arguments that returns
            them before each attempt. None as a value removes a default field (Accept,
            Accept-Encoding, Cache-Control) or Last-Event-ID.
        json: a body to be sent as JSON.
        data: a body of bytes, text (as UTF-8) or a mapping (as a form).
        client: a `requests.Session`, `urllib3.PoolManager`, `httpx.Client` or `httpx2.Client`,
            whose cookies, auth, parameters and proxies are used, and which stays open. If `close()`
            is called before the response, the request continues in a thread until its timeout.
            None: our own HTTP/1.1 transport (extra `client`).
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
            Last-Event-ID, as MCP does. A callable: gets the last event ID and returns the URL to
            GET, or a mapping of url, method, headers, json and data; nothing else of yours or of
            the client's is sent to another origin. None: by the same request.
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
            up; None: no limit. Over HTTP/2, a wait may last up to twice as long, as the time is
            only checked when bytes arrive or a read times out.
        progress: called with each event; `event_timeout` counts only those for which it is true.
        max_event_size: as in `Parser`.

    Attributes:
        url: the URL that was passed, absolute.
        name: the name of the source, or its URL without the query.
        response: the latest `Response`, or None.
        end_reason: the `EndReason`; None while the source runs.

    Raises:
        ValueError: an invalid URL, method, header field or timeout.
        TypeError: a wrong type, a body that could not be sent twice, or an async client.
        ImportError: the extra `client` is missing.

    Iterating raises the last failure when the policy allows no further attempt: `ResponseError`,
    `StreamTimeout`, `TransportError`, or `StreamIncomplete` if the connection was lost within a
    stream. It also raises the errors of `Parser.feed` and of callbacks; a `RetriableError` of a
    callback is not raised but reconnects, whatever the policy. After a `DecodeError`, or an
    exception of `on_comment`, `on_chunk` or `until`, the next iteration continues the stream.
    After an error that ended the source, it raises an `SSEError` until `reconnect()` is called.
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
        def __next__(self) -> Event[T]: ...

    def _next(self) -> Event[T]:
        """Return the next event in every case that the fast path of `__next__` leaves out."""
        caught: BaseException | None = None
        event: Event[T] | None = None
        stream = self._stream
        if stream is not None and not self._is_reading and self._kept_event is None:
            # Asking for the next event counts the previous one as taken.
            stream.take()
            if self._chosen_id is not None:
                self._review_chosen_id()
            try:
                event = next(stream)
                if stream._bytes_read != self._bytes_seen:
                    self._note_arrival(stream)
                self._events += 1
                return event
            except BaseException as error:
                if event is not None:
                    # A signal handler raised: the next call returns the event.
                    self._kept_event = event
                    raise
                caught = error
        try:
            self._go_on(caught)
        finally:
            caught = None
        return self._take_kept_event()

    def _after_failed_read(self, caught: BaseException | None) -> Event[T]:
        """Return the next event after what the stream has raised in the fast path."""
        try:
            self._go_on(caught)
        finally:
            caught = None
        # No line follows, so that an exception of a signal handler comes before the event is taken.
        return self._take_kept_event()

    def _go_on(self, caught: BaseException | None) -> None:
        """Store the next event in `_kept_event`, over as many connections as it takes.

        Args:
            caught: what the stream has raised, or None if it was not read.
        """
        try:
            if isinstance(caught, StopIteration):
                caught = ConnectionEnded()
            if caught is not None or not self._has_kept_event():
                _run_sync(self._alone(self._advance, caught))
        except SourceExhausted:
            raise StopIteration from None
        finally:
            caught = None

    def next_event(self, timeout: float | None = None) -> Event[T] | None:
        """Return the next event, or None when there are no more.

        Args:
            timeout: seconds to wait for it, the waits for a response and for the next attempt
                included; None: no limit. While the stream is open, a limit is possible over our own
                transport, and over libraries whose responses can be polled.

        Raises:
            TimeoutError: no event arrived in time. Nothing is lost, and no request is sent again
                for it: the next call goes on.
            TypeError: the stream cannot be waited for with a limit. Nothing was read.
            Exception: the errors of iteration.
        """
        if timeout is None:
            return next(self, None)
        self._wait_until = time.monotonic() + check_seconds(timeout, "timeout")
        try:
            if not self._has_kept_event():
                _run_sync(self._alone(self._advance_within))
        except SourceExhausted:
            return None
        except WaitGivenUp:
            # The exception would refer to this source by its frames.
            raise TimeoutError(f"No event arrived within {timeout:g} seconds") from None
        finally:
            self._wait_until = None
        return self._take_kept_event()

    def __enter__(self) -> Self:
        _run_sync(self._alone(self._open))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> Response:
        """Connect, if there is no connection, and return the response.

        `with` and the first event do the same. If the server has no events, the response is a 204.
        """
        _run_sync(self._alone(self._open))
        return self._latest_response()

    def run(
        self, on_message: Callable[[Event[T]], Any], *, on_close: Callable[[], Any] | None = None
    ) -> EndReason:
        """Call `on_message` with each event until there are no more; return why.

        An event is taken when `on_message` has returned. An exception of it is passed to `on_error`
        and then raised; the next call of `run` begins with the same event.

        Args:
            on_message: called with each event.
            on_close: called at each clean end of a connection.
        """
        refuse_async(on_message=on_message, on_close=on_close)
        before, self._on_close = self._on_close, on_close
        try:
            while True:
                event = failure = None
                try:
                    event = next(self, None)
                    if event is None:
                        break
                    _refuse_awaitable(on_message(event))
                    continue
                except BaseException as error:
                    if event is None:
                        raise
                    failure = error
                try:
                    _run_sync(self._message_failed(failure))
                finally:
                    del failure
        finally:
            self._on_close = before
        assert self.end_reason is not None
        return self.end_reason

    def _end_stream(self, stream: EventStream[T] | None) -> None:
        if stream is not None:
            stream.close()
        self._signals.put(None)
        if self._is_closed and not self._is_reading:
            # Nobody waits for the attempt under way.
            _run_sync(self._drop_opening())

    def _wait_for(self, happened: Callable[[], object], seconds: float | None = None) -> None:
        """Wait until `happened()` is true or the time is up, at most for the time of `next_event`.

        A Condition would lose a notification sent by a signal handler that interrupts the wait.

        Raises:
            WaitGivenUp: the time of `next_event` is up.
            WaitInterrupted: a signal handler raised.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        limit = self._wait_until
        if limit is not None:
            deadline = limit if deadline is None else min(deadline, limit)
        try:
            with suppress(Empty):
                while not happened():
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    self._signals.get(timeout=left)
        except Exception as error:
            raise WaitInterrupted(error) from None
        if limit is not None and limit <= time.monotonic() and not happened():
            raise WaitGivenUp

    async def _send(self, opening: Opening) -> Source:
        if opening.job is None:
            opening.job = self._make_sending_job(opening.request)
        job = opening.job
        job.start()
        opening.watch.begin()
        try:
            left = opening.watch.seconds_left()
            self._wait_for(lambda: job.is_done or self._is_closed, left)
        finally:
            opening.watch.end(has_bytes=False)
        if not job.is_done:
            if self._is_closed:
                raise SourceExhausted
            raise StreamTimeout(
                f"No response from {redact_url(opening.request.url)} within "
                f"{self._event_timeout:g} seconds: raise event_timeout if it may take longer",
                phase="head",
            )
        return cast("Source", job.get_result())

    def _make_sending_job(self, request: Request) -> ThreadJob[Source]:
        """Return the job that sends a request.

        Most libraries give no access to a connection before the response has arrived, so they send
        in a thread, for which `close()` does not wait.
        """
        wakers: list[Callable[[], object]] = []
        has_to_end: list[bool] = []

        def on_connected(wake: Callable[[], object]) -> None:
            wakers.append(wake)
            if has_to_end:
                wake()

        def wake_sender() -> None:
            has_to_end.append(True)
            for wake in wakers:
                wake()

        options = {"connected": on_connected} if self._has_own_transport else {}
        # If no byte arrives for event_timeout, no event does either.
        timeouts = [each for each in (self._idle_timeout, self._event_timeout) if each is not None]
        work = partial(
            self._send_request,
            request,
            self._connect_timeout,
            min(timeouts, default=None),
            **options,
        )
        return ThreadJob(work, self._signals, wake_sender, _close)

    async def _end_job(self, job: ThreadJob[Any]) -> None:
        job.abandon()

    async def _check(self, opening: Opening, source: Source, rejection: str) -> EndReason | None:
        if not rejection:
            return check_response(source)
        if opening.job is None:
            # Reading the body of a refused response may take seconds. Closing it would wait for a
            # lock that the reading thread holds.
            opening.job = ThreadJob(
                partial(check_response, source, rejection),
                self._signals,
                source.wake or _do_nothing,
                _do_nothing,
            )
        job = opening.job
        job.start()
        self._wait_for(lambda: job.is_done or self._is_closed)
        if not job.is_done:
            raise SourceExhausted
        return cast("EndReason | None", job.get_result())

    async def _drain_source(self, source: Source) -> None:
        if source.reusable and source.wake is not None:
            drain(cast("Iterator[bytes]", source.chunks), source.wake)

    async def _close_source(self, source: Source) -> None:
        _close(source)

    def _make_stream(self, source: Source, watch: Watch | None) -> EventStream[T]:
        parser, comments = self._make_parser(last_event_id=self._reconnection.last_event_id)
        is_unwakable = watch is not None and source.wake is None
        if watch is not None and is_unwakable:
            chunks = iter(cast("Iterable[bytes]", source.chunks))
            source = source._replace(chunks=LateChunks(chunks, watch))
        stream: EventStream[T] = EventStream(source, parser, self._on_chunk, comments, watch)
        if watch is not None and is_unwakable:
            # Then the watch only notes that the time is over.
            watch.wake_by(_do_nothing)
        return stream

    async def _release(self, stream: EventStream[T]) -> None:
        with IgnoredErrors():
            stream.close()

    def _keeps_stream(self, stream: Any, error: BaseException) -> bool:
        # Nothing was read when the wait was given up. Libraries may have lost bytes in any other
        # interrupted read.
        return isinstance(error, (WaitGivenUp, WaitRefused))

    async def _advance_within(self) -> None:
        """Store the next event in `_kept_event`, or raise `WaitGivenUp` at `_wait_until`."""
        if self._stream is not None and not self._is_reading:
            # Asking for the next event counts the previous one as taken.
            self._stream.take()
            self._review_chosen_id()
        await self._advance()

    async def _read(self) -> None:
        stream: Any = self._stream
        if self._wait_until is None:
            self._kept_event = next(stream, None)
        else:
            if not stream.can_wait:
                raise WaitRefused(
                    TypeError(
                        "This source cannot wait for a limited time: call next_event() without "
                        "timeout, leave out client, or use AsyncEventSource"
                    )
                )
            left = max(0.0, self._wait_until - time.monotonic())
            try:
                self._kept_event = stream.next_event(left)
            except StreamTimeout:
                raise
            except TimeoutError as error:
                if find_handler_error(error) is not None:
                    raise
                raise WaitGivenUp from None
        if self._kept_event is None:
            raise ConnectionEnded
        self._note_arrival(stream)

    async def _sleep(self, seconds: float) -> None:
        self._wait_for(lambda: self._is_closed or self._requested_delay is not None, seconds)

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        return _refuse_awaitable(callback(*arguments))


def fetch_event_source(
    url: str,
    *,
    on_message: Callable[[Event[Any]], Any],
    on_close: Callable[[], Any] | None = None,
    **options: Any,
) -> EndReason:
    """Call `on_message` with each event of a URL until there are no more; return why.

    Args:
        url: as in `EventSource`.
        on_message: called with each event, which is taken when the call has returned.
        on_close: called at each clean end of a connection.
        **options: the keywords of `EventSource`.

    Raises:
        Exception: what `EventSource` and its iteration raise.
    """
    # Refuse wrong callbacks before anything is sent.
    refuse_async(on_message=on_message, on_close=on_close)
    with EventSource(url, **options) as source:
        return source.run(on_message, on_close=on_close)


def _run_sync(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast("R", stop.value)
    except WaitInterrupted as interrupted:
        raise interrupted.error from None
    raise RuntimeError("The coroutine suspended, which those of the sync client must not do")


def _refuse_awaitable(result: Any) -> Any:
    """Return the result of a callback, or raise TypeError if it has to be awaited."""
    if result is not None and inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            "A callback returned an awaitable, which EventSource does not await: use "
            "AsyncEventSource"
        )
    return result


def _close(source: Source) -> None:
    """Close a source that no stream owns; ignore errors."""
    if source.close is not None:
        with IgnoredErrors():
            source.close()


def _do_nothing(*arguments: Any) -> None:
    pass
