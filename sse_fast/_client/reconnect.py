"""What a client does next, decided without a clock, a socket or a sleep.

`Reconnection` is told what happened and when (in seconds of any clock that does not go back); it
answers with the next request, with the error to raise, or with why it is all over. Chance comes in
as a function. Who asks, waits and reads is `_client`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sse_fast._client.policy import ReadyState, ReconnectPolicy
from sse_fast._errors import (
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)
from sse_fast._request import Request, follow, parse_url, strip_credentials
from sse_fast._source import REDIRECTS
from sse_fast._stream import EndReason
from sse_fast.adapters._clients import iter_exception_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sse_fast._source import Response

_SAFE_METHODS = {"GET", "HEAD"}
_PERMANENT = {301, 308}
_KEEP_METHOD = {307, 308}
_REFUSED = {425, 429, 503, 529}
"""Statuses of a server that has not looked at the request (529: overloaded, as some say it)."""
_UNTRUSTED = {"SSLCertVerificationError", "CertificateError", "ServerFingerprintMismatch"}
_AS_THEY_ARE = (ResponseError, StreamIncomplete, StreamTimeout)


class Reconnection:
    """The state of a client between its requests.

    At any time there is at most one connection: from `begin` to the `failed`, `ended`, `asked`,
    `interrupted` or `close` that tells of its loss.

    Attributes:
        policy: the `ReconnectPolicy`.
        state: the `ReadyState`.
        last_event_id: the id to go on from; for the driver to set.
        retry: the reconnection time that the server asked for, in ms, or None; likewise.
        due: when the next attempt may begin.
        attempt: the number of the present attempt since there was a first response, or an event.
    """

    def __init__(
        self,
        policy: ReconnectPolicy,
        request: Request,
        *,
        resend: bool = False,
        resume: str | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`request` is what to ask, its fields are given with each attempt. `resend`: whether it
        may be sent again whatever its method. `resume`: how the rest is asked for after a 200,
        "get", "call" (the request is given with each attempt), or None: by the same request.
        """
        self.policy = policy
        self.state = ReadyState.CONNECTING
        self.last_event_id = ""
        self.retry: int | None = None
        self.due = float("-inf")
        self.attempt = 0
        self._request = request
        self._is_get = request.method == "GET"
        self._resend = resend
        self._resume = resume
        self._chance = chance
        # The request under way, or that of the open connection.
        self._current: Request | None = None
        # The redirects of this attempt, and where they have led for good.
        self._hops = 0
        self._moved: Request | None = None
        self._began = float("-inf")
        self._opened_at: float | None = None
        self._had_response = False
        self._failures = 0
        self._failing_since: float | None = None

    # -- The way to a connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection, or an attempt at one."""
        return self._current is not None

    @property
    def resuming(self) -> str | None:
        """How the next request asks for the rest; None: it is the one that was given."""
        return self._resume if self._had_response else None

    def begin(
        self,
        now: float,
        fields: Iterable[tuple[str, bytes]] = (),
        resumed: Request | None = None,
    ) -> Request:
        """An attempt begins: what to ask.

        Args:
            now: the time, in seconds.
            fields: the header fields; a Last-Event-ID among them counts as long as there is no id.
            resumed: the request that asks for the rest, if `resuming` says "call".

        Raises:
            StreamIncomplete: the id is too long to be sent.
        """
        if self.state is not ReadyState.CONNECTING or self._current is not None:
            raise RuntimeError("Expected no connection when one begins, got one")
        # A request that was built for this time may say itself where to go on.
        given = resumed is not None and any(name.lower() == "last-event-id" for name, _ in fields)
        if self.last_event_id and not given:
            fields = [each for each in fields if each[0].lower() != "last-event-id"]
            fields.append(("Last-Event-ID", self._id_field()))
        self.attempt += 1
        self._began = now
        self._hops, self._moved = 0, None
        request = self._request
        if resumed is not None:
            request = resumed
        elif self.resuming == "get" and self.last_event_id:
            request = request._replace(method="GET", body=None)
            fields = [each for each in fields if not each[0].lower().startswith("content-")]
        request = request._replace(fields=tuple(fields))
        redirected = request.cross_origin and resumed is None
        self._current = strip_credentials(request) if redirected else request
        return self._current

    def follow(self, response: Response) -> tuple[Request | None, str]:
        """The request that a redirect asks for; None, and why not, if it is not followed."""
        request, location = self._current, response.headers.get("location")
        if request is None or response.status not in REDIRECTS or location is None:
            return None, ""
        status = response.status
        url = follow(request.url, location)
        if url is None:
            return None, "Expected a URL of http or https to be redirected to, got another"
        origin, target = parse_url(request.url), parse_url(url)
        same_origin = origin.origin == target.origin
        if origin.scheme == "https" and target.scheme == "http":
            return None, "Expected to stay with https, got a redirect to http"
        keeps = request.method == "GET" or (same_origin and status in _KEEP_METHOD)
        if not keeps:
            return (
                None,
                f"Expected an answer to a {request.method}, got a redirect that cannot repeat it",
            )
        self._hops += 1
        if self._hops > self.policy.max_redirects:
            return None, f"Expected at most {self.policy.max_redirects} redirects, got more"
        hop = request._replace(url=url, redirected=True)
        if not same_origin:
            hop = strip_credentials(hop)
        if status in _PERMANENT and (self._hops == 1 or self._moved is request):
            self._moved = hop
            # A request that was built for this time says nothing of the others.
            if self.resuming != "call":
                self._request = self._request._replace(
                    url=url, redirected=True, cross_origin=hop.cross_origin
                )
        self._current = hop
        return hop, ""

    def opened(self, now: float) -> None:
        """The response is an event stream."""
        assert self._current is not None
        self.state = ReadyState.OPEN
        self._opened_at = now
        if not self._had_response:
            self.attempt = 0
        self._had_response = True

    def progressed(self) -> None:
        """The connection has brought an event."""
        self.attempt = 0
        self._failures = 0
        self._failing_since = None

    # -- The loss of it

    def failed(
        self,
        now: float,
        error: Exception,
        retry_after: float | None = None,
        *,
        raised: bool = False,
    ) -> Exception | None:
        """An attempt or the stream failed: the error to raise, or None: ask again when `due`.

        `retry_after` is what the server asked for, where the error does not say it. `raised`: by a
        callback, so that the policy has no say in it.
        """
        in_stream = self.state is ReadyState.OPEN
        request = self._lose(now)
        if isinstance(error, RetriableError):
            self._ask_again(now, self._wait(error.delay, retry_after))
            return None
        if raised:
            hopeless = True
        elif isinstance(error, ResponseError):
            retry_after = error.retry_after
            hopeless = error.response.status not in self.policy.retry_statuses
        else:
            hopeless = not (
                in_stream
                if isinstance(error, StreamIncomplete)
                else isinstance(error, TransportError) and not _is_untrusted(error)
            )
        repeatable = self._may_repeat(request, error)
        if not hopeless and repeatable:
            delay = self._wait(None, retry_after)
            if self._may_try(now, now + delay):
                self._ask_again(now, delay)
                return None
        self.state = ReadyState.CLOSED
        within = in_stream or (self._had_response and not repeatable)
        if hopeless or not within or isinstance(error, _AS_THEY_ARE):
            return error
        incomplete = StreamIncomplete(
            "Expected the rest of the stream, got a connection that broke off, and "
            + (
                "no attempt that the policy has left: see its max_attempts and max_elapsed"
                if repeatable
                else "a request that may not be sent again: see resend and resume"
            )
        )
        incomplete.__cause__ = error
        return incomplete

    def incomplete(self, pending: bool, until: bool) -> StreamIncomplete | None:
        """Whether a stream that ended was cut off: within an event, or before it met `until`."""
        if self.policy._whatwg or not (pending or until):
            return None
        wanted = "the rest of an event" if pending else "an event that meets `until`"
        return StreamIncomplete(f"Expected {wanted}, got the end of the stream before it")

    def ended(self, now: float) -> EndReason | None:
        """The stream came to a clean end: why it is over, or None: ask again when `due`."""
        request = self._lose(now)
        again = self.policy.reconnect_on_end
        if self._is_get if again is None else again:
            delay = self._wait(None, None)
            if self._may_repeat(request, None) and self._may_try(now, now + delay):
                self._ask_again(now, delay)
                return None
        self.state = ReadyState.CLOSED
        return EndReason.END

    def asked(self, now: float, delay: float) -> None:
        """The program wants to be connected anew, after so many seconds: no limit applies."""
        self._lose(now)
        self.state = ReadyState.CONNECTING
        self.due = now + self._wait(delay, None)

    def interrupted(self, now: float) -> Exception | None:
        """The program broke off the attempt or the stream, without having done with it: the error
        to raise when it goes on, or None.
        """
        if self._current is None:
            return None
        if self.state is not ReadyState.OPEN:
            # It has not failed.
            self.attempt -= 1
        request = self._lose(now)
        self.due = max(self.due, self._began + self.policy.min_delay)
        if self._may_repeat(request, None):
            return None
        self.state = ReadyState.CLOSED
        return StreamIncomplete(
            "Expected the program to read on, got one that broke off, and a request that may not "
            "be sent again: see resend and resume"
        )

    def close(self) -> None:
        """It is over for good."""
        self._current = None
        self.state = ReadyState.CLOSED

    def _id_field(self) -> bytes:
        """The value of Last-Event-ID (HTML standard, 9.2.4)."""
        value = self.last_event_id.encode("utf-8", "replace").strip(b" \t")
        limit = self.policy.max_id_size
        if limit is not None and len(value) > limit:
            raise StreamIncomplete(
                f"Expected a last event ID of at most {limit} bytes to go on from, got one of "
                f"{len(value)}: raise max_id_size if the server takes it"
            )
        return value

    def _lose(self, now: float) -> Request | None:
        """There is no connection any more; the request that it was for."""
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is not None and now - opened_at >= self.policy.reset_after:
            self.progressed()
        request, self._current = self._current, None
        if self.state is ReadyState.OPEN:
            self.state = ReadyState.CONNECTING
        return request

    def _may_repeat(self, request: Request | None, error: Exception | None) -> bool:
        """Whether the server can be asked again without doing twice what it was asked to do."""
        if self.resuming == "call" or (self.resuming == "get" and self.last_event_id):
            return True
        # Else it is the first request that is sent again.
        if request is None or self._request.method in _SAFE_METHODS or self._resend:
            return True
        if request.method != self._request.method:
            # What the server says of a GET for the rest says nothing of that.
            return False
        if isinstance(error, ResponseError):
            return error.response.status in _REFUSED
        return isinstance(error, TransportError) and not error.sent

    def _may_try(self, now: float, due: float) -> bool:
        """Whether the limits allow for another attempt at the time `due`."""
        policy = self.policy
        limit = policy.max_attempts if self._had_response else policy.initial_attempts
        since = now if self._failing_since is None else self._failing_since
        if policy.max_elapsed is not None and due - since > policy.max_elapsed:
            return False
        return limit is None or self.attempt < limit

    def _ask_again(self, now: float, delay: float) -> None:
        self.due = now + delay
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = now

    def _wait(self, delay: float | None, retry_after: float | None) -> float:
        """Seconds to the next attempt; `delay` is what the program asked for."""
        policy = self.policy
        if delay is not None:
            return max(policy.min_delay, delay)
        retry = None if self.retry is None else min(self.retry / 1000, policy.max_retry)
        try:
            backoff = policy.initial_delay * policy.multiplier**self._failures
        except OverflowError:
            backoff = policy.max_delay
        backoff = min(policy.max_delay, backoff)
        backoff -= backoff * policy.jitter * (1 - self._chance())
        if policy._whatwg:
            return max(policy.min_delay, backoff if retry is None else retry)
        asked_for = min(retry_after or 0.0, policy.max_retry_after)
        return max(policy.min_delay, retry or 0.0, asked_for) + backoff


def _is_untrusted(error: TransportError) -> bool:
    """Whether the certificate of the server was refused: it will be refused again."""
    return any(type(each).__name__ in _UNTRUSTED for each in iter_exception_chain(error))
