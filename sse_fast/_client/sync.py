"""EventSource and fetch_event_source: the blocking client.

`reconnect` decides what to do next and `base` does it; this file waits.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, Any, cast, overload

from sse_fast._check import check_response
from sse_fast._client.base import ClientBase, ConnectionEnded, SourceExhausted
from sse_fast._client.options import refuse_async
from sse_fast._stream import EndReason, EventStream
from sse_fast._wake import drain

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client.options import ClientOptions
    from sse_fast._core.parser import Event, Parser
    from sse_fast._request import Request
    from sse_fast._source import Response, Source

    R = TypeVar("R")
    D = TypeVar("D")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["EventSource", "fetch_event_source"]


class EventSource(ClientBase[T], Iterator["Event[T]"]):
    """The events of a URL, over as many connections as it takes: an iterator and a context manager.

    It implements the EventSource of the HTML standard (9.2), and adds any method and body, header
    fields, callbacks and limits. An event counts as taken when the next
    one is asked for. `last_event_id` is the id after the last event taken, from which the next
    connection resumes. So no event is lost, but an event is delivered again if the program stopped
    before it asked for the next one.

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization.
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
        check: whether to refuse a 200 whose content type is not text/event-stream. Other statuses
            follow the policy with either value.
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
        event_timeout: seconds to wait for the response or an event before the connection is given
            up; None: no limit. A wait may last up to twice as long, as the time is only checked
            when bytes arrive or a read times out.
        max_event_size: as in `Parser`.

    Attributes:
        url: the URL that was passed.
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
        if self._watched_chunks is not None:
            self._watched_chunks.waiting_since = time.monotonic()
        caught: BaseException | None = None
        stream = self._stream
        if stream is not None and not self._is_reading:
            # Asking for the next event counts the previous one as taken.
            stream.take()
            try:
                event: Event[T] = next(stream)
            except StopIteration:
                caught = ConnectionEnded()
            except BaseException as error:
                caught = error
            else:
                self._had_event = True
                return event
        try:
            event = _run_sync(self._advance(caught))
        except SourceExhausted:
            raise StopIteration from None
        finally:
            caught = None
        self._had_event = True
        return event

    def __enter__(self) -> Self:
        _run_sync(self._open())
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
        _run_sync(self._open())
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
            for event in self:
                try:
                    _refuse_awaitable(on_message(event))
                except BaseException as error:
                    failure = error
                else:
                    continue
                _run_sync(self._message_failed(failure))
        finally:
            self._on_close = before
        assert self.end_reason is not None
        return self.end_reason

    def _end_stream(self, stream: EventStream[T] | None) -> None:
        if stream is not None:
            stream.close()
        self._signals.put(None)

    def _wait_for(self, happened: Callable[[], object], seconds: float | None = None) -> None:
        """Wait until `happened()` is true or the time is up.

        A Condition would lose a notification sent by a signal handler that interrupts the wait.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        with suppress(Empty):
            while not happened():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._signals.get(timeout=left)

    def _run_in_thread(self, work: Callable[[], R], discard: Callable[[R | None], object]) -> R:
        """Run `work` in a daemon thread and return its result, unless close() ends the wait.

        If the wait ends early, `discard(None)` wakes the thread, and `discard(result)` releases the
        result when the thread has finished.
        """
        done: list[tuple[R | None, BaseException | None]] = []
        abandoned = False
        context = contextvars.copy_context()

        def run() -> None:
            result = failure = None
            try:
                result = context.run(work)
            except BaseException as error:
                failure = error
            done.append((result, failure))
            self._signals.put(None)
            if abandoned and failure is None:
                discard(result)

        threading.Thread(target=run, name="sse_fast", daemon=True).start()
        try:
            self._wait_for(lambda: done or self._is_closed)
        except BaseException:
            abandoned = True
            discard(done[0][0] if done else None)
            raise
        if not done:
            abandoned = True
            # The thread may have finished just now.
            discard(done[0][0] if done else None)
            raise SourceExhausted
        result, failure = done[0]
        if failure is not None:
            raise failure
        return cast("R", result)

    async def _send(self, request: Request) -> Source:
        wakers: list[Callable[[], object]] = []
        abandoned = False

        def on_connected(wake: Callable[[], object]) -> None:
            wakers.append(wake)
            if abandoned:
                wake()

        options = {"connected": on_connected} if self._has_own_transport else {}
        # If no byte arrives for event_timeout, no event does either.
        timeouts = [each for each in (self._idle_timeout, self._event_timeout) if each is not None]

        def discard(source: Source | None) -> None:
            nonlocal abandoned
            abandoned = True
            for wake in wakers if source is None else ():
                with suppress(Exception):
                    wake()
            if source is not None and source.close is not None:
                with suppress(Exception):
                    source.close()

        # Most libraries give no access to a connection before the response has arrived.
        source = self._run_in_thread(
            lambda: cast(
                "Source",
                self._send_request(
                    request, self._connect_timeout, min(timeouts, default=None), **options
                ),
            ),
            discard,
        )
        return source._replace(chunks=iter(cast("Iterable[bytes]", source.chunks)))

    async def _check(self, source: Source, rejection: str) -> EndReason | None:
        if not rejection:
            return check_response(source)

        def discard(reason: EndReason | None) -> None:
            # Closing would wait for a lock that the reading thread holds.
            if source.wake is not None:
                with suppress(Exception):
                    source.wake()

        # Reading the body of a refused response may take `_check._MAX_BODY_SECONDS`.
        return self._run_in_thread(lambda: check_response(source, rejection), discard)

    async def _drain_source(self, source: Source) -> None:
        if source.reusable and source.wake is not None:
            drain(cast("Iterator[bytes]", source.chunks), source.wake)

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
        raise ConnectionEnded

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
