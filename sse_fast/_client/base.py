"""The sequence of connections and attempts, shared by the sync and the async client.

It is written once, as coroutines; those of the sync client block inside and never suspend. `sync`
and `aio` implement what differs: waiting, calling callbacks and closing. `reconnect` decides what
to do next, and `losing` reports to it what went wrong.

An exception may come at any line: a cancellation, Ctrl-C, or that of a signal handler. So each step
stores its result before the next one begins. A wait that is given up leaves its attempt in
`_opening`, where the next wait goes on, and its event in `_kept_event`.
"""

from __future__ import annotations

import inspect
import sys
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

from sse_fast._check import rejection_reason
from sse_fast._client.losing import LosingClient
from sse_fast._client.state import Opening, SourceExhausted, log
from sse_fast._errors import ResponseError, SSEError
from sse_fast._interrupts import find_handler_error
from sse_fast._request import (
    Request,
    build_resume_request,
    default_fields,
    merge_fields,
    parse_user_fields,
)
from sse_fast._seconds import MAX_SECONDS
from sse_fast._source import redact_url
from sse_fast._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from typing_extensions import TypeVar

    from sse_fast._core.parser import Event
    from sse_fast._request import Fields
    from sse_fast._source import Response, Source

    R = TypeVar("R")
    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["ClientBase"]


