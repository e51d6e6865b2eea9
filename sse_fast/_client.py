"""EventSource and AsyncEventSource: the client that reconnects.

What to do next is decided in `_reconnect`; here it is done. What the two have in common is written
once, in `_Client`, as coroutines; those of the sync client wait inside and never suspend.
"""

from __future__ import annotations

import base64
import contextvars
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast, overload

from sse_fast._errors import ResponseError, RetriableError, SSEError, StreamTimeout
from sse_fast._parser import Parser
from sse_fast._reconnect import ReadyState, Reconnection, ReconnectPolicy
from sse_fast._request import (
    DEFAULT_FIELDS,
    USER_AGENT,
    Request,
    check_fields,
    check_method,
    encode_body,
    parse_url,
    without_user,
)
from sse_fast._source import without_secrets
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters import acheck_response, check_response, sender

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Iterable
    from types import TracebackType
    from typing import TypeAlias

    from typing_extensions import Self, TypedDict, TypeVar, Unpack

    from sse_fast._parser import Event
    from sse_fast._request import Data, HeaderFields
    from sse_fast._source import Response, Source

    D = TypeVar("D")
    R = TypeVar("R")
    T = TypeVar("T", default=str)

    Headers: TypeAlias = (
        HeaderFields | Mapping[str, str | None] | Iterable[tuple[str, str | bytes | None]]
    )

    class ClientOptions(TypedDict, Generic[T], total=False):
        """The keywords of `EventSource`, but for `decode`."""

        method: str
        headers: Headers | Callable[[], Headers | Awaitable[Headers]] | None
        json: Any
        data: Data | None
        client: Any
        uds: str | os.PathLike[str] | None
        ssl_context: ssl.SSLContext | None
        last_event_id: str
        policy: ReconnectPolicy
        until: str | Callable[[Event[T]], object] | None
        resume: str | Callable[[str], Any] | None
        resend: bool
        on_open: Callable[[Response], object] | None
        on_error: Callable[[Exception], Any] | None
        on_comment: Callable[[str], object] | None
        on_chunk: Callable[[bytes], object] | None
        connect_timeout: float | None
        idle_timeout: float | None
        event_timeout: float | None
        max_event_size: int
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

_log = logging.getLogger("sse_fast")

_MAX_SECONDS = 1e9
_CLOSE_SECONDS = 1.0
"""The longest that a connection which is given up may take to close."""
_RESUMED = {"url", "method", "headers", "json", "data"}


class _End(Exception):
    """The stream of a connection came to its end."""


class _Over(Exception):
    """There will be no more events."""


