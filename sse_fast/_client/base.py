"""The sequence of connections, attempts and callbacks, shared by the sync and the async client.

It is written once, as coroutines; those of the sync client block inside and never suspend. `sync`
and `aio` implement what differs: waiting, calling callbacks and closing. `reconnect` decides what
to do next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, cast

from sse_fast._check import rejection_reason
from sse_fast._client.options import check_seconds, refuse_async
from sse_fast._client.policy import ReadyState, ReconnectPolicy
from sse_fast._client.reconnect import Reconnection
from sse_fast._client.watchdog import WatchedChunks
from sse_fast._core.parser import Parser
from sse_fast._errors import MAX_SECONDS, ResponseError, RetriableError, SSEError
from sse_fast._request import (
    DEFAULT_FIELDS,
    USER_AGENT,
    Request,
    build_resume_request,
    check_method,
    check_timeouts,
    default_fields,
    encode_body,
    merge_fields,
    parse_url,
    parse_user_fields,
    strip_userinfo,
)
from sse_fast._source import redact_url
from sse_fast._stream import EndReason
from sse_fast.adapters._clients import resolve_send

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Collection, Iterable

    from typing_extensions import TypeVar

    from sse_fast._client.options import HeadersArg
    from sse_fast._core.parser import Event
    from sse_fast._request import Data, Fields
    from sse_fast._source import Response, Source

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["ClientBase", "ConnectionEnded", "SourceExhausted"]

log = logging.getLogger("sse_fast")


class ConnectionEnded(Exception):
    """The stream of a connection has ended."""


class SourceExhausted(Exception):
    """The source has ended or was closed: there are no more events."""


class _CallbackError(Exception):
    """Carries what a callback raised, to tell it from a failure of the connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _ChosenId(NamedTuple):
    """The id that the program has set while a stream was open."""

    stream: Any
    value: str
    replaced: tuple[str, str]
    """The ids of the stream at that time, after the last event taken and the last delivered."""

    def holds(self, stream: Any, taken_id: str) -> bool:
        """Return whether no later event of the stream has changed the id."""
        return stream is self.stream and taken_id in self.replaced


