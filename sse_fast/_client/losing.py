"""The loss of a connection, or of an attempt at one: callbacks, the verdict, and the log."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._client.state import CallbackError, ClientState, ConnectionEnded, SourceExhausted, log
from sse_fast._errors import RetriableError, SSEError
from sse_fast._interrupts import find_handler_error
from sse_fast._seconds import check_seconds
from sse_fast._stream import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import TypeVar

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["LosingClient"]


class LosingClient(ClientState[T]):
    """Reports each failure and each end to the state machine and to the program."""

    __slots__ = ()

    async def _handle_stream_error(self, error: BaseException) -> None:
        """Handle an error or the end of the stream: return to reconnect, or raise."""
        stream = self._stream
        try:
            if isinstance(error, ConnectionEnded):
                await self._handle_end(stream)
                return
            if isinstance(error, RuntimeError) and stream.is_being_read:
                # Another thread or task reads the stream, which goes on.
                raise error
            if (
                isinstance(error, MemoryError)
                or not isinstance(error, Exception)
                or find_handler_error(error) is not None
            ):
                if not self._keeps_stream(stream, error):
                    # An event may be lost within the stream, so it is asked for again.
                    await self._drop_connection()
                    self._deferred_error = self._reconnection.interrupted(time.monotonic())
                raise error
            if stream.end_reason is None:
                # The stream is intact.
                await self._handle_recoverable_error(error)
            else:
                await self._drop_connection()
                await self._connection_failed(error)
        finally:
            # The traceback of the error refers to this frame.
            del error

    async def _handle_end(self, stream: Any) -> None:
        """Handle the end of the stream: return to reconnect, or raise."""
        await self._drop_connection()
        if self._is_closed:
            raise SourceExhausted
        if self._requested_delay is not None:
            return
        if stream.end_reason is EndReason.UNTIL:
            self._finish(EndReason.UNTIL)
            raise SourceExhausted
        incomplete = self._reconnection.stream_ended(
            time.monotonic(),
            had_event=self._events != self._events_before,
            framed=self._is_framed,
            pending=self._pending,
            until_unmet=self._has_until,
        )
        if incomplete is not None:
            await self._connection_failed(incomplete)
            return
        self._has_clean_end = True
        await self._handle_clean_end()

    async def _handle_clean_end(self) -> None:
        """Call `on_close` and report the end; the next read repeats a call that was cancelled."""
        if self._on_close is not None:
            failure = None
            try:
                await self._call_user(self._on_close)
            except CallbackError as raised:
                failure = raised
            if failure is not None:
                self._has_clean_end = False
                await self._connection_failed(failure)
                return
        reason = self._reconnection.ended(time.monotonic())
        self._has_clean_end = False
        if reason is not None:
            self._finish(reason)
            raise SourceExhausted
        self._log_wait("the stream ended")

    async def _handle_recoverable_error(self, error: Exception) -> None:
        """Handle an error after which the stream can continue: of a callback, or of `decode`."""
        try:
            if isinstance(error, RetriableError):
                await self._drop_connection()
                await self._connection_failed(CallbackError(error))
                return
            delay = await self._consult_on_error(error)
            if delay is None:
                raise error
            await self._drop_connection()
            self._reconnection.reconnect_requested(time.monotonic(), delay)
            self._log_wait(type(error).__name__)
        finally:
            del error

    async def _message_failed(self, error: BaseException) -> None:
        """Drop the connection after `on_message` raised, so that its event is delivered again."""
        try:
            await self._drop_connection()
            if isinstance(error, RetriableError):
                # If the source is exhausted, the next read reports it.
                with suppress(SourceExhausted):
                    await self._connection_failed(CallbackError(error))
                return
            delay = await self._consult_on_error(error) if isinstance(error, Exception) else None
            if delay is None:
                self._deferred_error = self._reconnection.interrupted(time.monotonic())
                raise error
            self._reconnection.reconnect_requested(time.monotonic(), delay)
            self._log_wait(type(error).__name__)
        finally:
            del error

    async def _connection_failed(self, error: Exception, retry_after: float | None = None) -> None:
        """Report the failure to the state machine; raise, or return for the next attempt."""
        from_callback = isinstance(error, CallbackError)
        if isinstance(error, CallbackError):
            error = error.error
        final = self._reconnection.failed(
            time.monotonic(), error, retry_after, from_callback=from_callback
        )
        try:
            await self._raise_unless_retried(error, final=final, from_callback=from_callback)
        finally:
            del error, final

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
        try:
            if self._is_closed:
                # The failure may be a consequence of close().
                raise SourceExhausted
            # If an async on_error is cancelled, the next read calls it again.
            self._deferred_error = final
            try:
                delay = await self._consult_on_error(error if final is None else final)
            except BaseException:
                if final is not None:
                    # The traceback would refer to this source, which refers to the error.
                    final.__traceback__ = None
                raise
            if self._is_closed:
                raise SourceExhausted
            if delay is not None:
                self._reconnection.reconnect_requested(time.monotonic(), delay)
            elif final is not None:
                self._finish(EndReason.ERROR, final)
                raise final
            self._deferred_error = None
            # The text of other exceptions may contain a secret.
            is_safe = isinstance(error, SSEError) and not from_callback
            self._log_wait(str(error) if is_safe else type(error).__name__)
        finally:
            del error, final

    async def _call_user(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call a callback whose exceptions are not failures of the connection."""
        try:
            return await self._call(callback, *arguments)
        except Exception as error:
            raise CallbackError(error) from None

    async def _consult_on_error(self, error: Exception) -> float | None:
        """Call `on_error`, and return the delay that it asked for, in seconds, or None."""
        if self._on_error is None:
            return None
        try:
            delay = await self._call(self._on_error, error)
            return None if delay is None else check_seconds(delay, "the return value of on_error")
        except Exception as raised:
            await self._drop_connection()
            self._finish(EndReason.ERROR, raised)
            raise
        finally:
            del error

    async def _drop_connection(self) -> None:
        """Release the connection, and keep the state that the next one needs."""
        stream, reconnection = self._stream, self._reconnection
        if stream is None:
            return
        reconnection.retry = self.retry
        self._pending = stream.pending
        with self._id_lock:
            reconnection.last_event_id = self.last_event_id
            received = self._bytes_before + stream._bytes_read
            self._bytes_before, self._stream, self._chosen_id = received, None, None
        self._kept_event = self._opening = None
        await self._release(stream)

    def _finish(self, reason: EndReason, error: Exception | None = None) -> None:
        """Mark the source as exhausted: it makes no attempt until `reconnect()`.

        Args:
            reason: why it is over.
            error: the error that is about to be raised, or None.
        """
        if self.end_reason is None:
            self.end_reason = reason
        self._ended_by = None if error is None else type(error).__name__
        self._is_exhausted = True
        self._deferred_error = None
        self._reconnection.close()
        log.debug("%s: over (%s)", self.name, reason.value)

    def _log_wait(self, why: str) -> None:
        """Log a reconnect: a warning from the second failure in a row."""
        reconnection = self._reconnection
        seconds = max(0.0, reconnection.next_attempt_at - time.monotonic())
        if reconnection.failures < 2:
            log.info("%s: %s; next attempt in %.1f s", self.name, why, seconds)
        else:
            log.warning(
                "%s: %s (failure %d in a row); next attempt in %.1f s",
                self.name,
                why,
                reconnection.failures,
                seconds,
            )

    def _keeps_stream(self, stream: Any, error: BaseException) -> bool:
        """Return whether the stream goes on after an interrupted wait."""
        raise NotImplementedError