class _Client(Generic[T]):
    """What the sync and the async client have in common."""

    _is_async: bool
    # The stream of the open connection.
    _stream: Any

    @overload
    def __init__(
        self: _Client[str], url: str, *, decode: None = ..., **options: Unpack[ClientOptions[str]]
    ) -> None: ...
    @overload
    def __init__(
        self: _Client[D],
        url: str,
        *,
        decode: Callable[[bytes], D],
        **options: Unpack[ClientOptions[D]],
    ) -> None: ...
    @overload
    def __init__(
        self: _Client[Any],
        url: str,
        *,
        decode: Mapping[str, Callable[[bytes], Any]],
        **options: Unpack[ClientOptions[Any]],
    ) -> None: ...
    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Any = None,
        json: Any = None,
        data: Data | None = None,
        client: Any = None,
        uds: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        last_event_id: str = "",
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008
        until: Any = None,
        decode: Any = None,
        resume: str | Callable[[str], Any] | None = None,
        resend: bool = False,
        on_open: Callable[[Response], object] | None = None,
        on_error: Callable[[Exception], Any] | None = None,
        on_comment: Callable[[str], object] | None = None,
        on_chunk: Callable[[bytes], object] | None = None,
        connect_timeout: float | None = 10.0,
        idle_timeout: float | None = 300.0,
        event_timeout: float | None = None,
        max_event_size: int = 16 * 2**20,
    ) -> None:
        if not isinstance(policy, ReconnectPolicy):
            raise TypeError(f"Expected a ReconnectPolicy, got {type(policy).__name__}")
        if resume not in (None, "get") and not callable(resume):
            raise TypeError(f"Expected resume to be 'get' or callable, got {resume!r}")
        for name, value in (
            ("connect_timeout", connect_timeout),
            ("idle_timeout", idle_timeout),
            ("event_timeout", event_timeout),
        ):
            if value is not None and not 0 < value < _MAX_SECONDS:
                raise ValueError(f"Expected {name} to be a number of seconds above 0, got {value}")
        _refuse_async(on_comment=on_comment, on_chunk=on_chunk)
        if not self._is_async:
            _refuse_async(headers=headers, resume=resume, on_open=on_open, on_error=on_error)
        if self._is_async:
            _load_anyio()
        if client is not None and (uds is not None or ssl_context is not None):
            raise TypeError("Expected uds and ssl_context without a client, which has its own")
        self._send_by = sender(client, is_async=self._is_async)
        if client is None:
            self._send_by = partial(self._send_by, uds=uds, ssl_context=ssl_context)
        target = parse_url(url)
        self.url = url
        self.response: Response | None = None
        self.end_reason: EndReason | None = None
        body, kind = encode_body(json, data)
        self._headers = headers if callable(headers) else _checked(headers)
        self._defaults = {**DEFAULT_FIELDS, **(USER_AGENT if client is None else {})}
        self._own_fields = self._own(target.user, kind)
        self._resume = resume
        self._until = until
        self._on_open = on_open
        self._on_error = on_error
        self._on_close: Callable[[], object] | None = None
        self._on_chunk = on_chunk
        self._connect_timeout = connect_timeout
        # Where nothing arrives for so long, neither does an event.
        quiet = [each for each in (idle_timeout, event_timeout) if each is not None]
        self._idle_timeout = min(quiet, default=None)
        self._event_timeout = event_timeout
        self._new_parser: Callable[..., Parser[Any]] = partial(
            Parser, max_event_size=max_event_size, on_comment=on_comment, decode=decode, until=until
        )
        # Here, so that what it refuses is refused here.
        self._new_parser(last_event_id=last_event_id)
        self._machine = Reconnection(
            policy,
            Request(check_method(method), without_user(url), (), body),
            resend=resend,
            resume="call" if callable(resume) else resume,
        )
        self._machine.last_event_id = last_event_id
        self._stream = None
        self._pending = False
        # Whether the event that was handed over last is not taken yet.
        self._outstanding = False
        self._had_event = False
        self._waiting_since = 0.0
        self._busy = False
        self._closed = False
        self._over = False
        # The delay that reconnect() asked for.
        self._asked: float | None = None
        # What a wait that was broken off has led to: to be raised when it is taken up again.
        self._broken: Exception | None = None
        self._retry_after: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {without_secrets(self.url)} {self.ready_state.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it is a connection")

    @property
    def ready_state(self) -> ReadyState:
        """CONNECTING, OPEN or CLOSED."""
        return ReadyState.CLOSED if self._closed or self._over else self._machine.state

    @property
    def last_event_id(self) -> str:
        """The last event ID in force after the last event that was taken: from where to go on."""
        stream = self._stream
        if stream is None:
            return self._machine.last_event_id
        before, after = stream.ids()
        return cast("str", before if self._outstanding else after)

    @property
    def retry(self) -> int | None:
        """The reconnection time that the server asked for, in ms, or None."""
        stream = self._stream
        retry: int | None = None if stream is None else stream.retry
        return self._machine.retry if retry is None else retry

    @property
    def pending(self) -> bool:
        """Whether the bytes of the connection so far end within an event."""
        return self._pending if self._stream is None else cast("bool", self._stream.pending)

    def reconnect(self, delay: float | None = None) -> None:
        """Drop the connection and ask again; from any thread, and also after the end or an error.

        It counts as consent to send the request again, whatever its method. While an attempt is
        under way, or after `close()`, it does nothing.

        Args:
            delay: seconds to wait before; None: no more than the policy's `min_delay`.
        """
        delay = 0.0 if delay is None else _seconds(delay, "delay")
        if self._closed:
            return
        self._asked = delay
        self._end_stream()

    def close(self) -> None:
        """End it for good: from any thread, any number of times; returns at once.

        Whoever waits for an event, for a response or for the next attempt then stops.
        """
        if not self._closed:
            _log.debug("%s: closed", without_secrets(self.url))
        self._closed = True
        if self.end_reason is None:
            self.end_reason = EndReason.CLOSED
        self._end_stream()

    # -- What each of the two does in its way

    def _end_stream(self) -> None:
        """Wake whoever waits; they find out why."""
        raise NotImplementedError

    async def _send(self, request: Request) -> Source:
        raise NotImplementedError

    async def _check(self, source: Source, objection: str) -> EndReason | None:
        raise NotImplementedError

    async def _close_source(self, source: Source) -> None:
        raise NotImplementedError

    def _make_stream(self, source: Source, parser: Parser[T]) -> Any:
        raise NotImplementedError

    async def _release(self, stream: Any) -> None:
        raise NotImplementedError

    async def _read(self) -> Event[T]:
        """The next event of the stream, or _End."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        raise NotImplementedError

    # -- What both do: the way to the next event

    async def _advance(self, caught: BaseException | None = None) -> Event[T]:
        """The next event, by every course it may take; `caught` is what the stream has raised."""
        self._enter()
        try:
            while True:
                if caught is not None:
                    await self._stopped(caught)
                await self._connect()
                try:
                    return await self._read()
                except BaseException as error:
                    caught = error
        finally:
            self._busy = False
            # Which holds this frame by its traceback.
            caught = None

    async def _opened(self) -> Response:
        self._enter()
        try:
            await self._connect()
        except _Over:
            pass
        finally:
            self._busy = False
        if self.response is None:
            raise SSEError("Expected a source that is not closed, got one that is")
        return self.response

    def _enter(self) -> None:
        if self._busy:
            raise RuntimeError(
                "Expected one thread or task that reads a source, got a second one while the first "
                "waits"
            )
        self._busy = True

    async def _connect(self) -> None:
        """Ask, until there is a stream."""
        while self._stream is None:
            if self._closed:
                raise _Over
            asked, self._asked = self._asked, None
            if asked is not None:
                self._machine.asked(time.monotonic(), asked)
                self._broken, self._over, self.end_reason = None, False, None
            if self._over:
                raise _Over
            broken, self._broken = self._broken, None
            if broken is not None:
                await self._settle(broken, broken)
                continue
            seconds = self._machine.due - time.monotonic()
            if seconds > 0:
                await self._sleep(seconds)
                continue
            error = await self._attempt()
            # Not within an `except`, where it would be the context of all that follows.
            if error is not None:
                await self._failed(error, self._retry_after)

    async def _attempt(self) -> Exception | None:
        """Ask once, over any redirects; what went wrong, if anything did."""
        machine = self._machine
        source = None
        self._retry_after = None
        try:
            fields = await self._fields()
            resumed = await self._resumed() if machine.resuming == "call" else None
            request = machine.begin(
                time.monotonic(), fields if resumed is None else resumed.fields, resumed
            )
            while True:
                _log.debug(
                    "%s %s, attempt %d",
                    request.method,
                    without_secrets(request.url),
                    machine.attempt,
                )
                source = await self._send(request)
                assert source.response is not None
                _log.debug("%r", source.response)
                hop, objection = machine.follow(source.response)
                if hop is None:
                    break
                await self._close_source(source)
                source, request = None, hop
            await self._look_at(source, objection)
        except BaseException as error:
            if source is not None:
                await self._close_source(source)
            if not isinstance(error, Exception):
                self._broken = machine.interrupted(time.monotonic())
                raise
            if isinstance(error, _Over):
                raise
            return error
        return None

    async def _look_at(self, source: Source, objection: str) -> None:
        """The final response: to be read, or an error."""
        response = self.response = cast("Response", source.response)
        reason = refused = None
        try:
            reason = await self._check(source, f"Expected {objection}" if objection else "")
        except ResponseError as error:
            refused = error
            self._retry_after = error.retry_after
        if self._on_open is not None:
            await self._call(self._on_open, response)
        if self._closed:
            raise _Over
        if refused is not None:
            raise refused
        if reason is not None:
            self._finish(reason)
            raise _Over
        self._machine.opened(time.monotonic())
        if self._event_timeout is not None:
            source = source._replace(chunks=_Watched(self, source.chunks, self._event_timeout))
        self._had_event = False
        self._asked = None
        self._waiting_since = time.monotonic()
        self._stream = self._make_stream(
            source, self._new_parser(last_event_id=self._machine.last_event_id)
        )
        if self._closed:
            # Just now, by another thread.
            self._end_stream()

    async def _fields(self) -> tuple[tuple[str, bytes], ...]:
        headers = self._headers
        if callable(headers):
            headers = _checked(await self._call(headers))
        return _merged(self._own_fields, headers)

    def _own(self, user: str | None, kind: str | None) -> list[tuple[str, bytes]]:
        """What is sent unless the caller's header fields say otherwise."""
        fields = list(self._defaults.items())
        if user is not None:
            fields.append(("Authorization", b"Basic " + base64.b64encode(user.encode())))
        if kind is not None:
            fields.append(("Content-Type", kind.encode()))
        return fields

    async def _resumed(self) -> Request:
        """The request that the program wants to ask for the rest."""
        answer = await self._call(cast("Any", self._resume), self._machine.last_event_id)
        if isinstance(answer, str):
            answer = {"url": answer}
        if not isinstance(answer, Mapping) or not answer.keys() <= _RESUMED:
            raise TypeError(
                "Expected resume to return a URL, or a mapping of some of url, method, headers, "
                f"json and data, got {type(answer).__name__}"
            )
        url = answer.get("url", self.url)
        body, kind = encode_body(answer.get("json"), answer.get("data"))
        own = self._own(parse_url(url).user, kind)
        if answer.get("headers") is not None:
            fields = _merged(own, _checked(answer["headers"]))
        else:
            fields = _merged(own, [each for each in await self._fields() if not _of_body(each[0])])
        return Request(check_method(answer.get("method", "GET")), without_user(url), fields, body)

    # -- What both do: the loss of a connection

    async def _stopped(self, error: BaseException) -> None:
        """The stream gave no event: see to it that it can be asked for again, or raise."""
        stream = self._stream
        if isinstance(error, Exception) and not isinstance(error, _End):
            if stream.end_reason is None:
                await self._raised(error)
            else:
                await self._drop()
                await self._failed(error)
            return
        await self._drop()
        if not isinstance(error, Exception):
            self._broken = self._machine.interrupted(time.monotonic())
            raise error
        if self._closed:
            raise _Over
        if self._asked is not None:
            return
        if stream.end_reason is EndReason.UNTIL:
            self._finish(EndReason.UNTIL)
            raise _Over
        incomplete = self._machine.incomplete(self._pending, self._until is not None)
        if incomplete is not None:
            await self._failed(incomplete)
            return
        _log.debug("%s: ended", without_secrets(self.url))
        if self._on_close is not None:
            failure = await self._raised_by(self._on_close)
            if failure is not None:
                await self._failed(failure)
                return
        reason = self._machine.ended(time.monotonic())
        if reason is not None:
            self._finish(reason)
            raise _Over
        self._log_wait()

    async def _raised_by(self, callback: Callable[[], object]) -> Exception | None:
        try:
            await self._call(callback)
        except Exception as error:
            return error
        return None

    async def _raised(self, error: Exception) -> None:
        """A callback raised, while the stream could go on."""
        if isinstance(error, RetriableError):
            await self._drop()
            await self._failed(error)
            return
        delay = await self._ask(error)
        if delay is None:
            raise error
        await self._drop()
        self._machine.asked(time.monotonic(), delay)

    async def _not_taken(self, error: BaseException) -> None:
        """`on_message` raised: its event is for the next connection to bring again."""
        await self._drop()
        if isinstance(error, RetriableError):
            await self._failed(error)
            return
        delay = await self._ask(error) if isinstance(error, Exception) else None
        if delay is None:
            self._broken = self._machine.interrupted(time.monotonic())
            raise error
        self._machine.asked(time.monotonic(), delay)

    async def _failed(self, error: Exception, retry_after: float | None = None) -> None:
        await self._settle(error, self._machine.failed(time.monotonic(), error, retry_after))

    async def _settle(self, error: Exception, final: Exception | None) -> None:
        """Raise `final`, or wait for the next attempt: as on_error has it."""
        if self._closed:
            # Which may be why.
            raise _Over
        delay = await self._ask(error if final is None else final)
        if delay is not None:
            self._machine.asked(time.monotonic(), delay)
        elif final is not None:
            self._finish(EndReason.ERROR)
            raise final
        self._log_wait(error)

    async def _ask(self, error: Exception) -> float | None:
        """What on_error has to say: seconds, or None."""
        if self._on_error is None:
            return None
        try:
            delay = await self._call(self._on_error, error)
            return None if delay is None else _seconds(delay, "what on_error returns")
        except BaseException:
            await self._drop()
            self._finish(EndReason.ERROR)
            raise

    async def _drop(self) -> None:
        """Give the connection free, and keep what crosses to the next one."""
        stream, machine = self._stream, self._machine
        if stream is None:
            return
        machine.last_event_id = self.last_event_id
        machine.retry = self.retry
        if self._had_event:
            machine.progressed()
        self._pending = stream.pending
        self._stream = None
        await self._release(stream)

    def _finish(self, reason: EndReason) -> None:
        self._over = True
        if self.end_reason is None:
            self.end_reason = reason
        self._machine.close()
        _log.debug("%s: over (%s)", without_secrets(self.url), reason.value)

    def _log_wait(self, error: Exception | None = None) -> None:
        if not _log.isEnabledFor(logging.DEBUG):
            return
        seconds = max(0.0, self._machine.due - time.monotonic())
        # The text of others' errors may show a secret.
        why = error if isinstance(error, SSEError) else type(error).__name__
        what = "" if error is None else f": {why}"
        _log.debug("%s%s; again in %.1f s", without_secrets(self.url), what, seconds)


class EventSource(_Client[T], Iterator["Event[T]"]):
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
            which stays open. None: HTTP/1.1 over sockets of our own (extra `client`).
        uds: the path of a Unix socket to connect to, without a client.
        ssl_context: for https without a client.
        last_event_id: the id to go on from, for example that of an earlier process.
        policy: when to ask again, a `ReconnectPolicy`.
        until: what ends the stream, as in `Parser`. A stream that ends without it was cut off.
        decode: as in `Parser`.
        resume: how to ask for the rest after a first response: "get" (a GET of the same URL with
            Last-Event-ID, as MCP has it), a callable that gets the last event ID and returns the
            URL to GET or a mapping of url, method, headers, json, data; None: by the same request.
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
        event_timeout: seconds without an event, while one is waited for, after which the connection
            is given up: when the next bytes arrive, or after as long without any; None: no limit.
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
    what callbacks raise, but for `RetriableError`. After a `DecodeError`, or an exception of
    `on_comment`, `on_chunk` or `until`, it goes on.
    """

    _is_async = False
    _stream: EventStream[T] | None

    def __next__(self) -> Event[T]:
        # Whoever asks for the next event has done with the one before.
        self._outstanding = False
        if self._event_timeout is not None:
            self._waiting_since = time.monotonic()
        caught: BaseException | None = None
        stream = self._stream
        if stream is not None and not self._busy:
            try:
                event: Event[T] = next(stream)
            except StopIteration:
                caught = _End()
            except BaseException as error:
                caught = error
            else:
                self._outstanding = self._had_event = True
                return event
        try:
            event = _at_once(self._advance(caught))
        except _Over:
            raise StopIteration from None
        finally:
            caught = None
        self._outstanding = self._had_event = True
        return event

    def __enter__(self) -> Self:
        self.open()
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
        return _at_once(self._opened())

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
        _refuse_async(on_message=on_message, on_close=on_close)
        self._on_close = on_close
        for event in self:
            try:
                _refuse_awaitable(on_message(event))
            except BaseException as error:
                failure = error
            else:
                self._outstanding = False
                continue
            _at_once(self._not_taken(failure))
        assert self.end_reason is not None
        return self.end_reason

    def _end_stream(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()
        with self._changed:
            self._changed.notify_all()

    @cached_property
    def _changed(self) -> threading.Condition:
        return threading.Condition()

    async def _send(self, request: Request) -> Source:
        """In a thread of its own, which close() can leave behind: most libraries show nothing of a
        connection before its response has come."""
        done: list[tuple[Source | None, BaseException | None]] = []
        left = False
        context = contextvars.copy_context()

        def work() -> None:
            source = failure = None
            try:
                source = context.run(
                    self._send_by, request, self._connect_timeout, self._idle_timeout
                )
            except BaseException as error:
                failure = error
            with self._changed:
                done.append((source, failure))
                self._changed.notify_all()
            if left and source is not None and source.close is not None:
                source.close()

        threading.Thread(target=work, name="sse_fast", daemon=True).start()
        try:
            with self._changed:
                self._changed.wait_for(lambda: done or self._closed)
        finally:
            with self._changed:
                left = not done
        if left:
            raise _Over
        source, failure = done[0]
        if source is None:
            assert failure is not None
            raise failure
        return source

    async def _check(self, source: Source, objection: str) -> EndReason | None:
        return check_response(source, objection)

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
        raise _End

    async def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._asked is not None, seconds)

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        return _refuse_awaitable(callback(*arguments))


class AsyncEventSource(_Client[T], AsyncIterator["Event[T]"]):
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

    async def __anext__(self) -> Event[T]:
        self._outstanding = False
        if self._event_timeout is not None:
            self._waiting_since = time.monotonic()
        caught: BaseException | None = None
        stream = self._stream
        if stream is not None and not self._busy:
            try:
                event: Event[T] = await stream.__anext__()
            except StopAsyncIteration:
                caught = _End()
            except BaseException as error:
                caught = error
            else:
                self._outstanding = self._had_event = True
                return event
        try:
            event = await self._advance(caught)
        except _Over:
            raise StopAsyncIteration from None
        finally:
            caught = None
        self._outstanding = self._had_event = True
        return event

    async def __aenter__(self) -> Self:
        try:
            await self.open()
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
        return await self._opened()

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
        self._on_close = on_close
        async for event in self:
            try:
                await self._call(on_message, event)
            except BaseException as error:
                failure = error
            else:
                self._outstanding = False
                continue
            await self._not_taken(failure)
        assert self.end_reason is not None
        return self.end_reason

    async def aclose(self) -> None:
        """What `close()` does, and wait until the connection is given free."""
        self.close()
        if self._stream is not None:
            await self._release(self._stream)

    def _enter(self) -> None:
        super()._enter()
        if self._in_loop is None:
            self._in_loop, self._start = _event_loop()

    def _end_stream(self) -> None:
        stream = self._stream
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
            self._start(stream.aclose)

    async def _send(self, request: Request) -> Source:
        import anyio

        with anyio.CancelScope() as self._scope:
            if self._closed:
                raise _Over
            return cast(
                "Source", await self._send_by(request, self._connect_timeout, self._idle_timeout)
            )
        raise _Over

    async def _check(self, source: Source, objection: str) -> EndReason | None:
        return await acheck_response(source, objection)

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
        raise _End

    async def _sleep(self, seconds: float) -> None:
        import anyio

        self._alarm = anyio.Event()
        # Looked at only now: what comes later sets the alarm.
        if not self._closed and self._asked is None:
            with anyio.move_on_after(seconds):
                await self._alarm.wait()

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        answer = callback(*arguments)
        return await answer if inspect.isawaitable(answer) else answer


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


class _Watched(Iterator[bytes], AsyncIterator[bytes]):
    """Chunks that are given up on when they bring no event for too long."""

    def __init__(self, client: _Client[Any], chunks: Any, seconds: float) -> None:
        self._client = client
        self._chunks = chunks
        self._seconds = seconds

    def __next__(self) -> bytes:
        self._look_at_clock()
        return cast("bytes", next(self._chunks))

    async def __anext__(self) -> bytes:
        self._look_at_clock()
        return cast("bytes", await self._chunks.__anext__())

    def _look_at_clock(self) -> None:
        if time.monotonic() - self._client._waiting_since > self._seconds:
            raise StreamTimeout(
                f"Expected an event within {self._seconds:g} seconds, got none: raise "
                "event_timeout if they may be further apart"
            )


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


def _load_anyio() -> None:
    try:
        import anyio  # noqa: F401
    except ImportError:
        raise ImportError(
            "Expected anyio for AsyncEventSource, got none: pip install 'sse-fast[client]'"
        ) from None


def _event_loop() -> tuple[Any, Any]:
    """What runs a function in the present event loop, from any thread, and what starts a coroutine
    function there, from within."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
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


def _checked(headers: Any) -> list[tuple[str, bytes | None]]:
    """The caller's header fields; None leaves out what would be sent."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
    fields: list[tuple[str, bytes | None]] = []
    for each in pairs:
        name, value = each
        fields += [(name, None)] if value is None else check_fields([(name, value)])
    return fields


def _merged(
    own: list[tuple[str, bytes]], given: list[tuple[str, bytes | None]]
) -> tuple[tuple[str, bytes], ...]:
    names = {name.lower() for name, _ in given}
    kept = [each for each in own if each[0].lower() not in names]
    return (*kept, *((name, value) for name, value in given if value is not None))


def _of_body(name: str) -> bool:
    return name.lower().startswith("content-")


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"Expected {what} to be a number of seconds or None, got {type(value).__name__}"
        )
    if not 0 <= value < _MAX_SECONDS:
        raise ValueError(f"Expected {what} to be a number of seconds from 0, got {value!r}")
    return value


def _refuse_async(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        if inspect.iscoroutinefunction(callback):
            raise TypeError(
                f"Expected {name} to be called without await, got an async function: "
                "AsyncEventSource awaits callbacks, but for on_comment and on_chunk"
            )


def _refuse_awaitable(answer: Any) -> Any:
    if answer is not None and inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(
            "Expected a callback that is not awaited, got one that wants it: use AsyncEventSource"
        )
    return answer