class ClientBase(LosingClient[T]):
    """The common base of `EventSource` and `AsyncEventSource`."""

    __slots__ = ()

    async def _advance(self, caught: BaseException | None = None) -> None:
        """Store the next event in `_kept_event`, over as many connections as it takes.

        Args:
            caught: what the stream has raised (`ConnectionEnded` at its end), or None.
        """
        try:
            self._is_reading = True
            self._prepare_to_read()
            while True:
                if caught is not None:
                    await self._handle_stream_error(caught)
                    caught = None
                await self._connect()
                try:
                    await self._read()
                    return
                except GeneratorExit:
                    # The coroutine is being closed, so nothing can be awaited.
                    raise
                except BaseException as error:
                    if self._kept_event is not None:
                        # The stream has delivered an event, which the next call returns.
                        raise
                    caught = error
        finally:
            # Break the reference cycle: the traceback refers to this frame.
            caught = None
            self._is_reading = False

    def _has_kept_event(self) -> bool:
        """Return whether an event was kept from its reader, and is still to be delivered."""
        if self._is_closed or self._requested_delay is not None:
            # The connection goes, and the event comes again if the next one resumes.
            self._kept_event = None
        return self._kept_event is not None

    def _take_kept_event(self) -> Event[T]:
        """Return the event that `_advance` has stored."""
        event = cast("Event[T]", self._kept_event)
        try:
            self._kept_event = None
            self._events += 1
            return event
        except BaseException:
            # A signal handler raised: the next call returns the event.
            self._kept_event = event
            raise

    async def _open(self) -> None:
        """Connect if there is no connection, unless the source is exhausted."""
        try:
            self._is_reading = True
            self._prepare_to_read()
            await self._connect()
        except SourceExhausted:
            pass
        finally:
            self._is_reading = False

    def _latest_response(self) -> Response:
        if self.response is None:
            raise SSEError(f"The {type(self).__name__} is closed")
        return self.response

    def _alone(self, reading: Callable[..., Coroutine[Any, Any, R]], *arguments: Any) -> Any:
        """Return the coroutine of the only reader.

        Raises:
            RuntimeError: another thread or task is reading.
        """
        # The flag is not reliable if an exception came while it was cleared.
        reader = self._reader()
        if self._is_reading and reader is not None and _is_active(reader):
            if _has_called_us(reader):
                raise RuntimeError(
                    "This source is being read already, by the call that runs this callback: let "
                    "the callback return first"
                )
            raise RuntimeError(
                "Another thread or task is reading this source: use one source for each reader"
            )
        coroutine = reading(*arguments)
        self._reader = weakref.ref(coroutine)
        return coroutine

    def _prepare_to_read(self) -> None:
        """Do what a wait needs, before anything is awaited."""

    async def _connect(self) -> None:
        """Make attempts until there is a stream; raise if the policy or the program ends them."""
        while self._stream is None:
            if self._is_closed:
                await self._drop_opening()
                raise SourceExhausted
            delay = self._requested_delay
            if delay is not None:
                await self._drop_opening()
                self._reconnection.reconnect_requested(time.monotonic(), delay)
                self._deferred_error = self._ended_by = self.end_reason = None
                self._is_exhausted = self._has_clean_end = False
                self._requested_delay = None
            if self._ended_by is not None:
                raise SSEError(
                    f"The source was ended by an error that it has raised, {self._ended_by}: call "
                    "reconnect() to connect again"
                )
            if self._is_exhausted:
                raise SourceExhausted
            if self._has_clean_end:
                # The call of `on_close` was cancelled or interrupted.
                await self._handle_clean_end()
                continue
            if self._reconnection.has_connection and self._opening is None:
                # A callback was interrupted before the loss was reported to the state machine.
                self._deferred_error = self._reconnection.interrupted(time.monotonic())
            if self._deferred_error is not None:
                # The state machine has decided already; `on_error` may overrule it.
                await self._raise_unless_retried(self._deferred_error, final=self._deferred_error)
                continue
            seconds = self._reconnection.next_attempt_at - time.monotonic()
            if seconds > 0 and self._opening is None:
                await self._sleep(min(seconds, MAX_SECONDS))
                continue
            error = await self._attempt()
            # Outside of `except`, so that the error is not the context of later exceptions.
            try:
                if error is not None:
                    # A reconnect() during the failed attempt is redundant: we reconnect anyway.
                    self._requested_delay = None
                    await self._connection_failed(error, self._retry_after)
            finally:
                # Its traceback refers to this frame.
                error = None

    async def _attempt(self) -> Exception | None:
        """Send the request, following redirects; return what went wrong, or None.

        A wait that is given up leaves the attempt as it is, and the next call goes on with it.
        """
        try:
            if self._opening is None:
                await self._begin_attempt()
            opening = cast("Opening", self._opening)
            while not opening.is_final:
                await self._send_hop(opening)
            await self._accept(opening)
        except GeneratorExit:
            # The coroutine is being closed, so nothing can be awaited.
            raise
        except BaseException as error:
            if not isinstance(error, Exception) or find_handler_error(error) is not None:
                # The attempt goes on with the next call, unless its job has ended in this way.
                if self._opening is not None and self._opening.has_failed(error):
                    await self._drop_opening()
                raise
            await self._drop_opening()
            if isinstance(error, SourceExhausted):
                raise
            return error
        return None

    async def _begin_attempt(self) -> None:
        """Build the request, and report the attempt to the state machine."""
        reconnection = self._reconnection
        self._retry_after = None
        self._pending = False
        resume_request = None
        if reconnection.resume_mode == "call":
            resume_request = await self._build_resume_request()
            fields = resume_request.fields
        else:
            fields = await self._build_fields()
        # `idle_timeout` is left to the transport.
        watch = Watch(None, self._event_timeout, self._progress)
        self._opening = Opening(
            reconnection.begin(time.monotonic(), fields, resume_request, sends_id=self._sends_id),
            watch,
        )

    async def _send_hop(self, opening: Opening) -> None:
        """Send one request of an attempt, and find out whether its response is the final one."""
        if self._is_closed:
            raise SourceExhausted
        request = opening.request
        if opening.source is None:
            where, attempt = redact_url(request.url), self._reconnection.attempt
            log.debug("%s: %s %s, attempt %d", self.name, request.method, where, attempt)
            opening.next_request = None
            opening.source = await self._send_wrapping_errors(opening)
        source = opening.source
        assert source.response is not None
        opening.release_job()
        log.debug("%s: %r", self.name, source.response)
        if opening.next_request is None:
            # Once for each response, although the wait for the rest of its body may be repeated.
            opening.next_request, opening.rejection = self._reconnection.follow(source.response)
        if opening.next_request is None:
            opening.is_final = True
            return
        await self._drain_source(source)
        await self._close_source(source)
        opening.request, opening.source = opening.next_request, None

    async def _send_wrapping_errors(self, opening: Opening) -> Source:
        """Send the request, and wrap unknown errors of the library in an `SSEError`."""
        try:
            return await self._send(opening)
        except (SSEError, SourceExhausted):
            raise
        except Exception as error:
            # For example an invalid header, or an exception of a user's hook. Its text is not part
            # of the message, as it may contain a secret.
            raise SSEError(
                f"The client could not send the request: {type(error).__name__} (see __cause__)"
            ) from error

    async def _accept(self, opening: Opening) -> None:
        """Make the stream of the final response, or raise the reason against it.

        Raises:
            ResponseError: the response is rejected.
            SourceExhausted: it is a 204, or the source was closed.
        """
        source = cast("Source", opening.source)
        response = self.response = cast("Response", source.response)
        if not opening.is_checked:
            try:
                opening.end_reason = await self._check_response(opening, source, response)
            except ResponseError as error:
                opening.rejected = error
                self._retry_after = error.retry_after
            opening.is_checked = True
            opening.release_job()
        if self._on_open is not None and not opening.is_announced:
            self._is_accepting = opening.rejected is None and opening.end_reason is None
            try:
                await self._call_user(self._on_open, response)
            finally:
                self._is_accepting = False
            opening.is_announced = True
        if self._is_closed:
            raise SourceExhausted
        if opening.rejected is not None:
            raise opening.rejected
        if opening.end_reason is not None:
            self._finish(opening.end_reason)
            raise SourceExhausted
        self._reconnection.opened(time.monotonic())
        self._open_stream(source, opening)
        log.info("%s: connected, status %d", self.name, response.status)
        if self._is_closed:
            # Another thread closed the source just now, before it could see the stream.
            self._end_stream(self._stream)

    async def _check_response(self, opening: Opening, source: Source, response: Response) -> Any:
        """Check the response; return the `EndReason` of one without a stream (204), or None."""
        is_success = 200 <= response.status < 300 and response.status not in (204, 205)
        if not self._checks_type and not opening.rejection and is_success:
            return None
        return await self._check(opening, source, opening.rejection or rejection_reason(response))

    def _open_stream(self, source: Source, opening: Opening) -> None:
        """Make the stream of an accepted response, which then owns the source."""
        self._events_before = self._events
        self._is_framed = source.framed
        with self._id_lock:
            # A reconnect() during the attempt is redundant: this connection is new.
            self._requested_delay = None
            self._chosen_id = None
            self._bytes_seen = 0
            # The limit of the response is that of the first event as well.
            watch = None if self._event_timeout is None else opening.watch
            self._stream = self._make_stream(source, watch)
        self._opening = None
        self._connections += 1

    async def _drop_opening(self) -> None:
        """Give up the attempt under way, if there is one."""
        opening = self._opening
        if opening is None:
            return
        if opening.job is not None:
            await self._end_job(opening.job)
        self._opening = None
        # The traceback of the error refers to frames that refer to the attempt.
        opening.rejected = None
        if opening.source is not None:
            await self._close_source(opening.source)

    async def _build_fields(self) -> Fields:
        """Return the header fields of the next attempt."""
        headers: Iterable[tuple[str, bytes | None]]
        if callable(self._headers):
            headers = parse_user_fields(await self._call_user(self._headers))
        else:
            headers = self._headers
        self._sends_id = _sends_id(headers)
        own = default_fields(self._common_fields, self._user, self._content_type)
        return merge_fields(own, headers)

    async def _build_resume_request(self) -> Request:
        """Call `resume`, and build the request from its result."""
        result = await self._call_user(cast("Any", self._resume), self._reconnection.last_event_id)
        fields: Fields = ()
        if isinstance(result, Mapping) and result.get("headers") is not None:
            self._sends_id = _sends_id(parse_user_fields(result["headers"]))
        else:
            fields = await self._build_fields()
        return build_resume_request(
            result, self.url, self._common_fields, fields, self._reconnection.trusted_origins
        )


def _is_active(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Return whether the coroutine runs or waits."""
    return inspect.getcoroutinestate(coroutine) in (inspect.CORO_RUNNING, inspect.CORO_SUSPENDED)


def _has_called_us(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Return whether the coroutine is one of the callers of this function."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not coroutine.cr_frame:  # type: ignore[attr-defined]
        frame = frame.f_back
    return frame is not None


def _sends_id(fields: Iterable[tuple[str, bytes | None]]) -> bool:
    """Return whether the program's fields leave Last-Event-ID to the client."""
    return not any(name.lower() == "last-event-id" and value is None for name, value in fields)
