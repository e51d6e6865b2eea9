"""The decisions of the client: a state machine without a clock, a socket or a sleep.

Outcomes go in, verdicts come out. The driver (`base`) reports each outcome with its time, in
seconds of a monotonic clock. The verdict "again" means: begin an attempt at `next_attempt_at`.

| outcome                                  | method                | verdict                       |
|------------------------------------------|-----------------------|-------------------------------|
| an attempt is due                        | `begin`               | the `Request` to send         |
| a redirect                               | `follow`              | the `Request` to send, or why |
|                                          |                       | it is not followed            |
| an event stream (200)                    | `opened`              | read it                       |
| a refused response, a network error, a   | `failed`              | None: again                   |
| timeout, an exception of a callback      |                       | an error: raise it            |
| the end of the stream                    | `stream_ended`        | None: call `ended`            |
|                                          |                       | an error: call `failed`       |
| a clean end                              | `ended`               | None: again                   |
|                                          |                       | an `EndReason`: it is over    |
| `reconnect()`, a number from `on_error`  | `reconnect_requested` | again                         |
| a wait that was cancelled or interrupted | `interrupted`         | None: again                   |
|                                          |                       | an error: raise it when the   |
|                                          |                       | program reads on              |
| 204, `until` or `until_event` was met,   | `close`               | it is over                    |
| an error is raised                       |                       |                               |

For example, a 503 arrives at `failed` as a `ResponseError`. It is retried if
`ReconnectPolicy.retry_statuses` contains it, the request may be sent again (`_is_repeatable`), and
the policy allows another attempt (`_has_attempts_left`), after the delay that `_compute_delay`
returns.
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
from sse_fast._request import Request, parse_origins, parse_url, resolve_location, strip_credentials
from sse_fast._source import REDIRECTS
from sse_fast._stream import EndReason
from sse_fast.adapters._clients import iter_exception_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sse_fast._request import Origin
    from sse_fast._source import Response

_SAFE_METHODS = {"GET", "HEAD"}
_PERMANENT_REDIRECTS = {301, 308}
_METHOD_PRESERVING_REDIRECTS = {307, 308}
_UNPROCESSED_STATUSES = {425, 429, 503, 529}
"""Statuses of servers that have not acted on the request (529: overloaded, used by some APIs)."""
_CERTIFICATE_ERRORS = {"SSLCertVerificationError", "CertificateError", "ServerFingerprintMismatch"}
_RAISED_UNWRAPPED = (ResponseError, StreamIncomplete, StreamTimeout)


class Reconnection:
    """The state of a client between its requests.

    At any time there is at most one connection: from `begin` to the call of `failed`, `ended`,
    `reconnect_requested`, `interrupted` or `close` that reports its loss.

    Args:
        policy: when to connect again.
        request: the request to send; its header fields are passed to each `begin`.
        resend: whether the request may be sent again whatever its method.
        resume: how to ask for the rest after a first stream: "get" (by a GET), "call" (`begin` is
            passed the request), or None (by the same request).
        rng: returns a random number from 0.0 to 1.0, for the jitter.

    Attributes:
        policy: the `ReconnectPolicy`.
        state: the `ReadyState`.
        last_event_id: the id to resume from; set by the driver.
        retry: the reconnection time that the server asked for, in ms, or None; set by the driver.
        next_attempt_at: when the next attempt may begin.
        attempt: the number of attempts in a row, since the first response or the last success.
        failures: the number of failures in a row: attempts and streams that failed, and ends after
            which the client backs off, because they were not good.
        failure_count: the number of all of them.
    """

    __slots__ = (
        "_backoffs",
        "_began_at",
        "_current",
        "_end_is_good",
        "_failing_since",
        "_first_url",
        "_had_response",
        "_id_at_begin",
        "_is_get",
        "_moved_to",
        "_opened_at",
        "_redirect_count",
        "_request",
        "_resend",
        "_resume",
        "_rng",
        "_trusted_origins",
        "attempt",
        "failure_count",
        "failures",
        "last_event_id",
        "next_attempt_at",
        "policy",
        "retry",
        "state",
    )

    def __init__(
        self,
        policy: ReconnectPolicy,
        request: Request,
        *,
        resend: bool = False,
        resume: str | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.state = ReadyState.CONNECTING
        self.last_event_id = ""
        self.retry: int | None = None
        self.next_attempt_at = float("-inf")
        self.attempt = 0
        self.failures = 0
        self.failure_count = 0
        self._request = request
        self._first_url = request.url
        self._trusted_origins = tuple(parse_origins(policy.trusted_origins))
        self._is_get = request.method == "GET"
        self._resend = resend
        self._resume = resume
        self._rng = rng
        # The request of the attempt under way, or of the open connection.
        self._current: Request | None = None
        # The number of redirects in this attempt.
        self._redirect_count = 0
        # The target of its leading permanent redirects. Later attempts start from there if it led
        # to a stream: a maintenance page that answers 301 must not replace the URL.
        self._moved_to: Request | None = None
        self._began_at = float("-inf")
        self._opened_at: float | None = None
        self._had_response = False
        # The last event ID when the attempt began.
        self._id_at_begin = ""
        # Whether the stream ended well, so that the next wait is short.
        self._end_is_good = False
        # The exponent of the next backoff.
        self._backoffs = 0
        self._failing_since: float | None = None

    # -- Connecting

    @property
    def has_connection(self) -> bool:
        """Whether there is a connection, or an attempt at one."""
        return self._current is not None

    @property
    def trusted_origins(self) -> tuple[Origin, ...]:
        """The origins that may have everything of the caller's."""
        return parse_url(self._first_url).origin, *self._trusted_origins

    @property
    def resume_mode(self) -> str | None:
        """How the next request asks for the rest; None: it is the first request again."""
        return self._resume if self._had_response else None

    def begin(
        self,
        now: float,
        fields: Iterable[tuple[str, bytes]] = (),
        resume_request: Request | None = None,
        *,
        sends_id: bool = True,
    ) -> Request:
        """Begin an attempt, and return the request to send.

        Args:
            now: the time, in seconds.
            fields: the header fields. A Last-Event-ID among them is replaced once there is an id.
            resume_request: the request that asks for the rest, if `resume_mode` is "call".
            sends_id: whether to send the last event ID; False: the program asked to leave it out.

        Raises:
            StreamIncomplete: the id is too long to be sent.
        """
        if self.state is not ReadyState.CONNECTING or self._current is not None:
            raise RuntimeError("There is a connection already, or the client is closed")
        # A request built by `resume` may carry its own Last-Event-ID.
        has_own_id = resume_request is not None and any(
            name.lower() == "last-event-id" for name, _ in fields
        )
        if self.last_event_id and sends_id and not has_own_id:
            fields = [each for each in fields if each[0].lower() != "last-event-id"]
            fields.append(("Last-Event-ID", self._encode_id()))
        self.attempt += 1
        self._began_at, self._id_at_begin = now, self.last_event_id
        self._end_is_good = False
        self._redirect_count, self._moved_to = 0, None
        request = self._request
        if resume_request is not None:
            request = resume_request
        elif self.resume_mode == "get" and self.last_event_id:
            request = request._replace(method="GET", body=None)
            fields = [each for each in fields if not each[0].lower().startswith("content-")]
        request = request._replace(fields=tuple(fields), one_member=self.policy._whatwg)
        has_moved_origin = request.cross_origin and resume_request is None
        self._current = strip_credentials(request) if has_moved_origin else request
        return self._current

    def follow(self, response: Response) -> tuple[Request | None, str]:
        """Return the request to which a response redirects.

        Returns:
            The request and "", None and the reason why the redirect is refused, or None and "" if
            the response is no redirect.
        """
        request, location = self._current, response.headers.get("location")
        if request is None or response.status not in REDIRECTS or location is None:
            return None, ""
        status = response.status
        url = resolve_location(request.url, location)
        if url is None:
            return None, f"The redirect ({status}) leads to a URL that is not valid http or https"
        origin, target = parse_url(request.url), parse_url(url)
        # A request that was stripped, or that `resume` has built, for another origin stays there.
        keeps_all = origin.origin == target.origin or (
            not request.cross_origin and target.origin in self.trusted_origins
        )
        if origin.scheme == "https" and target.scheme == "http":
            return None, f"The redirect ({status}) leads from https to http, which is not followed"
        is_see_other = status == 303 and request.method not in _SAFE_METHODS
        may_follow = keeps_all and (status in _METHOD_PRESERVING_REDIRECTS or is_see_other)
        if request.method != "GET" and not may_follow:
            return None, (
                f"A {request.method} is not repeated after this redirect ({status}): only 307 and "
                "308, and 303 as GET, are followed within the same origin, or to one of "
                "trusted_origins"
            )
        self._redirect_count += 1
        if self._redirect_count > self.policy.max_redirects:
            return None, (
                f"More than {self.policy.max_redirects} redirects in a row: raise max_redirects of "
                "the policy to follow more"
            )
        hop = request._replace(url=url, redirected=True)
        if is_see_other:
            # RFC 9110, 15.4.4: the result is elsewhere, and a GET asks for it.
            kept = [each for each in hop.fields if not each[0].lower().startswith("content-")]
            hop = hop._replace(method="GET", body=None, fields=tuple(kept))
        if not keeps_all:
            hop = strip_credentials(hop)
        elif origin.origin != target.origin:
            # A Host field of the caller names the first host.
            fields = tuple(each for each in hop.fields if each[0].lower() != "host")
            hop = hop._replace(fields=fields)
        if status in _PERMANENT_REDIRECTS and (
            self._redirect_count == 1 or self._moved_to is request
        ):
            self._moved_to = hop
        self._current = hop
        return hop, ""

    def opened(self, now: float) -> None:
        """Note that the response is an event stream."""
        assert self._current is not None
        moved_to = self._moved_to
        # The next attempt calls `resume` again, so its redirects are not remembered.
        if moved_to is not None and self.resume_mode != "call":
            self._request = self._request._replace(
                url=moved_to.url, redirected=True, cross_origin=moved_to.cross_origin
            )
        self.state = ReadyState.OPEN
        self._opened_at = now
        # The fields of an open connection are of no further use.
        self._current = self._current._replace(fields=())
        if not self._had_response:
            # From the first stream on, `max_attempts` counts instead of `initial_attempts`.
            self.attempt = 0
        self._had_response = True

    # -- Losing the connection

    def failed(
        self,
        now: float,
        error: Exception,
        retry_after: float | None = None,
        *,
        from_callback: bool = False,
    ) -> Exception | None:
        """Decide what follows after an attempt or a stream has failed.

        Args:
            now: the time, in seconds.
            error: what it failed with.
            retry_after: the server's Retry-After in seconds, if the error does not carry it.
            from_callback: whether a callback raised it; such an error is retried only if it is a
                `RetriableError`.

        Returns:
            The error to raise, or None: again.
        """
        in_stream = self.state is ReadyState.OPEN
        request = self._disconnect(now)
        # If the program wants more, a good end is still no failure of the server.
        is_good_end = self._end_is_good
        if not is_good_end:
            self._count_failure()
        if isinstance(error, RetriableError):
            if is_good_end and error.delay is None:
                self.next_attempt_at = now + self._compute_end_delay()
            else:
                self._schedule(now, self._compute_delay(error.delay, retry_after))
            return None
        if from_callback:
            is_fatal = True
        elif isinstance(error, ResponseError):
            retry_after = error.retry_after
            is_fatal = error.response.status not in self.policy.retry_statuses
        elif isinstance(error, StreamIncomplete):
            # Raised by `begin`, it means that the id cannot be sent, which no attempt changes.
            is_fatal = not in_stream
        else:
            is_fatal = not isinstance(error, TransportError) or self._is_permanent(error)
        repeatable = self._is_repeatable(request, error)
        if not is_fatal and repeatable:
            if is_good_end:
                delay = self._compute_end_delay()
            else:
                delay = self._compute_delay(None, retry_after)
            if self._has_attempts_left(now, now + delay):
                if is_good_end:
                    self.next_attempt_at = now + delay
                else:
                    self._schedule(now, delay)
                return None
        self.state = ReadyState.CLOSED
        # If an attempt to resume must not be repeated, the earlier stream stays incomplete, too.
        cut_off = in_stream or (self._had_response and not repeatable)
        if is_fatal or not cut_off or isinstance(error, _RAISED_UNWRAPPED):
            return error
        incomplete = StreamIncomplete(
            "The connection broke off within the stream, and "
            + (
                "the policy allows no further attempt: see its max_attempts and max_elapsed"
                if repeatable
                else "the request must not be sent twice: pass resend=True or resume="
            )
        )
        incomplete.__cause__ = error
        return incomplete

    def stream_ended(
        self, now: float, *, had_event: bool, framed: bool, pending: bool, until_unmet: bool
    ) -> StreamIncomplete | None:
        """Judge a regular end; return an error if it is within an event or before `until`.

        Args:
            now: the time, in seconds.
            had_event: whether the stream had an event.
            framed: whether the end of the body was marked. Any other end may be a crash.
            pending: whether it ended within an event.
            until_unmet: whether there is an `until` or `until_event` that was not met.
        """
        if self.policy._whatwg:
            pending = until_unmet = False
        # A POST that is sent again without a new id begins anew, and gets no further.
        gets_further = self._is_get or self._has_new_id() or not until_unmet
        if not had_event or not gets_further or (pending and not framed):
            self._end_is_good = False
        elif framed or self._was_open_long(now):
            self._end_is_good = True
            self._succeed()
        else:
            # If the server has brought new events and said when to ask again, the end counts
            # neither as a failure nor as a success.
            self._end_is_good = self.retry is not None and self._has_new_id()
            if self._end_is_good:
                self.attempt = max(0, self.attempt - 1)
        if pending:
            return StreamIncomplete("The stream ended within an event")
        if until_unmet:
            return StreamIncomplete("The stream ended before an event met `until` or `until_event`")
        return None

    def ended(self, now: float) -> EndReason | None:
        """Decide what follows after a clean end, at the given time in seconds.

        Returns:
            The reason why it is over, or None: again.
        """
        request = self._disconnect(now)
        is_good = self._end_is_good
        reconnects = self.policy.reconnect_on_end
        if self._is_get if reconnects is None else reconnects:
            delay = self._compute_end_delay() if is_good else self._compute_delay(None, None)
            if self._is_repeatable(request, None) and self._has_attempts_left(now, now + delay):
                if is_good:
                    self.next_attempt_at = now + delay
                else:
                    self._count_failure()
                    self._schedule(now, delay)
                return None
        self.state = ReadyState.CLOSED
        return EndReason.END

    def reconnect_requested(self, now: float, delay: float) -> None:
        """Schedule the attempt that the program asked for; the policy does not limit it.

        Args:
            now: the time, in seconds.
            delay: the seconds to wait before it.
        """
        self._disconnect(now)
        self.state = ReadyState.CONNECTING
        self.next_attempt_at = now + self._compute_delay(delay, None)

    def interrupted(self, now: float) -> Exception | None:
        """Note that the program abandoned the attempt or the stream before its end.

        Returns:
            The error to raise when the program reads on, or None: again.
        """
        if self._current is None:
            return None
        if self.state is not ReadyState.OPEN:
            # The attempt has not failed, so it does not count.
            self.attempt -= 1
        request = self._disconnect(now)
        self.next_attempt_at = max(self.next_attempt_at, self._began_at + self.policy.min_delay)
        if self._is_repeatable(request, None):
            return None
        self.state = ReadyState.CLOSED
        return StreamIncomplete(
            f"Reading was interrupted, and a {self._request.method} is not repeated automatically: "
            "pass resend=True or resume="
        )

    def close(self) -> None:
        """Make no attempt until `reconnect_requested`."""
        self._current = None
        self.state = ReadyState.CLOSED

    def _encode_id(self) -> bytes:
        """Return the value of Last-Event-ID (HTML standard, 9.2.4)."""
        value = self.last_event_id.encode("utf-8", "replace").strip(b" \t")
        limit = self.policy.max_id_size
        if limit is not None and len(value) > limit:
            raise StreamIncomplete(
                f"The last event ID has {len(value)} bytes, more than the {limit} that are sent to "
                "resume: raise max_id_size if the server accepts it"
            )
        return value

    def _disconnect(self, now: float) -> Request | None:
        """Note the loss of the connection, and return the request that it was for."""
        if self._was_open_long(now):
            self._succeed()
        self._opened_at = None
        # An exception of a signal handler may come at any line: `has_connection` changes last.
        if self.state is ReadyState.OPEN:
            self.state = ReadyState.CONNECTING
        request, self._current = self._current, None
        return request

    def _has_new_id(self) -> bool:
        """Return whether the last event ID has changed since the attempt began."""
        return self.last_event_id != self._id_at_begin

    def _was_open_long(self, now: float) -> bool:
        """Return whether there is a connection that has been open for `reset_after` seconds."""
        return self._opened_at is not None and now - self._opened_at >= self.policy.reset_after

    def _count_failure(self) -> None:
        self.failures += 1
        self.failure_count += 1

    def _succeed(self) -> None:
        """Let attempts and backoff start again."""
        self.attempt = self.failures = self._backoffs = 0
        self._failing_since = None

    def _is_repeatable(self, request: Request | None, error: Exception | None) -> bool:
        """Return whether the next attempt is safe, or the program has consented to repeat it."""
        if self.resume_mode == "call" or (self.resume_mode == "get" and self.last_event_id):
            return True
        # From here on, the next attempt sends the first request again.
        if request is None or self._request.method in _SAFE_METHODS or self._resend:
            return True
        if request.method != self._request.method:
            # The failure of a GET for the rest says nothing about the first request.
            return False
        if isinstance(error, ResponseError):
            return error.response.status in _UNPROCESSED_STATUSES
        return isinstance(error, TransportError) and not error.sent

    def _is_permanent(self, error: TransportError) -> bool:
        """Return whether another attempt would fail alike.

        This is so if the server's certificate was refused, or its bytes are no framing or coding.
        Browsers take the latter for a network error, after which they try again.
        """
        if error.permanent and not self.policy._whatwg:
            return True
        chain = iter_exception_chain(error)
        return any(type(each).__name__ in _CERTIFICATE_ERRORS for each in chain)

    def _has_attempts_left(self, now: float, next_attempt_at: float) -> bool:
        """Return whether the limits of the policy allow an attempt at that time."""
        policy = self.policy
        limit = policy.max_attempts if self._had_response else policy.initial_attempts
        since = now if self._failing_since is None else self._failing_since
        if policy.max_elapsed is not None and next_attempt_at - since > policy.max_elapsed:
            return False
        return limit is None or self.attempt < limit

    def _schedule(self, now: float, delay: float) -> None:
        """Schedule the next attempt after a failure, and let the next backoff be longer."""
        self.next_attempt_at = now + delay
        self._backoffs += 1
        if self._failing_since is None:
            self._failing_since = now

    def _compute_end_delay(self) -> float:
        """Return the seconds to wait after a good end."""
        policy = self.policy
        if policy._whatwg:
            return self._compute_delay(None, None)
        delay = policy.end_delay - policy.end_delay * policy.jitter * (1 - self._rng())
        if self.retry is not None:
            delay = min(self.retry / 1000, policy.max_retry)
        return max(policy.min_delay, delay)

    def _compute_delay(self, delay: float | None, retry_after: float | None) -> float:
        """Return the seconds to wait after a failure.

        Args:
            delay: the delay that the program asked for, or None.
            retry_after: the delay that the server asked for, or None.
        """
        policy = self.policy
        if delay is not None:
            return max(policy.min_delay, delay)
        retry = None if self.retry is None else min(self.retry / 1000, policy.max_retry)
        try:
            backoff = policy.initial_delay * policy.multiplier**self._backoffs
        except OverflowError:
            backoff = policy.max_delay
        backoff = min(policy.max_delay, backoff)
        backoff -= backoff * policy.jitter * (1 - self._rng())
        if policy._whatwg:
            return max(policy.min_delay, backoff if retry is None else retry)
        server_delay = min(retry_after or 0.0, policy.max_retry_after)
        return max(policy.min_delay, retry or 0.0, server_delay) + backoff
