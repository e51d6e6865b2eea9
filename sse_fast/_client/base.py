"""What the sync and the async client have in common: all but how they wait.

The course from one connection to the next is written once, as coroutines; those of the sync client
wait inside and never suspend. What to do next is decided in `_reconnect`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast

from sse_fast._check import rejection_reason
from sse_fast._client.policy import ReadyState, ReconnectPolicy
from sse_fast._client.reconnect import Reconnection
from sse_fast._core.parser import Parser
from sse_fast._errors import ResponseError, RetriableError, SSEError, StreamTimeout
from sse_fast._request import (
    DEFAULT_FIELDS,
    USER_AGENT,
    Request,
    build_resume_request,
    check_method,
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
    from collections.abc import Awaitable, Iterable
    from typing import TypeAlias

    from typing_extensions import TypedDict, TypeVar

    from sse_fast._core.parser import Event
    from sse_fast._request import Data, Fields, HeaderFields
    from sse_fast._source import Response, Source

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

__all__ = ["ClientBase", "ClientOptions", "End", "Over", "refuse_async"]

log = logging.getLogger("sse_fast")

_MAX_SECONDS = 1e9


class End(Exception):
    """The stream of a connection came to its end."""


class Over(Exception):
    """There will be no more events."""


class _Raised(Exception):
    """A callback raised, whatever it was: its error is none of the connection's."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class ClientBase(Generic[T]):
    """What the sync and the async client have in common."""

    _is_async: bool
    # The stream of the open connection.
    _stream: Any

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
        refuse_async(on_comment=on_comment, on_chunk=on_chunk)
        if not self._is_async:
            refuse_async(headers=headers, resume=resume, on_open=on_open, on_error=on_error)
        if client is not None and (uds is not None or ssl_context is not None):
            raise TypeError("Expected uds and ssl_context without a client, which has its own")
        self._send_request = resolve_send(client, is_async=self._is_async)
        self._raw = client is None
        if client is None:
            self._send_request = partial(
                self._send_request,
                uds=uds,
                ssl_context=ssl_context,
                multi_member=not policy._whatwg,
            )
        target = parse_url(url)
        self.url = url
        self.response: Response | None = None
        self.end_reason: EndReason | None = None
        body, kind = encode_body(json, data)
        self._headers = headers if callable(headers) else parse_user_fields(headers)
        self._defaults = {**DEFAULT_FIELDS, **(USER_AGENT if client is None else {})}
        self._own_fields = default_fields(self._defaults, target.user, kind)
        self._resume = resume
        self._until = until
        self._on_open = on_open
        self._on_error = on_error
        self._on_close: Callable[[], object] | None = None
        self._on_chunk = on_chunk
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._event_timeout = event_timeout
        self._new_parser: Callable[..., Parser[Any]] = partial(
            Parser, max_event_size=max_event_size, on_comment=on_comment, decode=decode, until=until
        )
        # Here, so that what it refuses is refused here.
        self._new_parser(last_event_id=last_event_id)
        self._machine = Reconnection(
            policy,
            Request(check_method(method), strip_userinfo(url), (), body),
            resend=resend,
            resume="call" if callable(resume) else resume,
        )
        self._machine.last_event_id = last_event_id
        self._stream = None
        # What a thread that waits for a response, or for the next attempt, is woken by.
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._pending = False
        self._had_event = False
        self._watched: Watched | None = None
        self._busy = False
        self._closed = False
        self._over = False
        # The delay that reconnect() asked for.
        self._asked: float | None = None
        # What a wait that was broken off has led to: to be raised when it is taken up again.
        self._broken: Exception | None = None
        self._retry_after: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {redact_url(self.url)} {self.ready_state.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it is a connection")

    @property
    def ready_state(self) -> ReadyState:
        """CONNECTING, OPEN or CLOSED."""
        if self._closed or self._over:
            return ReadyState.CLOSED
        state = self._machine.state
        lost = state is ReadyState.OPEN and (self._stream is None or self._asked is not None)
        return ReadyState.CONNECTING if lost else state

    @property
    def last_event_id(self) -> str:
        """The last event ID in force after the last event that was taken: from where to go on."""
        stream = self._stream
        return self._machine.last_event_id if stream is None else cast("str", stream.taken_id)

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
        # First: it is this one that is to be dropped, whatever comes of it in other threads.
        stream = self._stream
        if self._closed:
            return
        self._asked = delay
        self._end_stream(stream)

    def close(self) -> None:
        """End it for good: from any thread, any number of times; returns at once.

        Whoever waits for an event, for a response or for the next attempt then stops.
        """
        self._mark_closed()
        self._end_stream(self._stream)

    def _mark_closed(self) -> None:
        if not self._closed:
            log.debug("%s: closed", redact_url(self.url))
        self._closed = True
        if self.end_reason is None:
            self.end_reason = EndReason.CLOSED

    # -- What each of the two does in its way

    def _end_stream(self, stream: Any) -> None:
        """End it, and wake whoever waits; they find out why."""
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
        """The next event of the stream, or End."""
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
                except GeneratorExit:
                    # Nothing can be awaited any more.
                    raise
                except BaseException as error:
                    caught = error
        finally:
            self._busy = False
            # Which holds this frame by its traceback.
            caught = None

    async def _open(self) -> None:
        """See to it that there is a connection, unless it is all over."""
        self._enter()
        try:
            await self._connect()
        except Over:
            pass
        finally:
            self._busy = False

    def _opened(self) -> Response:
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
                raise Over
            asked, self._asked = self._asked, None
            if asked is not None:
                self._machine.asked(time.monotonic(), asked)
                self._broken, self._over, self.end_reason = None, False, None
            if self._over:
                raise Over
            if self._machine.connected:
                # A callback was cancelled, before anything was decided.
                self._broken = self._machine.interrupted(time.monotonic())
            broken, self._broken = self._broken, None
            if broken is not None:
                await self._settle(broken, broken)
                continue
            seconds = self._machine.due - time.monotonic()
            if seconds > 0:
                await self._sleep(min(seconds, _MAX_SECONDS))
                continue
            error = await self._attempt()
            # Not within an `except`, where it would be the context of all that follows.
            if error is not None:
                # Whoever wanted to be connected anew meanwhile, was about to be.
                self._asked = None
                await self._failed(error, self._retry_after)

    async def _attempt(self) -> Exception | None:
        """Ask once, over any redirects; what went wrong, if anything did."""
        machine = self._machine
        source = None
        self._retry_after = None
        self._pending = False
        try:
            if machine.resuming == "call":
                other = await self._resumed()
                request = machine.begin(time.monotonic(), other.fields, other)
            else:
                fields = await self._fields()
                request = machine.begin(time.monotonic(), fields)
            while True:
                log.debug(
                    "%s %s, attempt %d",
                    request.method,
                    redact_url(request.url),
                    machine.attempt,
                )
                if self._closed:
                    raise Over
                source = await self._sent(request)
                assert source.response is not None
                log.debug("%r", source.response)
                hop, objection = machine.follow(source.response)
                if hop is None:
                    break
                await self._close_source(source)
                source, request = None, hop
            await self._look_at(source, objection)
        except GeneratorExit:
            # Nothing can be awaited any more.
            raise
        except BaseException as error:
            if source is not None:
                await self._close_source(source)
            if not isinstance(error, Exception):
                self._broken = machine.interrupted(time.monotonic())
                raise
            if isinstance(error, Over):
                raise
            return error
        return None

    async def _sent(self, request: Request) -> Source:
        try:
            return await self._send(request)
        except (SSEError, Over):
            raise
        except Exception as error:
            # A header that the library does not send, or what a hook of the user's has raised. Its
            # text may be secret.
            raise SSEError(
                f"Expected a request that the client sends, got {type(error).__name__}"
            ) from error

    async def _look_at(self, source: Source, objection: str) -> None:
        """The final response: to be read, or an error."""
        response = self.response = cast("Response", source.response)
        reason = refused = None
        try:
            reason = await self._check(source, objection or rejection_reason(response))
        except ResponseError as error:
            refused = error
            self._retry_after = error.retry_after
        if self._on_open is not None:
            await self._call_back(self._on_open, response)
        if self._closed:
            raise Over
        if refused is not None:
            raise refused
        if reason is not None:
            self._finish(reason)
            raise Over
        self._machine.opened(time.monotonic())
        if self._event_timeout is not None:
            self._watched = Watched(source.chunks, self._event_timeout)
            source = source._replace(chunks=self._watched)
        self._had_event = False
        self._asked = None
        self._stream = self._make_stream(
            source, self._new_parser(last_event_id=self._machine.last_event_id)
        )
        if self._closed:
            # Just now, by another thread.
            self._end_stream(self._stream)

    async def _fields(self) -> Fields:
        headers = self._headers
        if callable(headers):
            headers = parse_user_fields(await self._call_back(headers))
        return merge_fields(self._own_fields, headers)

    async def _resumed(self) -> Request:
        """The request that the program wants to ask for the rest."""
        answer = await self._call_back(cast("Any", self._resume), self._machine.last_event_id)
        says_headers = isinstance(answer, Mapping) and answer.get("headers") is not None
        fields = () if says_headers else await self._fields()
        return build_resume_request(answer, self.url, self._defaults, fields)

    async def _call_back(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._call(callback, *arguments)
        except Exception as error:
            raise _Raised(error) from None

    # -- What both do: the loss of a connection

    async def _stopped(self, error: BaseException) -> None:
        """The stream gave no event: see to it that it can be asked for again, or raise."""
        stream = self._stream
        if isinstance(error, RuntimeError) and stream.is_being_read:
            # By another thread or task.
            raise error
        if isinstance(error, Exception) and not isinstance(error, End):
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
            raise Over
        if self._asked is not None:
            return
        if stream.end_reason is EndReason.UNTIL:
            self._finish(EndReason.UNTIL)
            raise Over
        incomplete = self._machine.incomplete(self._pending, self._until is not None)
        if incomplete is not None:
            await self._failed(incomplete)
            return
        log.debug("%s: ended", redact_url(self.url))
        if self._on_close is not None:
            failure = None
            try:
                await self._call_back(self._on_close)
            except _Raised as raised:
                failure = raised
            if failure is not None:
                await self._failed(failure)
                return
        reason = self._machine.ended(time.monotonic())
        if reason is not None:
            self._finish(reason)
            raise Over
        self._log_wait()

    async def _raised(self, error: Exception) -> None:
        """A callback raised, while the stream could go on."""
        if isinstance(error, RetriableError):
            await self._drop()
            await self._failed(_Raised(error))
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
            # Over: the next event says so.
            with suppress(Over):
                await self._failed(_Raised(error))
            return
        delay = await self._ask(error) if isinstance(error, Exception) else None
        if delay is None:
            self._broken = self._machine.interrupted(time.monotonic())
            raise error
        self._machine.asked(time.monotonic(), delay)

    async def _failed(self, error: Exception, retry_after: float | None = None) -> None:
        raised = isinstance(error, _Raised)
        if isinstance(error, _Raised):
            error = error.error
        final = self._machine.failed(time.monotonic(), error, retry_after, raised=raised)
        await self._settle(error, final, raised=raised)

    async def _settle(
        self, error: Exception, final: Exception | None, *, raised: bool = False
    ) -> None:
        """Raise `final`, or wait for the next attempt: as on_error has it."""
        if self._closed:
            # Which may be why.
            raise Over
        # Where the wait for on_error is cancelled, it is asked again.
        self._broken = final
        delay = await self._ask(error if final is None else final)
        self._broken = None
        if self._closed:
            raise Over
        if delay is not None:
            self._machine.asked(time.monotonic(), delay)
        elif final is not None:
            self._finish(EndReason.ERROR)
            raise final
        # What others have to say may be secret.
        ours = isinstance(error, SSEError) and not raised
        self._log_wait(f": {error if ours else type(error).__name__}")

    async def _ask(self, error: Exception) -> float | None:
        """What on_error has to say: seconds, or None."""
        if self._on_error is None:
            return None
        try:
            delay = await self._call(self._on_error, error)
            return None if delay is None else _seconds(delay, "what on_error returns")
        except Exception:
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
        log.debug("%s: over (%s)", redact_url(self.url), reason.value)

    def _log_wait(self, why: str = "") -> None:
        seconds = max(0.0, self._machine.due - time.monotonic())
        log.debug("%s%s; again in %.1f s", redact_url(self.url), why, seconds)


class Watched(Iterator[bytes], AsyncIterator[bytes]):
    """Chunks that are given up on when they bring no event for so many seconds.

    `since` is when the next event began to be waited for.
    """

    def __init__(self, chunks: Any, seconds: float) -> None:
        self._chunks = chunks
        self._seconds = seconds
        self.since = time.monotonic()

    def __next__(self) -> bytes:
        if self.left() <= 0:
            raise self.too_late()
        try:
            return cast("bytes", next(self._chunks))
        except StopIteration:
            # An end is an end, however late.
            raise
        except Exception as error:
            # The time-out of the read is no longer than this one.
            if self.left() > 0:
                raise
            raise self.too_late() from error

    async def __anext__(self) -> bytes:
        import anyio

        with anyio.move_on_after(self.left()):
            return cast("bytes", await self._chunks.__anext__())
        raise self.too_late()

    def left(self) -> float:
        return self.since + self._seconds - time.monotonic()

    def too_late(self) -> StreamTimeout:
        return StreamTimeout(
            f"Expected an event within {self._seconds:g} seconds, got none: raise event_timeout if "
            "they may be further apart"
        )


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"Expected {what} to be a number of seconds or None, got {type(value).__name__}"
        )
    if not 0 <= value < _MAX_SECONDS:
        raise ValueError(f"Expected {what} to be a number of seconds from 0, got {value!r}")
    return value


def refuse_async(**callbacks: Any) -> None:
    for name, callback in callbacks.items():
        if inspect.iscoroutinefunction(callback):
            raise TypeError(
                f"Expected {name} to be called without await, got an async function: "
                "AsyncEventSource awaits callbacks, but for on_comment and on_chunk"
            )
