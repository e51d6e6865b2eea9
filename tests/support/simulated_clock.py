"""The state machine of the client on a simulated clock, and what may happen to it."""

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
# What a callable `resume` builds.
RESUMED = Request("GET", "https://a.example/rest")


class Driver:
    """What `_client` does with the machine, on a clock that is a number.

    Whatever ends an attempt or a stream answers with the verdict: the seconds until it is asked
    again, the error to raise, or the reason why it is all over.
    """

    def __init__(
        self,
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008
        method: str = "GET",
        *,
        url: str = URL,
        fields: Any = (),
        last_event_id: str = "",
        resumed: Request = RESUMED,
        chance: float | Callable[[], float] = 0.0,
        **options: Any,
    ) -> None:
        body = None if method in ("GET", "HEAD") else BODY
        self.machine = Reconnection(
            policy,
            Request(method, url, (), body),
            chance=chance if callable(chance) else lambda: chance,
            **options,
        )
        self.machine.last_event_id = last_event_id
        self.now = 0.0
        self.fields = fields
        self.resumed = resumed
        # What the last attempt or stream failed with.
        self.error: Exception | None = None
        self.had_event = False

    def begin(self) -> Request:
        """Wait for as long as the machine wants, and ask."""
        self.now = max(self.now, self.machine.due)
        if self.machine.resuming == "call":
            return self.machine.begin(self.now, self.resumed.fields, self.resumed)
        return self.machine.begin(self.now, self.fields)

    def answer(self, status: int, **headers: str) -> Any:
        """The next request, if it is a redirect that is followed; None, if it is a stream; or the
        verdict.
        """
        fields = Headers((name.replace("_", "-"), value) for name, value in headers.items())
        response = Response(status, fields, "", None)
        hop, objection = self.machine.follow(response)
        if hop is not None:
            return hop
        objection = f"Expected {objection}" if objection else ""
        try:
            reason = check_response(Source(iter(()), response=response), objection)
        except ResponseError as error:
            return self.fail(error)
        if reason is not None:
            self.machine.close()
            return reason
        self.machine.opened(self.now)
        return None

    def open(self) -> Driver:
        """Ask, and get a stream."""
        self.begin()
        assert self.answer(200, content_type="text/event-stream") is None
        return self

    def event(self, last_event_id: str | None = None) -> Driver:
        self.had_event = True
        if last_event_id is not None:
            self.machine.last_event_id = last_event_id
        return self

    def fail(
        self, error: Exception, retry_after: float | None = None, *, raised: bool = False
    ) -> Any:
        """`raised`: by a callback."""
        self.error = error
        return self._failed(error, retry_after, raised)

    def end(self, *, pending: bool = False, until: bool = False) -> Any:
        incomplete = self.machine.incomplete(pending, until)
        if incomplete is not None:
            return self._failed(incomplete)
        self._drop()
        reason = self.machine.ended(self.now)
        return self._wait() if reason is None else reason

    def reconnect(self, delay: float = 0.0) -> float:
        """`reconnect()`, or a number from `on_error`."""
        self._drop()
        self.machine.asked(self.now, delay)
        return self._wait()

    def interrupt(self) -> Exception | None:
        self._drop()
        return self.machine.interrupted(self.now)

    def _failed(
        self, error: Exception, retry_after: float | None = None, raised: bool = False
    ) -> Any:
        self._drop()
        error_to_raise = self.machine.failed(self.now, error, retry_after, raised=raised)
        return self._wait() if error_to_raise is None else error_to_raise

    def _drop(self) -> None:
        if self.had_event:
            self.machine.progressed()
        self.had_event = False

    def _wait(self) -> float:
        return self.machine.due - self.now


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
    # As libraries wrap it.
    error.__cause__ = OSError("wrapped", ssl.SSLCertVerificationError("self-signed"))
    return error


def reset_in_head() -> TransportError:
    """The server may have acted on the request."""
    error = TransportError("reset", phase="head", sent=True)
    error.__cause__ = ConnectionResetError()
    return error


def slow_head() -> TransportError:
    return StreamTimeout("no response", phase="head", sent=True)


def cut_off() -> TransportError:
    return TransportError("cut off", phase="body", sent=True)


def idle() -> TransportError:
    return StreamTimeout("nothing came", phase="body", sent=True)


def bad_status(status: int, retry_after: float | None = None) -> ResponseError:
    return ResponseError("status", Response(status, Headers(), "", None), retry_after)


def failing(driver: Driver, times: int) -> Any:
    """So many attempts in vain; the last verdict."""
    for _ in range(times):
        driver.begin()
        last = driver.fail(refused())
    return last


def sent_id(request: Request) -> bytes | None:
    """The Last-Event-ID."""
    values = [value for name, value in request.fields if name.lower() == "last-event-id"]
    assert len(values) <= 1
    return values[0] if values else None


# -- The table -------------------------------------------------------------------------------------


POLICIES = [ReconnectPolicy(), ReconnectPolicy.whatwg(), ReconnectPolicy.never()]

GET, POST, RESEND = "GET", "POST", "POST resend"
# Those with `resume`; and without an id.
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
    "bad value": lambda driver: driver.fail(ValueError("Expected a URL")),
    "other error": lambda driver: driver.fail(KeyError()),
    "fatal": lambda driver: driver.fail(FatalError()),
    "retriable": lambda driver: driver.fail(RetriableError()),
    # Whatever it is, it is none of the connection's.
    "raised transport": lambda driver: driver.fail(refused(), raised=True),
    "raised status": lambda driver: driver.fail(bad_status(503), raised=True),
    "raised incomplete": lambda driver: driver.fail(StreamIncomplete(), raised=True),
    "raised retriable": lambda driver: driver.fail(RetriableError(), raised=True),
    "too large": lambda driver: driver.fail(EventTooLarge(11, 10)),
    "clean end": lambda driver: driver.end(),
    "pending end": lambda driver: driver.end(pending=True),
    "until unmet": lambda driver: driver.end(until=True),
    "cut off": lambda driver: driver.fail(cut_off()),
    "idle": lambda driver: driver.fail(idle()),
}


# -- Waits -----------------------------------------------------------------------------------------


def most_in_a_second(times: list[float]) -> int:
    # But for what sums of floats are off.
    return max(sum(start <= time < start + 1 - 1e-6 for time in times) for start in times)


# -- Redirects -------------------------------------------------------------------------------------


REDIRECTS = [301, 302, 303, 307, 308]
SAME = "https://a.example/b"
OTHER = "https://b.example/b"