class ClientBase(Generic[T]):
    """The common base of `EventSource` and `AsyncEventSource`."""

    _is_async: bool
    # The stream of the open connection, or None.
    _stream: Any
    # Sends a request by the user's client or our own transport, and returns its `Source`.
    _send_request: Callable[..., Any]

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: HeadersArg | Callable[[], HeadersArg | Awaitable[HeadersArg]] | None = None,
        json: Any = None,
        data: Data | None = None,
        client: Any = None,
        uds: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        last_event_id: str | None = "",
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008
        until: Any = None,
        until_event: str | Collection[str] = (),
        decode: Any = None,
        resume: str | Callable[[str], Any] | None = None,
        resend: bool = False,
        check: bool = True,
        name: str | None = None,
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
            raise TypeError(f"Expected policy to be a ReconnectPolicy, got {type(policy).__name__}")
        if resume not in (None, "get") and not callable(resume):
            raise TypeError(f"Expected resume to be None, 'get' or a callable, got {resume!r}")
        if client is not None and (uds is not None or ssl_context is not None):
            raise TypeError(
                "uds and ssl_context cannot be combined with client: configure them on the client"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"Expected name to be a str or None, got {type(name).__name__}")
        check_timeouts(
            connect_timeout=connect_timeout, idle_timeout=idle_timeout, event_timeout=event_timeout
        )
        refuse_async(on_comment=on_comment, on_chunk=on_chunk)
        if not self._is_async:
            refuse_async(headers=headers, resume=resume, on_open=on_open, on_error=on_error)
        self._send_request = resolve_send(client, is_async=self._is_async)
        self._has_own_transport = client is None
        if client is None:
            self._send_request = partial(self._send_request, uds=uds, ssl_context=ssl_context)
        target = parse_url(url)
        self.url = url
        self.name = redact_url(url) if name is None else name
        self.response: Response | None = None
        self.end_reason: EndReason | None = None
        body, content_type = encode_body(json, data)
        self._headers = headers if callable(headers) else parse_user_fields(headers)
        # The fields of every request, and those of the first request (credentials, content type).
        self._common_fields = {**DEFAULT_FIELDS, **(USER_AGENT if client is None else {})}
        self._first_request_fields = default_fields(self._common_fields, target.user, content_type)
        self._resume = resume
        self._has_until = until is not None or bool(until_event)
        self._checks_type = check
        self._on_open = on_open
        self._on_error = on_error
        self._on_close: Callable[[], object] | None = None
        self._on_chunk = on_chunk
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._event_timeout = event_timeout
        self._new_parser: Callable[..., Parser[Any]] = partial(
            Parser,
            max_event_size=max_event_size,
            on_comment=on_comment,
            decode=decode,
            until=until,
            until_event=until_event,
        )
        # Refuse invalid options now, not at the first connection.
        last_event_id = "" if last_event_id is None else last_event_id
        self._new_parser(last_event_id=last_event_id)
        self._reconnection = Reconnection(
            policy,
            Request(check_method(method), strip_userinfo(url), (), body),
            resend=resend,
            resume="call" if callable(resume) else resume,
        )
        self._reconnection.last_event_id = last_event_id
        self._stream = None
        # The id that the program has set while a stream was open.
        self._chosen_id: _ChosenId | None = None
        # Held while a stream comes or goes, and while the program sets `last_event_id`. Reentrant,
        # because a signal handler may set it.
        self._id_lock = threading.RLock()
        # Wakes a thread that waits for a response or for the next attempt.
        self._signals: SimpleQueue[None] = SimpleQueue()
        # Whether the previous connection ended within an event.
        self._pending = False
        # Whether the current connection has delivered an event, and whether its end is marked.
        self._had_event = self._is_framed = False
        self._watched_chunks: WatchedChunks | None = None
        self._is_reading = False
        # Whether `on_open` runs for a response that will be accepted.
        self._is_accepting = False
        self._is_closed = False
        self._is_exhausted = False
        # The delay that reconnect() asked for.
        self._requested_delay: float | None = None
        # The consequence of a wait that was cancelled, raised when the program reads on.
        self._deferred_error: Exception | None = None
        # The Retry-After of a refused response, for a failure that does not carry it.
        self._retry_after: float | None = None
        # Whether the next request may carry the last event ID.
        self._sends_id = True

    def __repr__(self) -> str:
        where = redact_url(self.url)
        name = "" if self.name == where else f"{self.name!r} "
        return f"<{type(self).__name__} {name}{where} {self.ready_state.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it is a connection")

    @property
    def ready_state(self) -> ReadyState:
        """The `ReadyState`: CONNECTING, OPEN or CLOSED."""
        if self._is_closed or self._is_exhausted:
            return ReadyState.CLOSED
        if self._is_accepting:
            return ReadyState.OPEN
        state = self._reconnection.state
        is_lost = self._stream is None or self._requested_delay is not None
        return ReadyState.CONNECTING if state is ReadyState.OPEN and is_lost else state

    @property
    def last_event_id(self) -> str:
        """The id to resume from, as of the last event taken.

        It can be set at any time and from any thread, to resume from another id. "" or None forgets
        the id, for example one that the server refuses. The next connection resumes from the id
        that was set, unless an event that is delivered later changes it.
        """
        stream = self._stream
        if stream is None:
            return self._reconnection.last_event_id
        taken = cast("str", stream.taken_id)
        chosen = self._chosen_id
        return chosen.value if chosen is not None and chosen.holds(stream, taken) else taken

    @last_event_id.setter
    def last_event_id(self, value: str | None) -> None:
        value = "" if value is None else value
        # Raises if it is no str.
        self._new_parser(last_event_id=value)
        with self._id_lock:
            stream = self._stream
            if stream is None:
                self._reconnection.last_event_id = value
            else:
                self._chosen_id = _ChosenId(stream, value, (stream.taken_id, stream.last_event_id))

    @property
    def retry(self) -> int | None:
        """The reconnection time that the server asked for, in ms, or None."""
        stream = self._stream
        retry: int | None = None if stream is None else stream.retry
        return self._reconnection.retry if retry is None else retry

    @property
    def pending(self) -> bool:
        """Whether the bytes received on this connection end within an event."""
        return self._pending if self._stream is None else cast("bool", self._stream.pending)

    def reconnect(self, delay: float | None = None) -> None:
        """Drop the connection and connect again. Thread-safe; works after the end or an error, too.

        It counts as consent to send the request again, whatever its method. It has no effect while
        an attempt is under way, or after `close()`.

        Args:
            delay: seconds to wait before; None: the `min_delay` of the policy.
        """
        delay = 0.0 if delay is None else check_seconds(delay, "delay")
        # Read first: this stream is to be dropped, even if another thread replaces it meanwhile.
        stream = self._stream
        if self._is_closed:
            return
        self._requested_delay = delay
        self._end_stream(stream)

    def close(self) -> None:
        """Close the source for good. Thread-safe and idempotent; returns immediately.

        It interrupts a wait for an event, for a response or for the next attempt.
        """
        self._mark_closed()
        self._end_stream(self._stream)

    def _mark_closed(self) -> None:
        if not self._is_closed:
            log.debug("%s: closed", self.name)
        self._is_closed = True
        if self.end_reason is None:
            self.end_reason = EndReason.CLOSED

    # -- Implemented by the sync and the async client

    def _end_stream(self, stream: Any) -> None:
        """End the stream, if there is one, and wake a reader, which finds out why."""
        raise NotImplementedError

    async def _send(self, request: Request) -> Source:
        """Send the request by `_send_request`, interrupted by `close()`; return its source."""
        raise NotImplementedError

    async def _check(self, source: Source, rejection: str) -> EndReason | None:
        """Check the response; raise a `ResponseError` if `rejection`, or the check, rejects it.

        Returns:
            The `EndReason` of a response without a stream (204), or None.
        """
        raise NotImplementedError

    async def _drain_source(self, source: Source) -> None:
        """Read the body of a redirect, so that its connection can serve the next request."""
        raise NotImplementedError

    async def _close_source(self, source: Source) -> None:
        """Close a source that no stream owns yet; ignore errors."""
        raise NotImplementedError

    def _make_stream(self, source: Source, parser: Parser[T]) -> Any:
        """Return the stream of events of a source."""
        raise NotImplementedError

    async def _release(self, stream: Any) -> None:
        """Close the stream; ignore errors."""
        raise NotImplementedError

    async def _read(self) -> Event[T]:
        """Return the next event of the stream, or raise `ConnectionEnded`."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        """Wait for that time, or until `close()` or `reconnect()` is called."""
        raise NotImplementedError

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call a callback, and return its result (awaited, in the async client)."""
        raise NotImplementedError

    # -- Shared: from one event to the next

    async def _advance(self, caught: BaseException | None = None) -> Event[T]:
        """Return the next event, over as many connections as it takes.

        Args:
            caught: what the stream has raised (`ConnectionEnded` at its end), or None.
        """
        self._begin_reading()
        try:
            while True:
                if caught is not None:
                    await self._handle_stream_error(caught)
                await self._connect()
                try:
                    return await self._read()
                except GeneratorExit:
                    # The coroutine is being closed, so nothing can be awaited.
                    raise
                except BaseException as error:
                    caught = error
        finally:
            self._is_reading = False
            # Break the reference cycle: the traceback refers to this frame.
            caught = None

    async def _open(self) -> None:
        """Connect if there is no connection, unless the source is exhausted."""
        self._begin_reading()
        try:
            await self._connect()
        except SourceExhausted:
            pass
        finally:
            self._is_reading = False

    def _latest_response(self) -> Response:
        if self.response is None:
            raise SSEError(f"The {type(self).__name__} is closed")
        return self.response

    def _begin_reading(self) -> None:
        if self._is_reading:
            raise RuntimeError(
                "Another thread or task is reading this source: use one source for each reader"
            )
        self._is_reading = True

    async def _connect(self) -> None:
        """Make attempts until there is a stream; raise if the policy or the program ends them."""
        while self._stream is None:
            if self._is_closed:
                raise SourceExhausted
            delay, self._requested_delay = self._requested_delay, None
            if delay is not None:
                self._reconnection.reconnect_requested(time.monotonic(), delay)
                self._deferred_error, self._is_exhausted, self.end_reason = None, False, None
            if self._is_exhausted:
                raise SourceExhausted
            if self._reconnection.has_connection:
                # A callback was cancelled before the loss was reported to the state machine.
                self._deferred_error = self._reconnection.interrupted(time.monotonic())
            deferred, self._deferred_error = self._deferred_error, None
            if deferred is not None:
                # The state machine has decided already; `on_error` may overrule it.
                await self._raise_unless_retried(deferred, final=deferred)
                continue
            seconds = self._reconnection.next_attempt_at - time.monotonic()
            if seconds > 0:
                await self._sleep(min(seconds, MAX_SECONDS))
                continue
            error = await self._attempt()
            # Outside of `except`, so that the error is not the context of later exceptions.
            if error is not None:
                # A reconnect() during the failed attempt is redundant: we reconnect anyway.
                self._requested_delay = None
                await self._connection_failed(error, self._retry_after)

    async def _attempt(self) -> Exception | None:
        """Send the request once, following redirects; return what went wrong, or None."""
        reconnection = self._reconnection
        source = None
        self._retry_after = None
        self._pending = False
        try:
            if reconnection.resume_mode == "call":
                resume_request = await self._build_resume_request()
                request = reconnection.begin(
                    time.monotonic(),
                    resume_request.fields,
                    resume_request,
                    sends_id=self._sends_id,
                )
            else:
                fields = await self._build_fields()
                request = reconnection.begin(time.monotonic(), fields, sends_id=self._sends_id)
            while True:
                where, attempt = redact_url(request.url), reconnection.attempt
                log.debug("%s: %s %s, attempt %d", self.name, request.method, where, attempt)
                if self._is_closed:
                    raise SourceExhausted
                source = await self._send_wrapping_errors(request)
                assert source.response is not None
                log.debug("%s: %r", self.name, source.response)
                hop, rejection = reconnection.follow(source.response)
                if hop is None:
                    break
                await self._drain_source(source)
                await self._close_source(source)
                source, request = None, hop
            await self._inspect_response(source, rejection)
        except GeneratorExit:
            # The coroutine is being closed, so nothing can be awaited.
            raise
        except BaseException as error:
            if source is not None:
                await self._close_source(source)
            if not isinstance(error, Exception):
                self._deferred_error = reconnection.interrupted(time.monotonic())
                raise
            if isinstance(error, SourceExhausted):
                raise
            return error
        return None

    async def _send_wrapping_errors(self, request: Request) -> Source:
        """Send the request, and wrap unknown errors of the library in an `SSEError`."""
        try:
            return await self._send(request)
        except (SSEError, SourceExhausted):
            raise
        except Exception as error:
            # For example an invalid header, or an exception of a user's hook. Its text is not part
            # of the message, as it may contain a secret.
            raise SSEError(
                f"The client could not send the request: {type(error).__name__} (see __cause__)"
            ) from error

    async def _inspect_response(self, source: Source, rejection: str) -> None:
        """Make the stream of the final response, or raise the reason against it.

        Args:
            source: the source of the response.
            rejection: the reason to reject the response that is known already, or "".

        Raises:
            ResponseError: the response is rejected.
            SourceExhausted: it is a 204, or the source was closed.
        """
        response = self.response = cast("Response", source.response)
        end_reason = rejected = None
        try:
            if self._checks_type or rejection or response.status != 200:
                end_reason = await self._check(source, rejection or rejection_reason(response))
        except ResponseError as error:
            rejected = error
            self._retry_after = error.retry_after
        if self._on_open is not None:
            self._is_accepting = rejected is None and end_reason is None
            try:
                await self._call_user(self._on_open, response)
            finally:
                self._is_accepting = False
        if self._is_closed:
            raise SourceExhausted
        if rejected is not None:
            raise rejected
        if end_reason is not None:
            self._finish(end_reason)
            raise SourceExhausted
        self._reconnection.opened(time.monotonic())
        if self._event_timeout is not None:
            self._watched_chunks = WatchedChunks(source.chunks, self._event_timeout)
            source = source._replace(chunks=self._watched_chunks)
        self._had_event = False
        self._is_framed = source.framed or _has_length(response)
        # A reconnect() during the attempt is redundant: this connection is new.
        self._requested_delay = None
        with self._id_lock:
            self._chosen_id = None
            self._stream = self._make_stream(
                source, self._new_parser(last_event_id=self._reconnection.last_event_id)
            )
        if self._is_closed:
            # Another thread closed the source just now, before it could see the stream.
            self._end_stream(self._stream)

    async def _build_fields(self) -> Fields:
        """Return the header fields of the next attempt."""
        headers = self._headers
        if callable(headers):
            headers = parse_user_fields(await self._call_user(headers))
        self._sends_id = _sends_id(headers)
        return merge_fields(self._first_request_fields, headers)

    async def _build_resume_request(self) -> Request:
        """Call `resume`, and build the request from its result."""
        result = await self._call_user(cast("Any", self._resume), self._reconnection.last_event_id)
        fields: Fields = ()
        if isinstance(result, Mapping) and result.get("headers") is not None:
            self._sends_id = _sends_id(parse_user_fields(result["headers"]))
        else:
            fields = await self._build_fields()
        return build_resume_request(result, self.url, self._common_fields, fields)

    async def _call_user(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call a callback whose exceptions are not failures of the connection."""
        try:
            return await self._call(callback, *arguments)
        except Exception as error:
            raise _CallbackError(error) from None

    # -- Shared: the loss of a connection

    async def _handle_stream_error(self, error: BaseException) -> None:
        """Handle an error or the end of the stream: return to reconnect, or raise."""
        stream = self._stream
        if isinstance(error, RuntimeError) and stream.is_being_read:
            # Another thread or task reads the stream, which goes on.
            raise error
        if isinstance(error, Exception) and not isinstance(error, ConnectionEnded):
            if stream.end_reason is None:
                # The stream is intact.
                await self._handle_recoverable_error(error)
            else:
                await self._drop_connection()
                await self._connection_failed(error)
            return
        await self._drop_connection()
        if not isinstance(error, Exception):
            self._deferred_error = self._reconnection.interrupted(time.monotonic())
            raise error
        if self._is_closed:
            raise SourceExhausted
        if self._requested_delay is not None:
            return
        if stream.end_reason is EndReason.UNTIL:
            self._finish(EndReason.UNTIL)
            raise SourceExhausted
        incomplete = self._reconnection.check_complete(self._pending, self._has_until)
        if incomplete is not None:
            await self._connection_failed(incomplete)
            return
        log.debug("%s: ended", self.name)
        if self._on_close is not None:
            failure = None
            try:
                await self._call_user(self._on_close)
            except _CallbackError as raised:
                failure = raised
            if failure is not None:
                await self._connection_failed(failure)
                return
        reason = self._reconnection.ended(
            time.monotonic(), had_event=self._had_event, framed=self._is_framed
        )
        if reason is not None:
            self._finish(reason)
            raise SourceExhausted
        self._log_wait()

    async def _handle_recoverable_error(self, error: Exception) -> None:
        """Handle an error after which the stream can continue: of a callback, or of `decode`."""
        if isinstance(error, RetriableError):
            await self._drop_connection()
            await self._connection_failed(_CallbackError(error))
            return
        delay = await self._consult_on_error(error)
        if delay is None:
            raise error
        await self._drop_connection()
        self._reconnection.reconnect_requested(time.monotonic(), delay)

    async def _message_failed(self, error: BaseException) -> None:
        """Drop the connection after `on_message` raised, so that its event is delivered again."""
        await self._drop_connection()
        if isinstance(error, RetriableError):
            # If the source is exhausted, the next read reports it.
            with suppress(SourceExhausted):
                await self._connection_failed(_CallbackError(error))
            return
        delay = await self._consult_on_error(error) if isinstance(error, Exception) else None
        if delay is None:
            self._deferred_error = self._reconnection.interrupted(time.monotonic())
            raise error
        self._reconnection.reconnect_requested(time.monotonic(), delay)

    async def _connection_failed(self, error: Exception, retry_after: float | None = None) -> None:
        """Report the failure to the state machine; raise, or return for the next attempt."""
        from_callback = isinstance(error, _CallbackError)
        if isinstance(error, _CallbackError):
            error = error.error
        final = self._reconnection.failed(
            time.monotonic(), error, retry_after, from_callback=from_callback
        )
        await self._raise_unless_retried(error, final=final, from_callback=from_callback)

    async def _raise_unless_retried(
        self, error: Exception, *, final: Exception | None, from_callback: bool = False
    ) -> None:
        """Call `on_error`; then raise `final`, or return if another attempt is scheduled.

        Args:
            error: what the attempt or the stream failed with; it was reported to the state machine.
            final: the error to raise if `on_error` does not overrule the policy; None: the policy
                allows another attempt.
            from_callback: whether a callback raised the error.
        """
        if self._is_closed:
            # The failure may be a consequence of close().
            raise SourceExhausted
        # If an async on_error is cancelled, the next read calls it again.
        self._deferred_error = final
        delay = await self._consult_on_error(error if final is None else final)
        self._deferred_error = None
        if self._is_closed:
            raise SourceExhausted
        if delay is not None:
            self._reconnection.reconnect_requested(time.monotonic(), delay)
        elif final is not None:
            self._finish(EndReason.ERROR)
            raise final
        # The text of other exceptions may contain a secret.
        is_safe = isinstance(error, SSEError) and not from_callback
        self._log_wait(f"{error if is_safe else type(error).__name__}; ")

    async def _consult_on_error(self, error: Exception) -> float | None:
        """Call `on_error`, and return the delay that it asked for, in seconds, or None."""
        if self._on_error is None:
            return None
        try:
            delay = await self._call(self._on_error, error)
            return None if delay is None else check_seconds(delay, "the return value of on_error")
        except Exception:
            await self._drop_connection()
            self._finish(EndReason.ERROR)
            raise

    async def _drop_connection(self) -> None:
        """Release the connection, and keep the state that the next one needs."""
        stream, reconnection = self._stream, self._reconnection
        if stream is None:
            return
        reconnection.retry = self.retry
        self._pending = stream.pending
        with self._id_lock:
            reconnection.last_event_id = self.last_event_id
            self._stream = self._chosen_id = None
        await self._release(stream)

    def _finish(self, reason: EndReason) -> None:
        """Mark the source as exhausted: it makes no attempt until `reconnect()`."""
        self._is_exhausted = True
        if self.end_reason is None:
            self.end_reason = reason
        self._reconnection.close()
        log.debug("%s: over (%s)", self.name, reason.value)

    def _log_wait(self, why: str = "") -> None:
        seconds = max(0.0, self._reconnection.next_attempt_at - time.monotonic())
        log.debug("%s: %snext attempt in %.1f s", self.name, why, seconds)


def _sends_id(fields: Iterable[tuple[str, bytes | None]]) -> bool:
    """Return whether the program's fields leave Last-Event-ID to the client."""
    return not any(name.lower() == "last-event-id" and value is None for name, value in fields)


def _has_length(response: Response) -> bool:
    """Return whether the end of the body is marked (RFC 9112, 6.3)."""
    return "content-length" in response.headers or "transfer-encoding" in response.headers
