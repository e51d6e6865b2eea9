"""A driver of the client's state machine on a simulated clock, and the outcomes it can report."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from sse_fast import (
    EventTooLarge,
    FatalError,
    ReconnectPolicy,
    Response,
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)
from sse_fast._check import check_response
from sse_fast._client.reconnect import Reconnection
from sse_fast._request import Request
from sse_fast._source import Headers, Source

URL = "https://a.example/dir/stream?q=1"
BODY = b'{"stream": true}'
# The request that a callable `resume` builds.
RESUME_REQUEST = Request("GET", "https://a.example/rest")


class Driver:
    """Reports outcomes to the state machine as `_client.base` does, on a clock that is a number.

    Methods that end an attempt or a stream return the verdict: the seconds until the next attempt,
    the error to raise, or the `EndReason`.
    """

    def __init__(
        self,
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008
        method: str = "GET",
        *,
        url: str = URL,
        fields: Any = (),
        last_event_id: str = "",
        resume_request: Request = RESUME_REQUEST,
        rng: float | Callable[[], float] = 0.0,
        **options: Any,
    ) -> None:
        body = None if method in ("GET", "HEAD") else BODY
        self.reconnection = Reconnection(
            policy,
            Request(method, url, (), body),
            rng=rng if callable(rng) else lambda: rng,
            **options,
        )
        self.reconnection.last_event_id = last_event_id
        self.now = 0.0
        self.fields = fields
        self.resume_request = resume_request
        # The error of the last attempt or stream.
        self.error: Exception | None = None
        self.had_event = False

    def begin(self) -> Request:
        """Advance the clock to the next attempt, and begin it."""
        self.now = max(self.now, self.reconnection.next_attempt_at)
        if self.reconnection.resume_mode == "call":
            return self.reconnection.begin(
                self.now, self.resume_request.fields, self.resume_request
            )
        return self.reconnection.begin(self.now, self.fields)

    def answer(self, status: int, **headers: str) -> Any:
        """Report a response.

        Returns:
            The next request if a redirect is followed, None if it is a stream, else the verdict.
        """
        fields = Headers((name.replace("_", "-"), value) for name, value in headers.items())
        response = Response(status, fields, "", None)
        hop, rejection = self.reconnection.follow(response)
        if hop is not None:
            return hop
        try:
            reason = check_response(Source(iter(()), response=response), rejection)
        except ResponseError as error:
            return self.fail(error)
        if reason is not None:
            self.reconnection.close()
            return reason
        self.reconnection.opened(self.now)
        return None

    def open(self) -> Driver:
        """Begin an attempt that leads to a stream."""
        self.begin()
        assert self.answer(200, content_type="text/event-stream") is None
        return self

    def event(self, last_event_id: str | None = None) -> Driver:
        """Report an event, which changes the last event ID unless that is None."""
        self.had_event = True
        if last_event_id is not None:
            self.reconnection.last_event_id = last_event_id
        return self

    def fail(
        self, error: Exception, retry_after: float | None = None, *, from_callback: bool = False
    ) -> Any:
        """Report a failure; `from_callback`: a callback raised it."""
        self.error = error
        return self._failed(error, retry_after, from_callback)

    def end(self, *, pending: bool = False, until: bool = False, framed: bool = True) -> Any:
        """Report the end of the stream: within an event, or before it met `until`.

        `framed`: the end of the body is marked.
        """
        had_event, self.had_event = self.had_event, False
        incomplete = self.reconnection.stream_ended(
            self.now, had_event=had_event, framed=framed, pending=pending, until_unmet=until
        )
        if incomplete is not None:
            return self._failed(incomplete)
        reason = self.reconnection.ended(self.now)
        return self._get_delay() if reason is None else reason

    def reconnect(self, delay: float = 0.0) -> float:
        """Report a call of `reconnect()`, or a number from `on_error`."""
        self.had_event = False
        self.reconnection.reconnect_requested(self.now, delay)
        return self._get_delay()

    def interrupt(self) -> Exception | None:
        """Report a cancelled wait; return the error to raise when the program reads on."""
        self.had_event = False
        return self.reconnection.interrupted(self.now)

    def _failed(
        self, error: Exception, retry_after: float | None = None, from_callback: bool = False
    ) -> Any:
        self.had_event = False
        error_to_raise = self.reconnection.failed(
            self.now, error, retry_after, from_callback=from_callback
        )
        return self._get_delay() if error_to_raise is None else error_to_raise

    def _get_delay(self) -> float:
        return self.reconnection.next_attempt_at - self.now


def unknown_host() -> TransportError:
    error = TransportError("no such host", phase="connect", sent=False)
    error.__cause__ = socket.gaierror()
    return error


def refused() -> TransportError:
    error = TransportError("refused", phase="connect", sent=False)
    error.__cause__ = ConnectionRefusedError()
    return error


def slow_connect() -> TransportError:
    return StreamTimeout("no connection", phase="connect", sent=False)


def untrusted() -> TransportError:
    error = TransportError("certificate", phase="connect", sent=False)
    # Libraries wrap it in their own exception.
    error.__cause__ = OSError("wrapped", ssl.SSLCertVerificationError("self-signed"))
    return error


def reset_in_head() -> TransportError:
    """The connection was reset after the request was sent: the server may have acted on it."""
    error = TransportError("reset", phase="head", sent=True)
    error.__cause__ = ConnectionResetError()
    return error


def slow_head() -> TransportError:
    return StreamTimeout("no response", phase="head", sent=True)


def cut_off() -> TransportError:
    return TransportError("cut off", phase="body", sent=True)


def no_framing() -> TransportError:
    """The bytes of the server are no framing or coding, and will not be next time."""
    error = TransportError("no framing")
    error.permanent = True
    return error


def idle() -> TransportError:
    return StreamTimeout("nothing came", phase="body", sent=True)


def bad_status(status: int, retry_after: float | None = None) -> ResponseError:
    return ResponseError("status", Response(status, Headers(), "", None), retry_after)


def failing(driver: Driver, times: int) -> Any:
    """Let a number of attempts fail; return the last verdict."""
    for _ in range(times):
        driver.begin()
        last = driver.fail(refused())
    return last


def sent_id(request: Request) -> bytes | None:
    """Return the Last-Event-ID of a request."""
    values = [value for name, value in request.fields if name.lower() == "last-event-id"]
    assert len(values) <= 1
    return values[0] if values else None


# -- The table -------------------------------------------------------------------------------------


POLICIES = [ReconnectPolicy(), ReconnectPolicy.whatwg(), ReconnectPolicy.never()]

GET, POST, RESEND = "GET", "POST", "POST resend"
# With `resume`, with and without a last event ID.
BY_GET, BY_GET_NO_ID = "POST by get", "POST by get, no id"
BY_CALL, BY_CALL_NO_ID = "POST by call", "POST by call, no id"
REQUESTS: dict[str, dict[str, Any]] = {
    GET: {"method": "GET"},
    POST: {"method": "POST"},
    RESEND: {"method": "POST", "resend": True},
    BY_GET: {"method": "POST", "resume": "get"},
    BY_GET_NO_ID: {"method": "POST", "resume": "get"},
    BY_CALL: {"method": "POST", "resume": "call"},
    BY_CALL_NO_ID: {"method": "POST", "resume": "call"},
}

OUTCOMES: dict[str, Callable[[Driver], Any]] = {
    "stream": lambda driver: driver.answer(200, content_type="Text/Event-Stream;charset=x"),
    "other type": lambda driver: driver.answer(200, content_type="text/html"),
    "no type": lambda driver: driver.answer(200),
    **{str(status): partial(Driver.answer, status=status) for status in range(201, 600)},
    "unknown host": lambda driver: driver.fail(unknown_host()),
    "refused": lambda driver: driver.fail(refused()),
    "slow connect": lambda driver: driver.fail(slow_connect()),
    "reset in head": lambda driver: driver.fail(reset_in_head()),
    "slow head": lambda driver: driver.fail(slow_head()),
    "untrusted": lambda driver: driver.fail(untrusted()),
    "bad value": lambda driver: driver.fail(ValueError("invalid")),
    "other error": lambda driver: driver.fail(KeyError()),
    "fatal": lambda driver: driver.fail(FatalError()),
    "retriable": lambda driver: driver.fail(RetriableError()),
    # From a callback, even a connection error says nothing about the connection.
    "raised transport": lambda driver: driver.fail(refused(), from_callback=True),
    "raised status": lambda driver: driver.fail(bad_status(503), from_callback=True),
    "raised incomplete": lambda driver: driver.fail(StreamIncomplete(), from_callback=True),
    "raised retriable": lambda driver: driver.fail(RetriableError(), from_callback=True),
    "too large": lambda driver: driver.fail(EventTooLarge(11, 10)),
    "clean end": lambda driver: driver.end(),
    "pending end": lambda driver: driver.end(pending=True),
    "until unmet": lambda driver: driver.end(until=True),
    "cut off": lambda driver: driver.fail(cut_off()),
    "idle": lambda driver: driver.fail(idle()),
}


# -- Waits -----------------------------------------------------------------------------------------


def most_in_a_second(times: list[float]) -> int:
    """Return how many of the times lie within the same second."""
    # Tolerate the rounding errors of sums of floats.
    return max(sum(start <= time < start + 1 - 1e-6 for time in times) for start in times)


# -- Redirects -------------------------------------------------------------------------------------


REDIRECTS = [301, 302, 303, 307, 308]
SAME = "https://a.example/b"
OTHER = "https://b.example/b"
