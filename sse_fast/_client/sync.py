"""EventSource and fetch_event_source: the client over blocking calls.

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
from sse_fast._client.base import ClientBase, End, Over, refuse_async
from sse_fast._stream import EndReason, EventStream

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, TypeVar, Unpack

    from sse_fast._client.base import ClientOptions
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
        comes from the handler of a signal of the system.
        """
        due = None if seconds is None else time.monotonic() + seconds
        with suppress(Empty):
            while not happened():
                left = None if due is None else max(0.0, due - time.monotonic())
                self._signals.get(timeout=left)

    def _elsewhere(self, work: Callable[[], R], discard: Callable[[R | None], object]) -> R:
        """What `work` returns, in a thread of its own, which close() can leave behind: it goes on
        to its end, and what came of it is given to `discard`; at once, with None, to hasten it.
        """
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
                self._send_request(
                    request, self._connect_timeout, min(quiet, default=None), **options
                ),
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


def _at_once(steps: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that never suspends."""
    try:
        steps.send(None)
    except StopIteration as stop:
        return cast("R", stop.value)
    raise RuntimeError("Expected a coroutine that does not suspend, got one that does")


def _refuse_awaitable(answer: Any) -> Any:
    if answer is not None and inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(
            "Expected a callback that is not awaited, got one that wants it: use AsyncEventSource"
        )
    return answer
