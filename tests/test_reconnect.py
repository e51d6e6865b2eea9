"""What the client does next, on a simulated clock: the policy table, sending again, redirects."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import random
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import sse_fast
from sse_fast import (
    EndReason,
    EventTooLarge,
    FatalError,
    ReadyState,
    ReconnectPolicy,
    Response,
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)
from sse_fast._reconnect import Reconnection
from sse_fast._request import Request, parse_url
from sse_fast._source import Headers, Source
from sse_fast.adapters import check_response

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
        verdict."""
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

    def reconnect(self, delay: float | None = 0.0) -> float:
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

# What follows.
AGAIN = "again"
READ = "read"
RAISED = "the very error"
END = EndReason.END
NO_CONTENT = EndReason.NO_CONTENT

# When it happens: in answer to the first request; to one after a stream; within a stream.
FIRST, LATER, STREAMING = "first", "later", "streaming"
ASKED = [FIRST, LATER]

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

NOT_PROCESSED = ["425", "429", "503", "529"]
PERHAPS_PROCESSED = ["408", "500", "502", "504", "599"]
RETRIABLE = NOT_PROCESSED + PERHAPS_PROCESSED
FINAL = ["201", "205", "300", "304", "400", "401", "403", "404", "409", "410", "499", "501", "505"]
# Redirects that lead nowhere.
NOWHERE = ["301", "302", "303", "307", "308"]
NOT_SENT = ["unknown host", "refused", "slow connect"]
SENT = ["reset in head", "slow head"]
HOPELESS = ["untrusted", "bad value", "other error", "fatal", "other type", "no type"]
RAISED_BY_CALLBACKS = ["raised transport", "raised status", "raised incomplete"]
INCOMPLETE = ["pending end", "until unmet"]
RESUMED_LATER = [BY_GET, BY_CALL, BY_CALL_NO_ID]

# When, what was asked, what happened; and what follows under each of POLICIES.
ROWS: list[tuple[list[str], list[str], list[str], Any, Any, Any]] = [
    (ASKED, [*REQUESTS], ["stream"], READ, READ, READ),
    (ASKED, [*REQUESTS], ["204"], NO_CONTENT, NO_CONTENT, NO_CONTENT),
    (ASKED, [*REQUESTS], HOPELESS + FINAL + NOWHERE, RAISED, RAISED, RAISED),
    (ASKED, [GET, RESEND], RETRIABLE, AGAIN, RAISED, RAISED),
    (ASKED, [GET, RESEND], NOT_SENT + SENT, AGAIN, AGAIN, RAISED),
    # Only what was provably not processed is sent again.
    (ASKED, [POST], NOT_PROCESSED, AGAIN, RAISED, RAISED),
    (ASKED, [POST], PERHAPS_PROCESSED, RAISED, RAISED, RAISED),
    (ASKED, [POST], NOT_SENT, AGAIN, AGAIN, RAISED),
    ([FIRST], [POST], SENT, RAISED, RAISED, RAISED),
    # `resume` is for after a 200.
    ([FIRST], [BY_GET, BY_CALL], NOT_PROCESSED, AGAIN, RAISED, RAISED),
    ([FIRST], [BY_GET, BY_CALL], PERHAPS_PROCESSED + SENT, RAISED, RAISED, RAISED),
    ([LATER], RESUMED_LATER, RETRIABLE, AGAIN, RAISED, RAISED),
    ([LATER], RESUMED_LATER, NOT_SENT + SENT, AGAIN, AGAIN, RAISED),
    # What the program asks for is above the policy.
    ([*ASKED, STREAMING], [*REQUESTS], ["retriable", "raised retriable"], AGAIN, AGAIN, AGAIN),
    ([*ASKED, STREAMING], [*REQUESTS], RAISED_BY_CALLBACKS, RAISED, RAISED, RAISED),
    ([STREAMING], [*REQUESTS], ["too large", "other error", "fatal"], RAISED, RAISED, RAISED),
    ([STREAMING], [GET], ["clean end"], AGAIN, AGAIN, END),
    ([STREAMING], [RESEND, *RESUMED_LATER], ["clean end"], END, AGAIN, END),
    # whatwg() keeps the guard, and takes each end for a clean one.
    ([STREAMING], [POST, BY_GET_NO_ID], ["clean end"], END, END, END),
    ([STREAMING], [GET, RESEND, *RESUMED_LATER], INCOMPLETE, AGAIN, AGAIN, StreamIncomplete),
    ([STREAMING], [POST, BY_GET_NO_ID], INCOMPLETE, StreamIncomplete, END, StreamIncomplete),
    ([STREAMING], [GET, RESEND, *RESUMED_LATER], ["cut off"], AGAIN, AGAIN, StreamIncomplete),
    ([STREAMING], [POST, BY_GET_NO_ID], ["cut off"], *[StreamIncomplete] * 3),
    # The very error, which is a StreamTimeout.
    ([STREAMING], [GET, RESEND, *RESUMED_LATER], ["idle"], AGAIN, AGAIN, RAISED),
    ([STREAMING], [POST, BY_GET_NO_ID], ["idle"], RAISED, RAISED, RAISED),
]
TABLE = [
    ((when, who, what), columns)
    for whens, whos, whats, *columns in ROWS
    for when in whens
    for who in whos
    for what in whats
]


def test_the_table_has_no_row_twice() -> None:
    assert len({key for key, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("key", "expected"), TABLE, ids=["-".join(key) for key, _ in TABLE])
def test_table(key: tuple[str, str, str], expected: list[Any]) -> None:
    assert [what_follows(*key, policy) for policy in POLICIES] == expected


def what_follows(when: str, who: str, what: str, policy: ReconnectPolicy) -> Any:
    driver = Driver(policy, **REQUESTS[who])
    last_event_id = "" if who.endswith("no id") else "7"
    if when == FIRST:
        driver.machine.last_event_id = last_event_id
        driver.begin()
    else:
        driver.open().event(last_event_id)
    if when == LATER:
        # Under each policy, and with each request.
        driver.reconnect()
        driver.begin()
    verdict = OUTCOMES[what](driver)
    # It is kept, whatever happens.
    assert driver.machine.last_event_id == last_event_id
    if isinstance(verdict, float):
        assert driver.machine.state is ReadyState.CONNECTING
        return AGAIN
    if verdict is None:
        assert driver.machine.state is ReadyState.OPEN
        return READ
    assert driver.machine.state is ReadyState.CLOSED
    with pytest.raises(RuntimeError):
        driver.begin()
    if isinstance(verdict, EndReason):
        return verdict
    return RAISED if verdict is driver.error else type(verdict)


def test_which_statuses_are_retriable() -> None:
    retriable = []
    for status in range(205, 1000):
        driver = Driver()
        driver.begin()
        if isinstance(driver.fail(bad_status(status)), float):
            retriable.append(status)
    but_two = [status for status in range(500, 600) if status not in (501, 505)]
    assert retriable == [408, 425, 429, *but_two]


def test_a_cut_off_stream_says_by_what() -> None:
    error = cut_off()
    incomplete = Driver(method="POST").open().event().fail(error)
    assert isinstance(incomplete, StreamIncomplete)
    assert incomplete.__cause__ is error


def test_an_incomplete_stream_says_what_was_expected() -> None:
    for pending, until, expected in [
        (True, False, "the rest of an event"),
        (True, True, "the rest of an event"),
        (False, True, "an event that meets `until`"),
    ]:
        incomplete = Driver(method="POST").open().event().end(pending=pending, until=until)
        assert str(incomplete).startswith(f"Expected {expected}, got the end of the stream")


def test_an_error_on_a_reconnect_is_that_of_a_stream_cut_off() -> None:
    """After the first 200, what may not be sent again is StreamIncomplete, in the stream or not."""
    driver = Driver(method="POST").open()
    driver.reconnect()
    driver.begin()
    incomplete = driver.fail(reset_in_head())
    assert isinstance(incomplete, StreamIncomplete)
    assert "resend" in str(incomplete)


def test_head_is_not_get_at_a_clean_end() -> None:
    assert Driver(method="HEAD").open().end() is EndReason.END


@pytest.mark.parametrize(
    "failure",
    [unknown_host, refused, slow_connect, reset_in_head, slow_head, lambda: bad_status(503)],
)
def test_three_attempts_at_a_first_response(failure: Callable[[], Exception]) -> None:
    driver = Driver()
    for _ in range(2):
        driver.begin()
        assert isinstance(driver.fail(failure()), float)
    driver.begin()
    assert driver.fail(failure()) is driver.error


def test_the_last_error_is_raised() -> None:
    driver = Driver()
    for failure in (refused, reset_in_head, lambda: bad_status(503)):
        driver.begin()
        verdict = driver.fail(failure())
    assert verdict is driver.error
    assert isinstance(verdict, ResponseError)


@pytest.mark.parametrize("make", [ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never])
def test_initial_attempts(make: Any) -> None:
    for limit in (1, 2, 5):
        driver = Driver(make(initial_attempts=limit))
        for _ in range(limit - 1):
            driver.begin()
            assert isinstance(driver.fail(refused()), float)
        driver.begin()
        assert driver.fail(refused()) is driver.error


@pytest.mark.parametrize(
    "policy", [ReconnectPolicy(initial_attempts=None), ReconnectPolicy.whatwg()]
)
def test_no_limit_of_attempts_at_a_first_response(policy: ReconnectPolicy) -> None:
    driver = Driver(policy)
    for failure in [unknown_host, refused, slow_connect, reset_in_head, slow_head] * 20:
        driver.begin()
        assert isinstance(driver.fail(failure()), float)


@pytest.mark.parametrize("policy", POLICIES[:2])
def test_no_limit_of_attempts_after_a_first_response(policy: ReconnectPolicy) -> None:
    driver = Driver(policy).open()
    assert isinstance(driver.fail(cut_off()), float)
    for failure in [unknown_host, refused, slow_connect, reset_in_head, slow_head] * 20:
        driver.begin()
        assert isinstance(driver.fail(failure()), float)


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("make", [ReconnectPolicy, ReconnectPolicy.whatwg])
def test_max_attempts(make: Any, limit: int) -> None:
    driver = Driver(make(max_attempts=limit))
    # What went before the first response does not count.
    failing(driver, 2)
    driver.open()
    for _ in range(3):
        # With each event they are counted anew; streams that bring none count as failures do.
        driver.event()
        for number in range(limit):
            verdict = driver.fail(cut_off()) if number % 2 else driver.end()
            assert isinstance(verdict, float)
            driver.open()
    incomplete = driver.fail(cut_off())
    assert isinstance(incomplete, StreamIncomplete)
    assert "max_attempts" in str(incomplete)


@pytest.mark.parametrize("failure", [refused, lambda: bad_status(503)])
def test_max_attempts_that_all_fail(failure: Callable[[], Exception]) -> None:
    driver = Driver(ReconnectPolicy(max_attempts=2)).open().event()
    verdicts = [driver.end()]
    for _ in range(2):
        driver.begin()
        verdicts.append(driver.fail(failure()))
    assert [isinstance(verdict, Exception) for verdict in verdicts] == [False, False, True]


def test_max_attempts_begin_anew_after_thirty_seconds_open() -> None:
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    for _ in range(5):
        driver.now += 31
        assert isinstance(driver.fail(cut_off()), float)
        driver.open()
    driver.now += 29
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_a_stream_that_ends_without_events_too_often_has_ended() -> None:
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    assert isinstance(driver.end(), float)
    driver.open()
    assert driver.end() is EndReason.END


def test_max_elapsed() -> None:
    # Waits that do not grow, so that it matters which failure is counted from.
    policy = ReconnectPolicy(initial_attempts=None, max_elapsed=10, initial_delay=0, min_delay=3)
    driver = Driver(policy)
    begun = []
    for _ in range(3):
        driver.begin()
        begun.append(driver.now)
        assert isinstance(driver.fail(refused()), float)
    driver.begin()
    begun.append(driver.now)
    assert driver.fail(refused()) is driver.error
    assert begun == pytest.approx([0, 3, 6, 9])


def test_max_elapsed_begins_anew_with_an_event() -> None:
    driver = Driver(ReconnectPolicy(max_elapsed=5), chance=1.0).open()
    for _ in range(10):
        driver.now += 20
        assert isinstance(driver.event().fail(cut_off()), float)
        driver.begin()
        assert isinstance(driver.fail(refused()), float)
        driver.open()
    driver.event().fail(cut_off())
    driver.begin()
    driver.now += 5
    assert driver.fail(refused()) is driver.error


@pytest.mark.parametrize("before", ["nothing", "a stream", "a cancelled attempt", "reconnect()"])
def test_max_elapsed_counts_from_the_first_failure(before: str) -> None:
    """Not from the beginning of what then failed, nor from what was none."""
    driver = Driver(ReconnectPolicy(max_elapsed=20))
    if before == "reconnect()":
        driver.open().event()
        driver.reconnect()
    if before == "a cancelled attempt":
        driver.begin()
        driver.interrupt()
        driver.now += 25
        driver.begin()
    elif before == "nothing":
        driver.begin()
        driver.now += 25
    else:
        driver.open()
        driver.now += 25
    assert isinstance(driver.fail(slow_head()), float)


@pytest.mark.parametrize("had_event", [False, True])
def test_max_elapsed_counts_the_first_wait(had_event: bool) -> None:
    for retry, expected in [(50_000, float), (70_000, StreamIncomplete)]:
        driver = Driver(ReconnectPolicy(max_elapsed=60)).open()
        driver.machine.retry = retry
        driver.had_event = had_event
        verdict = driver.fail(cut_off())
        assert isinstance(verdict, expected)
        driver = Driver(ReconnectPolicy(max_elapsed=60)).open()
        driver.machine.retry = retry
        driver.had_event = had_event
        assert isinstance(driver.end(), float if expected is float else EndReason)


@pytest.mark.parametrize("who", REQUESTS)
def test_reconnect_on_end(who: str) -> None:
    may_be_sent_again = who not in (POST, BY_GET_NO_ID)
    for choice, expected in [(True, may_be_sent_again), (False, False), (None, who == GET)]:
        for make in (ReconnectPolicy, ReconnectPolicy.whatwg):
            driver = Driver(make(reconnect_on_end=choice), **REQUESTS[who])
            driver.open().event("" if who.endswith("no id") else "7")
            verdict = driver.end()
            assert isinstance(verdict, float) if expected else verdict is EndReason.END
    assert Driver(ReconnectPolicy.never(max_attempts=1)).open().end() is EndReason.END


def test_retry_statuses() -> None:
    for make in (ReconnectPolicy, partial(ReconnectPolicy.whatwg, initial_attempts=3)):
        for status, expected in [(404, float), (503, ResponseError), (500, ResponseError)]:
            driver = Driver(make(retry_statuses={404}))
            driver.begin()
            assert isinstance(driver.answer(status), expected)
    # But it says nothing of whether the request was processed.
    driver = Driver(ReconnectPolicy(retry_statuses={404}), "POST")
    driver.begin()
    assert isinstance(driver.answer(404), ResponseError)


def test_a_certificate_that_is_refused_after_a_stream() -> None:
    """However libraries wrap it."""
    verification = ssl.SSLCertVerificationError(1, "self-signed")
    as_reason = OSError()
    as_reason.reason = verification  # type: ignore[attr-defined]
    for cause in (verification, OSError(OSError(verification)), as_reason):
        error = TransportError("certificate", phase="connect", sent=False)
        error.__cause__ = cause
        for policy in POLICIES[:2]:
            driver = Driver(policy).open().event("7")
            driver.end()
            driver.begin()
            assert driver.fail(error) is error
    # TLS that failed otherwise may not fail again.
    error = TransportError("TLS", phase="connect", sent=False)
    error.__cause__ = ssl.SSLEOFError()
    driver = Driver()
    driver.begin()
    assert isinstance(driver.fail(error), float)


# -- Waits -----------------------------------------------------------------------------------------


def wait(
    policy: ReconnectPolicy = POLICIES[0],
    *,
    retry: int | None = None,
    retry_after: float | None = None,
    chance: float = 0.0,
) -> Any:
    """Before the second attempt, if the first is answered 503."""
    driver = Driver(policy, chance=chance)
    driver.machine.retry = retry
    driver.begin()
    return driver.fail(bad_status(503, retry_after))


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_backoff_is_random_and_doubles(chance: float) -> None:
    failures: list[Callable[[Driver], Any]] = [
        lambda driver: driver.fail(refused()),
        lambda driver: driver.fail(slow_head()),
        lambda driver: driver.answer(503),
        lambda driver: driver.open() and driver.fail(cut_off()),
        lambda driver: driver.open() and driver.end(),
        lambda driver: driver.open() and driver.fail(idle()),
    ]
    driver = Driver(ReconnectPolicy(initial_attempts=None), chance=chance)
    waits = []
    for number in range(12):
        fail = failures[number % 6]
        if number % 6 < 3:
            driver.begin()
        waits.append(fail(driver))
    backoffs = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]
    assert waits == pytest.approx([0.1 + chance * backoff for backoff in backoffs])


def test_the_fields_of_the_backoff() -> None:
    policy = ReconnectPolicy(
        initial_attempts=None, initial_delay=0.5, multiplier=3, max_delay=10, min_delay=2
    )
    for jitter, chance, share in [(1.0, 0.25, 0.25), (0.0, 0.0, 1.0), (0.5, 0.0, 0.5), (0.5, 1, 1)]:
        driver = Driver(dataclasses.replace(policy, jitter=jitter), chance=chance)
        waits = []
        for _ in range(5):
            driver.begin()
            waits.append(driver.fail(refused()))
        assert waits == pytest.approx([2 + share * each for each in (0.5, 1.5, 4.5, 10, 10)])


def test_the_backoff_stays_finite() -> None:
    for multiplier in (2.0, 1e300):
        policy = ReconnectPolicy(initial_attempts=None, multiplier=multiplier)
        driver = Driver(policy, chance=1.0)
        for _ in range(1200):
            driver.begin()
            last = driver.fail(refused())
        assert last == pytest.approx(30.1)


def test_the_backoff_begins_anew_after_an_event() -> None:
    driver = Driver(chance=1.0).open()
    driver.end()
    for lose in (driver.end, lambda: driver.fail(cut_off()), lambda: driver.fail(idle())):
        assert failing(driver, 4) > 8
        assert driver.open().event().machine.due
        assert lose() == pytest.approx(1.1)
        assert failing(driver, 1) == pytest.approx(2.1)


def test_the_backoff_begins_anew_after_thirty_seconds_open() -> None:
    # With an event, so that each round begins alike.
    for seconds, expected in [(29.9, 16.1), (30, 1.1), (1000, 1.1)]:
        driver = Driver(chance=1.0).open().event()
        driver.end()
        assert failing(driver, 3) == pytest.approx(8.1)
        driver.open()
        driver.now += seconds
        assert driver.end() == pytest.approx(expected)
    # Nor is the time of an attempt that had no answer one of a connection.
    driver = Driver(chance=1.0)
    driver.begin()
    driver.now += 100
    driver.fail(slow_head())
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(2.1)


def test_reset_after() -> None:
    for seconds, expected in [(4, 2.1), (5, 1.1)]:
        driver = Driver(ReconnectPolicy(reset_after=5), chance=1.0).open()
        driver.end()
        driver.open()
        driver.now += seconds
        assert driver.end() == pytest.approx(expected)


def test_opening_alone_does_not_end_the_backoff() -> None:
    driver = Driver(chance=1.0)
    failing(driver, 2)
    assert driver.open().fail(cut_off()) == pytest.approx(4.1)


@pytest.mark.parametrize(
    ("min_delay", "retry", "retry_after", "expected"),
    [
        (0.1, None, None, 0.1),
        (0.1, 5000, None, 5),
        (0.1, None, 7, 7),
        (0.1, 5000, 7, 7),
        (0.1, 9000, 7, 9),
        (10, 9000, 7, 10),
        (0.1, 0, 0, 0.1),
        (0.1, 50, None, 0.1),
        (0.1, 150, None, 0.15),
        # The longest that are heeded.
        (0.1, 2**63 - 1, None, 3600),
        (0.1, None, 1e9, 3600),
        (0.1, None, float("inf"), 3600),
    ],
)
def test_the_longest_of_what_is_asked_for(
    min_delay: float, retry: int | None, retry_after: float | None, expected: float
) -> None:
    policy = ReconnectPolicy(min_delay=min_delay)
    asked_for = {"retry": retry, "retry_after": retry_after}
    assert wait(policy, **asked_for) == pytest.approx(expected)
    # The random part comes on top.
    assert wait(policy, **asked_for, chance=1.0) == pytest.approx(expected + 1)


def test_max_retry_and_max_retry_after() -> None:
    policy = ReconnectPolicy(max_retry=20, max_retry_after=40)
    assert wait(policy, retry=30_000) == pytest.approx(20)
    assert wait(policy, retry_after=50) == pytest.approx(40)
    assert wait(policy, retry=30_000, retry_after=10) == pytest.approx(20)
    assert wait(policy, retry=19_000, retry_after=39) == pytest.approx(39)
    assert wait(ReconnectPolicy(max_retry=0, max_retry_after=0), retry=9, retry_after=9) == 0.1


def test_retry_crosses_to_later_connections_and_retry_after_does_not() -> None:
    driver = Driver().open().event()
    driver.machine.retry = 5000
    assert driver.end() == pytest.approx(5)
    driver.begin()
    assert driver.fail(bad_status(429, 60)) == pytest.approx(60)
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(5)
    driver.open().event()
    assert driver.fail(cut_off()) == pytest.approx(5)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_waits_of_whatwg(chance: float) -> None:
    driver = Driver(ReconnectPolicy.whatwg(), chance=chance)
    # Always the same, without a retry.
    for _ in range(10):
        driver.begin()
        assert driver.fail(refused()) == pytest.approx(3)
    driver.open().event()
    for retry, expected in [(5000, 5), (1000, 1), (50, 0.1), (0, 0.1), (2**63 - 1, 3600)]:
        driver.machine.retry = retry
        assert driver.end() == pytest.approx(expected)
        driver.begin()
        assert driver.fail(refused()) == pytest.approx(expected)
        driver.open()


def test_waits_of_whatwg_changed() -> None:
    whatwg = partial(ReconnectPolicy.whatwg, retry_statuses={503})
    # The standard knows no Retry-After.
    assert wait(whatwg(), retry_after=60) == pytest.approx(3)
    assert wait(whatwg(initial_delay=5)) == pytest.approx(5)
    assert wait(whatwg(min_delay=4)) == pytest.approx(4)
    assert wait(whatwg(min_delay=4), retry=1000) == pytest.approx(4)
    assert wait(whatwg(max_retry=10), retry=20_000) == pytest.approx(10)


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "whatwg", "never"])
def test_waits_that_the_program_asks_for(policy: ReconnectPolicy) -> None:
    def of_error(delay: float) -> Any:
        return Driver(policy).open().fail(RetriableError(delay=delay))

    def of_number(delay: float) -> Any:
        return Driver(policy).open().reconnect(delay)

    for of in (of_error, of_number):
        assert of(5) == pytest.approx(5)
        # Also above what servers may ask for.
        assert of(5000) == pytest.approx(5000)
        assert of(0) == pytest.approx(0.1)
        assert of(0.01) == pytest.approx(0.1)


def test_a_retriable_error_without_a_delay_waits_as_the_policy_says() -> None:
    driver = Driver(chance=0.5)
    driver.begin()
    assert driver.fail(RetriableError()) == pytest.approx(0.1 + 0.5)
    driver.begin()
    # What the response asked for that on_open did not want.
    assert driver.fail(RetriableError(), retry_after=60) == pytest.approx(60 + 1)
    driver.begin()
    assert driver.fail(RetriableError(delay=2), retry_after=60) == pytest.approx(2)
    # The standard knows no Retry-After.
    driver = Driver(ReconnectPolicy.whatwg())
    driver.begin()
    assert driver.fail(RetriableError(), retry_after=60) == pytest.approx(3)


@pytest.mark.parametrize("policy", POLICIES[:2], ids=["default", "whatwg"])
@pytest.mark.parametrize("with_events", [True, False])
def test_retry_0_and_ends_at_once(policy: ReconnectPolicy, with_events: bool) -> None:
    # The worst of luck.
    driver = Driver(policy, chance=0.0)
    begun = []
    for _ in range(300):
        driver.open()
        begun.append(driver.now)
        driver.machine.retry = 0
        if with_events:
            driver.event()
        assert isinstance(driver.end(), float)
    assert most_in_a_second(begun) == 10


def most_in_a_second(times: list[float]) -> int:
    # But for what sums of floats are off.
    return max(sum(start <= time < start + 1 - 1e-6 for time in times) for start in times)


# -- Sending again ---------------------------------------------------------------------------------

FIELDS = (("Authorization", b"Bearer x"), ("Content-Type", b"application/json"))


def test_a_first_request() -> None:
    request = Request("GET", URL)
    machine = Reconnection(ReconnectPolicy(), request)
    assert machine.state is ReadyState.CONNECTING
    assert machine.begin(0.0) == request


def test_what_is_sent_again_is_the_same() -> None:
    driver = Driver(method="POST", fields=FIELDS)
    first = driver.begin()
    assert first == Request("POST", URL, FIELDS, BODY)
    driver.fail(refused())
    assert driver.begin() == first
    driver.answer(503)
    assert driver.begin() == first


CONSENT: dict[str, Callable[[Driver], Any]] = {
    "RetriableError": lambda driver: driver.fail(RetriableError()),
    "RetriableError, delay": lambda driver: driver.fail(RetriableError(delay=1)),
    "reconnect": lambda driver: driver.reconnect(None),
    "number": lambda driver: driver.reconnect(1.0),
}


@pytest.mark.parametrize("consent", CONSENT.values(), ids=CONSENT)
@pytest.mark.parametrize("policy", POLICIES, ids=["default", "whatwg", "never"])
def test_consent_is_for_one_time(policy: ReconnectPolicy, consent: Callable[[Driver], Any]) -> None:
    driver = Driver(policy, "POST")
    first = driver.begin()
    for _ in range(5):
        assert isinstance(consent(driver), float)
        assert driver.begin() == first
    assert driver.fail(reset_in_head()) is driver.error

    driver = Driver(policy, "POST").open()
    assert isinstance(consent(driver), float)
    driver.open()
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_consent_after_an_error_or_the_end() -> None:
    for method in ("GET", "POST"):
        for lose in (
            lambda driver: driver.answer(404),
            lambda driver: driver.answer(204),
            lambda driver: driver.fail(FatalError()),
            lambda driver: driver.interrupt(),
        ):
            driver = Driver(method=method, last_event_id="7")
            first = driver.begin()
            lose(driver)
            assert driver.reconnect() == pytest.approx(0.1)
            assert driver.machine.state is ReadyState.CONNECTING
            assert driver.begin() == first
            assert sent_id(first) == b"7"


def test_consent_passes_by_the_limits() -> None:
    policy = ReconnectPolicy.never(max_elapsed=0)
    driver = Driver(policy, "POST")
    for number in range(40):
        driver.begin()
        driver.fail(RetriableError(delay=10)) if number % 2 else driver.reconnect(10)
    # They count all the same.
    driver.begin()
    assert driver.fail(refused()) is driver.error


def test_an_attempt_that_is_cancelled() -> None:
    for method, options, is_over in [
        ("GET", {}, False),
        ("POST", {}, True),
        ("POST", {"resend": True}, False),
        ("POST", {"resume": "get"}, True),
        ("POST", {"resume": "call"}, True),
    ]:
        driver = Driver(method=method, last_event_id="7", **options)
        first = driver.begin()
        error = driver.interrupt()
        assert isinstance(error, StreamIncomplete) if is_over else error is None
        if not is_over:
            driver.now += 100
            # The next call connects, with the same id.
            assert driver.begin() == first
            continue
        assert driver.machine.state is ReadyState.CLOSED
        with pytest.raises(RuntimeError):
            driver.begin()


@pytest.mark.parametrize("who", REQUESTS)
def test_a_stream_that_is_cancelled(who: str) -> None:
    driver = Driver(**REQUESTS[who]).open()
    driver.event("" if who.endswith("no id") else "7")
    error = driver.interrupt()
    if who in (POST, BY_GET_NO_ID):
        assert isinstance(error, StreamIncomplete)
        assert driver.machine.state is ReadyState.CLOSED
        return
    assert error is None
    assert sent_id(driver.begin()) == (None if who.endswith("no id") else b"7")


def test_a_wait_that_is_cancelled_goes_on() -> None:
    """What was said before still holds: the time, and the consent."""
    driver = Driver(method="POST", chance=1.0)
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(1.1)
    driver.now += 0.5
    assert driver.interrupt() is None
    assert driver.machine.due == pytest.approx(1.1)
    driver.begin()
    driver.reconnect(5)
    assert driver.interrupt() is None
    assert driver.machine.due - driver.now == pytest.approx(5)
    driver.begin()


def test_an_attempt_that_is_cancelled_has_not_failed() -> None:
    driver = Driver()
    for _ in range(10):
        driver.begin()
        driver.interrupt()
    # All three of them are left.
    assert isinstance(failing(driver, 2), float)
    assert failing(driver, 1) is driver.error
    # A stream without an event is another matter.
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    driver.interrupt()
    driver.open().interrupt()
    driver.open()
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_cancelling_again_and_again_does_not_flood_the_server() -> None:
    driver = Driver()
    begun = []
    for number in range(100):
        driver.begin()
        begun.append(driver.now)
        if number % 3:
            driver.answer(200, content_type="text/event-stream")
        assert driver.interrupt() is None
    assert most_in_a_second(begun) == 10


def test_resume_by_get() -> None:
    fields = (
        *FIELDS,
        ("content-length", b"2"),
        ("Accept", b"text/event-stream"),
        ("Content-Language", b"en"),
    )
    driver = Driver(method="POST", fields=fields, resume="get", last_event_id="1")
    # Before the first 200 it is the request that was given.
    assert driver.machine.resuming is None
    assert driver.begin().method == "POST"
    driver.fail(refused())
    again = driver.begin()
    assert (again.method, again.body, sent_id(again)) == ("POST", BODY, b"1")
    driver.answer(503)
    driver.open().event("7")
    assert driver.machine.resuming == "get"
    for lose in (lambda: driver.fail(cut_off()), driver.reconnect, driver.interrupt):
        lose()
        rest = driver.begin()
        assert rest == Request(
            "GET",
            URL,
            (
                ("Authorization", b"Bearer x"),
                ("Accept", b"text/event-stream"),
                ("Last-Event-ID", b"7"),
            ),
        )
        # And this is one that may be repeated.
        driver.answer(500)
        assert driver.begin() == rest
        driver.answer(200, content_type="text/event-stream")


@pytest.mark.parametrize("blank", ["", " ", " \t "])
def test_resume_by_get_is_never_without_the_field(blank: str) -> None:
    """A GET without a Last-Event-ID would not ask for the rest."""
    driver = Driver(method="POST", resume="get").open().event(blank)
    verdict = driver.fail(cut_off())
    if isinstance(verdict, float):
        assert sent_id(driver.begin()) is not None
        return
    assert isinstance(verdict, StreamIncomplete)


def test_resume_by_get_without_an_id_is_by_the_first_request() -> None:
    """There is no rest to ask for: so the program must want it, each time."""
    driver = Driver(method="POST", fields=FIELDS, resume="get")
    first = driver.begin()
    driver.answer(200, content_type="text/event-stream")
    for _ in range(2):
        driver.reconnect()
        assert driver.begin() == first
        driver.answer(200, content_type="text/event-stream")
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_the_rest_that_takes_the_id_back() -> None:
    """After it there is only the first request, which may not be sent again."""
    driver = Driver(method="POST", resume="get").open().event("7")
    driver.fail(cut_off())
    assert driver.begin().method == "GET"
    driver.answer(200, content_type="text/event-stream")
    assert isinstance(driver.event("").fail(cut_off()), StreamIncomplete)
    driver.reconnect()
    assert driver.begin().method == "POST"


def test_a_callable_may_say_where_to_go_on() -> None:
    resumed = RESUMED._replace(fields=(("last-event-id", b"8"),))
    driver = Driver(resume="call", resumed=resumed).open().event("7")
    driver.end()
    assert driver.begin() == resumed


def test_resume_by_a_callable() -> None:
    resumed = Request("PUT", "https://b.example/rest", (("X-Key", b"1"),), b"rest")
    driver = Driver(method="POST", fields=FIELDS, resume="call", resumed=resumed)
    assert driver.machine.resuming is None
    assert driver.begin() == Request("POST", URL, FIELDS, BODY)
    driver.fail(refused())
    assert driver.begin().method == "POST"
    driver.answer(503)
    driver.open()
    assert driver.machine.resuming == "call"
    driver.fail(cut_off())
    assert driver.begin() == resumed
    driver.fail(slow_head())
    driver.open().event("7")
    driver.fail(cut_off())
    assert driver.begin() == resumed._replace(fields=(("X-Key", b"1"), ("Last-Event-ID", b"7")))


# -- Redirects -------------------------------------------------------------------------------------

REDIRECTS = [301, 302, 303, 307, 308]
SAME = "https://a.example/b"
OTHER = "https://b.example/b"


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("location", [SAME, OTHER])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_which_redirects_are_followed(method: str, location: str, status: int) -> None:
    driver = Driver(method=method)
    before = driver.begin()
    hop = driver.answer(status, location=location)
    if method == "GET" or (location == SAME and status in (307, 308)):
        assert (hop.method, hop.url, hop.body) == (method, location, before.body)
        assert hop.redirected
        # It is the same attempt.
        assert driver.answer(200, content_type="text/event-stream") is None
        return
    assert isinstance(hop, ResponseError)
    assert hop.response.status == status
    assert driver.machine.state is ReadyState.CLOSED


def test_which_redirects_of_head_are_followed() -> None:
    """It is one of the methods other than GET."""
    followed = []
    for status in REDIRECTS:
        for location in (SAME, OTHER):
            driver = Driver(method="HEAD")
            driver.begin()
            if isinstance(driver.answer(status, location=location), Request):
                followed.append((status, location))
    assert followed == [(307, SAME), (308, SAME)]


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 309, 401, 503])
def test_no_other_status_is_a_redirect(status: int) -> None:
    driver = Driver()
    driver.begin()
    assert not isinstance(driver.answer(status, location=SAME), Request)


def test_a_resumed_get_is_redirected_as_any() -> None:
    driver = Driver(method="POST", resume="get").open().event("7")
    driver.fail(cut_off())
    driver.begin()
    hop = driver.answer(302, location=OTHER)
    assert (hop.method, hop.url, sent_id(hop)) == ("GET", OTHER, b"7")


@pytest.mark.parametrize("status", REDIRECTS)
def test_from_https_to_http(status: int) -> None:
    for location in ("http://a.example/b", "http://b.example/b", "http://a.example:443/b"):
        for method in ("GET", "POST"):
            driver = Driver(method=method)
            driver.begin()
            assert isinstance(driver.answer(status, location=location), ResponseError)
    # Nor on the way.
    driver = Driver(url="http://a.example/")
    driver.begin()
    assert driver.answer(302, location="https://a.example/").url == "https://a.example/"
    assert isinstance(driver.answer(302, location="http://a.example/"), ResponseError)


SECRETS = [
    *[("Authorization", b"s"), ("authorization", b"s"), ("Cookie", b"s"), ("x-api-key", b"s")],
    *[("Proxy-Authorization", b"s"), ("Content-Type", b"s"), ("X-Accept", b"s"), ("Host", b"a")],
    *[("Referer", b"s"), ("Origin", b"s"), ("Accept-Encoding", b"gzip"), ("Cookie2", b"s")],
]
HARMLESS = [("ACCEPT", b"text/event-stream"), ("Cache-Control", b"no-store"), ("user-agent", b"me")]


def is_bare(request: Request) -> bool:
    """Whether it has what another origin gets; else it must have all that the caller gave."""
    fields = set(request.fields)
    if set(SECRETS) <= fields:
        assert {*HARMLESS, ("Last-Event-ID", b"7")} | set(SECRETS) == fields
        assert not request.foreign
        return False
    assert fields == {*HARMLESS, ("Last-Event-ID", b"7"), ("Accept-Encoding", b"identity")}
    assert len(request.fields) == 5
    # By which the adapters know to leave out what is the client's.
    assert request.foreign
    assert request.body is None
    return True


def with_secrets(**options: Any) -> Driver:
    return Driver(fields=(*SECRETS, *HARMLESS), last_event_id="7", **options)


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        (URL, "https://a.example/b", False),
        (URL, "/b", False),
        (URL, "https://A.EXAMPLE/b", False),
        (URL, "https://a.example:443/b", False),
        ("http://a.example:80/", "http://a.example/b", False),
        ("http://a.example:8080/", "http://a.example:8080/b", False),
        ("http://[::1]/", "http://[::1]:80/b", False),
        ("http://bücher.example/", "http://xn--bcher-kva.example/b", False),
        (URL, "https://b.example/b", True),
        (URL, "//b.example/b", True),
        (URL, "https://sub.a.example/b", True),
        (URL, "https://a.example:8443/b", True),
        (URL, "https://a.example.b.example/b", True),
        (URL, "https://a.example@b.example/b", True),
        ("http://a.example/", "https://a.example/", True),
        ("http://a.example:443/", "https://a.example/", True),
        ("http://a.example:8080/", "http://a.example/", True),
        ("http://[::1]/", "http://[::2]/", True),
    ],
)
def test_what_another_origin_gets(url: str, location: str, expected: bool, status: int) -> None:
    driver = with_secrets(url=url)
    assert not is_bare(driver.begin())
    assert is_bare(driver.answer(status, location=location)) is expected


def test_what_another_origin_does_not_get_is_gone_for_the_attempt() -> None:
    driver = with_secrets()
    for _ in range(3):
        assert not is_bare(driver.begin())
        assert not is_bare(driver.answer(302, location=SAME))
        assert is_bare(driver.answer(302, location=OTHER))
        # Who sent it there cannot ask for what it was not given.
        assert is_bare(driver.answer(302, location="/c"))
        assert is_bare(driver.answer(302, location=SAME))
        assert is_bare(driver.answer(307, location="/d"))
        # But the next attempt is asked of the caller's origin.
        driver.answer(503) if driver.machine.attempt < 2 else driver.reconnect()


def test_a_move_to_another_origin_for_good() -> None:
    """Later attempts go there at once, without what it must not get."""
    for status in (301, 308):
        driver = with_secrets()
        driver.begin()
        driver.answer(status, location=OTHER)
        driver.answer(200, content_type="text/event-stream")
        for _ in range(3):
            driver.end()
            request = driver.begin()
            assert request.url == OTHER
            assert is_bare(request)
            # Nor does it matter where that leads.
            assert is_bare(driver.answer(302, location=SAME))
            driver.answer(200, content_type="text/event-stream")


def test_a_post_is_moved_with_all_that_it_has() -> None:
    driver = with_secrets(method="POST")
    driver.begin()
    for status in (307, 308):
        hop = driver.answer(status, location=SAME)
        assert (hop.method, hop.body) == ("POST", BODY)
        assert not is_bare(hop)
    assert isinstance(driver.answer(308, location=OTHER), ResponseError)


# Statuses, and how many of them replace the URL.
CHAINS = [
    ([301], 1),
    ([308], 1),
    ([302], 0),
    ([303], 0),
    ([307], 0),
    ([301, 302], 1),
    ([302, 301], 0),
    ([301, 308], 2),
    ([308, 301, 307], 2),
    ([301, 302, 301], 1),
    ([303, 308], 0),
    ([307, 308, 301], 0),
    ([301] * 20, 20),
]


@pytest.mark.parametrize(("statuses", "replaced"), CHAINS)
def test_which_redirects_replace_the_url(statuses: list[int], replaced: int) -> None:
    urls = [URL, *(f"https://a.example/{number}" for number in range(1, len(statuses) + 1))]
    driver = Driver()
    assert driver.begin().url == URL
    for status, url in zip(statuses, urls[1:], strict=True):
        assert driver.answer(status, location=url).url == url
    driver.answer(200, content_type="text/event-stream")
    for lose in (driver.end, lambda: driver.fail(cut_off()), driver.reconnect, driver.interrupt):
        lose()
        request = driver.begin()
        assert request.url == urls[replaced]
        # Whose query must stay as it is.
        assert request.redirected is (replaced > 0)
        driver.answer(200, content_type="text/event-stream")


def test_the_url_is_replaced_again_and_again() -> None:
    driver = Driver()
    urls = []
    for number, status in enumerate([301, 302, 308, 307, 301]):
        urls.append(driver.begin().url)
        driver.answer(status, location=f"/{number}")
        driver.answer(200, content_type="text/event-stream")
        driver.end()
    urls.append(driver.begin().url)
    paths = [URL.removeprefix("https://a.example"), "/0", "/0", "/2", "/2", "/4"]
    assert urls == [f"https://a.example{path}" for path in paths]


@pytest.mark.parametrize("failure", ["503", "refused", "slow head"])
def test_the_url_is_replaced_also_if_the_attempt_then_failed(failure: str) -> None:
    for status in (301, 308):
        driver = Driver()
        driver.begin()
        driver.answer(status, location=SAME)
        assert isinstance(OUTCOMES[failure](driver), float)
        assert driver.begin().url == SAME


def test_a_post_moved_for_good() -> None:
    for status, url in [(308, SAME), (307, URL)]:
        for options, method, body in [
            ({"resend": True}, "POST", BODY),
            ({"resume": "get"}, "GET", None),
        ]:
            driver = Driver(method="POST", last_event_id="7", **options)
            driver.begin()
            driver.answer(status, location=SAME)
            driver.answer(200, content_type="text/event-stream")
            driver.fail(cut_off())
            later = driver.begin()
            assert (later.method, later.url, later.body) == (method, url, body)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("other", "https://a.example/dir/other"),
        ("./other?x=1&y", "https://a.example/dir/other?x=1&y"),
        ("../other", "https://a.example/other"),
        ("/other", "https://a.example/other"),
        ("?p=2", "https://a.example/dir/stream?p=2"),
        ("#part", "https://a.example/dir/stream?q=1"),
        ("/other#part", "https://a.example/other"),
        ("//b.example/other", "https://b.example/other"),
        ("https://b.example:8443", "https://b.example:8443/"),
        ("HTTPS://B.EXAMPLE/other", "https://b.example/other"),
        ("https://user:secret@b.example/other", "https://b.example/other"),
        ("https://secret@a.example/other", "https://a.example/other"),
        ("//user:secret@a.example/other", "https://a.example/other"),
        # UTF-8 as header fields are read; as some libraries read them; and percent-encoded.
        ("/caf\xc3\xa9?\xe2\x82\xac", "https://a.example/caf%C3%A9?%E2%82%AC"),
        ("/café?€", "https://a.example/caf%C3%A9?%E2%82%AC"),
        ("/caf%C3%A9", "https://a.example/caf%C3%A9"),
        ("//b\xc3\xbccher.example/", "https://xn--bcher-kva.example/"),
    ],
)
def test_locations(location: str, expected: str) -> None:
    driver = Driver()
    driver.begin()
    hop = driver.answer(302, location=location)
    target = parse_url(hop.url)
    # As it is sent.
    assert f"{target.scheme}://{target.authority}{target.path}" == expected
    assert target.user is None
    assert "secret" not in hop.url


@pytest.mark.parametrize(
    "location",
    [
        *["ftp://a.example/", "ws://a.example/", "javascript:alert(1)", "data:text/event-stream,"],
        *["file:///etc/passwd", "mailto:secret@a.example"],
        *["https://a.example:65536/", "https://a.example:x/", "https://[::1/", "https://a b/"],
        *["https://a.example/\0", "https://a..example/"],
    ],
)
def test_locations_that_lead_nowhere(location: str) -> None:
    for status in (301, 307):
        driver = Driver()
        driver.begin()
        error = driver.answer(status, location=location)
        assert isinstance(error, ResponseError)
        assert error.response.status == status
        assert "secret" not in str(error)


@pytest.mark.parametrize("limit", [0, 1, 20])
def test_max_redirects(limit: int) -> None:
    policy = ReconnectPolicy() if limit == 20 else ReconnectPolicy(max_redirects=limit)
    driver = Driver(policy)
    # Counted anew with each attempt.
    for _ in range(3):
        driver.begin()
        for number in range(limit):
            assert isinstance(driver.answer(302, location=f"/{number}"), Request)
        assert driver.answer(200, content_type="text/event-stream") is None
        driver.end()
    driver.begin()
    # A loop is no exception.
    for _ in range(limit):
        driver.answer(302, location=SAME)
    error = driver.answer(302, location=SAME)
    assert isinstance(error, ResponseError)
    assert error.response.status == 302


# -- Last-Event-ID ---------------------------------------------------------------------------------

VECTORS = [
    vector
    for vector in json.loads((Path(__file__).parent / "vectors.json").read_bytes())
    if "last_event_id_header" in vector
]


def test_the_vectors_with_a_header() -> None:
    assert len(VECTORS) == 395
    assert sum(vector["last_event_id_header"] is not None for vector in VECTORS) == 59


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    header = vector["last_event_id_header"]
    # Where the standard and Chromium differ, it is not in the id.
    last_event_id = vector.get("spec", vector)["last_event_id"]
    driver = Driver(ReconnectPolicy.whatwg()).open().event(last_event_id)
    driver.end()
    assert sent_id(driver.begin()) == (None if header is None else base64.b64decode(header))


@pytest.mark.parametrize(
    ("last_event_id", "expected"),
    [
        ("", None),
        # It is not empty, and browsers send what is left of it.
        (" \t ", b""),
        ("7", b"7"),
        (" \t7 \t8\t ", b"7 \t8"),
        ("é€🚀", "é€🚀".encode()),
        # Only these two are trimmed.
        ("\u00a07\u3000", "\u00a07\u3000".encode()),
        ("\x0b7\x0c", b"\x0b7\x0c"),
    ],
)
def test_last_event_id(last_event_id: str, expected: bytes | None) -> None:
    # The first, and a later one.
    driver = Driver(last_event_id=last_event_id)
    assert sent_id(driver.begin()) == expected
    driver.answer(503)
    assert sent_id(driver.begin()) == expected


def test_the_id_of_the_last_event() -> None:
    driver = Driver(last_event_id="1").open()
    ids = []
    for last_event_id in ("2", None, "3", ""):
        driver.event(last_event_id).end()
        ids.append(sent_id(driver.begin()))
        driver.answer(200, content_type="text/event-stream")
    assert ids == [b"2", b"2", b"3", None]


def test_the_id_takes_the_place_of_the_callers_field() -> None:
    driver = Driver(fields=[("LAST-event-id", b"1"), ("X-Key", b"2")])
    assert sent_id(driver.begin()) == b"1"
    driver.answer(200, content_type="text/event-stream")
    driver.event("7").end()
    assert sent_id(driver.begin()) == b"7"


@pytest.mark.parametrize("make", [sse_fast.EventSource, sse_fast.AsyncEventSource])
def test_a_starting_id_with_what_is_never_sent(make: Any) -> None:
    for last_event_id in ("a\rb", "a\nb", "a\0b", "\n"):
        with pytest.raises(ValueError, match="Expected "):
            make("http://a.example/", last_event_id=last_event_id)


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        (ReconnectPolicy(), 8192),
        (ReconnectPolicy(max_id_size=5), 5),
        (ReconnectPolicy.never(), 8192),
    ],
)
def test_max_id_size(policy: ReconnectPolicy, limit: int) -> None:
    # In bytes.
    fitting = "é" * (limit // 2) + "x" * (limit % 2)
    driver = Driver(policy, last_event_id=fitting)
    assert sent_id(driver.begin()) == fitting.encode()
    driver.answer(200, content_type="text/event-stream")
    driver.event(fitting + "x")
    driver.reconnect()
    with pytest.raises(StreamIncomplete) as caught:
        driver.begin()
    assert "é" not in str(caught.value)
    # It is final, and the id is kept.
    assert driver.fail(caught.value) is caught.value
    assert driver.machine.state is ReadyState.CLOSED
    assert driver.machine.last_event_id == fitting + "x"


def test_no_max_id_size_under_whatwg() -> None:
    for policy in (ReconnectPolicy.whatwg(), ReconnectPolicy(max_id_size=None)):
        driver = Driver(policy, last_event_id="x" * 10**6)
        assert sent_id(driver.begin()) == b"x" * 10**6
    with pytest.raises(StreamIncomplete):
        Driver(ReconnectPolicy.whatwg(max_id_size=5), last_event_id="123456").begin()


# -- Any sequence of outcomes ----------------------------------------------------------------------

seconds = st.sampled_from([0.0, 0.001, 0.05, 0.1, 1.0, 5.0, 29.0, 30.0, 100.0, 5000.0])
policies = st.builds(
    lambda make, changes: make(**changes),
    st.sampled_from([ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never]),
    st.fixed_dictionaries(
        {},
        optional={
            "initial_attempts": st.none() | st.integers(1, 4),
            "max_attempts": st.none() | st.integers(0, 4),
            "max_elapsed": st.none() | st.floats(0, 200),
            "initial_delay": st.floats(0, 10),
            "multiplier": st.floats(0, 4),
            "max_delay": st.floats(0, 60),
            "jitter": st.floats(0, 1),
            "min_delay": st.floats(0.1, 2),
            "max_retry": st.floats(0, 100),
            "max_retry_after": st.floats(0, 100),
            "reset_after": st.floats(0, 60),
            "reconnect_on_end": st.none() | st.booleans(),
            "max_redirects": st.integers(0, 3),
            "max_id_size": st.none() | st.integers(0, 3),
        },
    ),
)

WAITING, ASKING, OPEN, OVER = "waiting", "asking", "open", "over"


def during(*phases: str) -> Any:
    return precondition(lambda self: self.phase in phases)


class AnySequence(RuleBasedStateMachine):
    """Whatever happens, and in whatever order.

    What the contract allows is kept here once more: where the client stands, whether the request
    may be sent again, and how often it was sent in vain.
    """

    @initialize(
        policy=policies,
        method=st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT"]),
        resend=st.sampled_from([False, False, True]),
        resume=st.sampled_from([None, None, "get", "call"]),
        # None of blanks only: that is a case of its own, above.
        last_event_id=st.sampled_from(["", "1", "1234"]),
        seed=st.integers(0, 2**32),
    )
    def start(
        self,
        policy: ReconnectPolicy,
        method: str,
        resend: bool,
        resume: str | None,
        last_event_id: str,
        seed: int,
    ) -> None:
        self.policy = policy
        self.method = self.first_method = method
        self.resend = resend
        self.resume = resume
        self.driver = Driver(
            policy,
            method,
            last_event_id=last_event_id,
            chance=random.Random(seed).random,
            resumed=Request("PATCH", "https://a.example/rest", (), b"rest"),
            resend=resend,
            resume=resume,
        )
        self.phase = WAITING
        self.begun: list[float] = []
        # The first time needs no licence.
        self.licensed = True
        self.had_response = False
        self.had_event = False
        self.opened_at = 0.0
        # Attempts, and the time of the first failure, since something came.
        self.in_vain = 0
        self.first_failure: float | None = None
        self.earliest = 0.0

    @property
    def now(self) -> float:
        return self.driver.now

    # -- What the client does

    @during(WAITING)
    @rule(late=st.sampled_from([0.0, 0.0, 0.0, 0.01, 1.0, 50.0]))
    def begin(self, late: float) -> None:
        machine = self.driver.machine
        self.driver.now = max(self.now, machine.due) + late
        limit = self.policy.max_id_size
        if limit is not None and len(machine.last_event_id) > limit:
            with pytest.raises(StreamIncomplete) as caught:
                self.driver.begin()
            self.lost(self.driver.fail(caught.value))
            assert self.phase == OVER
            return
        request = self.driver.begin()
        assert self.now >= self.earliest - 1e-6
        assert sent_id(request) == (machine.last_event_id.encode() or None)
        resumed = self.resume if self.had_response else None
        if resumed == "get" and machine.last_event_id:
            assert (request.method, request.body) == ("GET", None)
        elif resumed == "call":
            assert request.method == "PATCH"
        else:
            # Without an id, there is no rest to ask for.
            assert request.method == self.first_method
            assert self.licensed or self.first_method in ("GET", "HEAD") or self.resend
        self.licensed = False
        self.method = request.method
        self.in_vain += 1
        self.begun.append(self.now)
        self.phase = ASKING

    @during(WAITING, ASKING, OPEN)
    @rule(by=seconds)
    def let_time_pass(self, by: float) -> None:
        self.driver.now += by

    @during(ASKING)
    @rule()
    def get_stream(self) -> None:
        assert self.driver.answer(200, content_type="text/event-stream") is None
        if not self.had_response:
            self.in_vain = 0
        self.had_response = True
        self.had_event = False
        self.opened_at = self.now
        self.phase = OPEN

    @during(ASKING)
    @rule(
        code=st.sampled_from([*REDIRECTS, 304]),
        location=st.sampled_from([SAME, OTHER, "http://a.example/", "/c", "ftp://a.example/"]),
    )
    def get_redirect(self, code: int, location: str) -> None:
        verdict = self.driver.answer(code, location=location)
        if not isinstance(verdict, Request):
            self.lost(verdict)
            assert self.phase == OVER

    @during(ASKING)
    @rule(
        code=st.sampled_from([408, 425, 429, 500, 502, 503, 529, 401, 404, 501]),
        retry_after=st.none() | seconds,
    )
    def get_bad_status(self, code: int, retry_after: float | None) -> None:
        self.lost(
            self.driver.fail(bad_status(code, retry_after)),
            # What the server says of a GET for the rest says nothing of the first request.
            licensed=code in (425, 429, 503, 529) and self.method == self.first_method,
            fatal=code in (401, 404, 501),
        )

    @during(ASKING)
    @rule()
    def get_no_content(self) -> None:
        assert self.driver.answer(204) is EndReason.NO_CONTENT
        self.phase = OVER

    @during(ASKING)
    @rule(failure=st.sampled_from([unknown_host, refused, slow_connect]))
    def get_no_connection(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()), licensed=True)

    @during(ASKING)
    @rule(failure=st.sampled_from([reset_in_head, slow_head]))
    def get_no_response(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()))

    @during(OPEN)
    @rule(last_event_id=st.sampled_from([None, "", "1", "22", "4444"]))
    def get_event(self, last_event_id: str | None) -> None:
        self.driver.event(last_event_id)
        self.had_event = True

    @during(OPEN)
    @rule(retry=st.sampled_from([0, 10, 3000, 2**63 - 1]))
    def get_retry(self, retry: int) -> None:
        self.driver.machine.retry = retry

    @during(OPEN)
    @rule(failure=st.sampled_from([cut_off, idle]))
    def get_cut_off(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()))

    @during(OPEN)
    @rule(pending=st.booleans(), until=st.booleans())
    def get_end(self, pending: bool, until: bool) -> None:
        self.lost(self.driver.end(pending=pending, until=until))

    @during(ASKING, OPEN)
    @rule(failure=st.sampled_from([untrusted, FatalError, KeyError, partial(EventTooLarge, 2, 1)]))
    def get_what_is_final(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()), fatal=True)

    @during(ASKING, OPEN)
    @rule(failure=st.sampled_from([refused, cut_off, StreamIncomplete, partial(bad_status, 503)]))
    def raise_in_a_callback(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure(), raised=True), fatal=True)

    @during(ASKING, OPEN)
    @rule(delay=st.none() | seconds, retry_after=st.none() | seconds)
    def raise_retriable(self, delay: float | None, retry_after: float | None) -> None:
        verdict = self.driver.fail(RetriableError(delay=delay), retry_after)
        self.lost(verdict, asked=True, delay=delay)

    @during(WAITING, ASKING, OPEN, OVER)
    @rule(delay=st.none() | seconds)
    def reconnect(self, delay: float | None) -> None:
        # Which is no failure.
        self.lost(self.driver.reconnect(delay), asked=True, reconnect=True, delay=delay)

    @during(WAITING, ASKING, OPEN)
    @rule()
    def cancel(self) -> None:
        error = self.driver.interrupt()
        if self.phase == WAITING:
            assert error is None
            return
        self.reset_if_something_came()
        if self.phase == ASKING:
            # Nobody knows what would have come of it.
            self.in_vain -= 1
        # As what was broken off so soon.
        self.earliest = self.begun[-1] + self.policy.min_delay
        self.phase = WAITING if error is None else OVER

    # -- What may come of it

    def reset_if_something_came(self) -> None:
        long_open = self.now - self.opened_at >= self.policy.reset_after
        if self.phase == OPEN and (self.had_event or long_open):
            self.in_vain = 0
            self.first_failure = None

    def lost(
        self,
        verdict: Any,
        *,
        licensed: bool = False,
        fatal: bool = False,
        asked: bool = False,
        reconnect: bool = False,
        delay: float | None = None,
    ) -> None:
        self.reset_if_something_came()
        if not isinstance(verdict, float):
            assert isinstance(verdict, (Exception, EndReason))
            assert not asked
            self.phase = OVER
            return
        assert not fatal
        if self.first_failure is None and not reconnect:
            self.first_failure = self.now
        self.phase = WAITING
        self.licensed = licensed or asked
        self.earliest = self.now + self.policy.min_delay
        policy = self.policy
        if delay is not None:
            assert verdict == pytest.approx(max(policy.min_delay, delay))
            return
        longest = max(policy.min_delay, policy.max_retry, policy.max_retry_after)
        assert policy.min_delay - 1e-6 <= verdict <= longest + policy.max_delay + 1e-6
        if not asked:
            limit = policy.max_attempts if self.had_response else policy.initial_attempts
            assert limit is None or self.in_vain < limit
            if policy.max_elapsed is not None:
                assert self.first_failure is not None
                assert self.now + verdict - self.first_failure <= policy.max_elapsed + 1e-6

    @invariant()
    def is_where_it_should_be(self) -> None:
        states = {OPEN: ReadyState.OPEN, OVER: ReadyState.CLOSED}
        assert self.driver.machine.state is states.get(self.phase, ReadyState.CONNECTING)
        assert self.driver.machine.connected is (self.phase in (ASKING, OPEN))

    @invariant()
    def has_one_connection(self) -> None:
        if self.phase != WAITING:
            with pytest.raises(RuntimeError):
                self.driver.machine.begin(self.now + 1e9)

    @invariant()
    def is_kind_to_the_server(self) -> None:
        # The shortest min_delay is 0.1: an eleventh is at least a second behind the first.
        if len(self.begun) > 10:
            assert self.begun[-1] - self.begun[-11] >= 1 - 1e-6

    def teardown(self) -> None:
        """After close() nothing begins, whatever may still come in."""
        if not hasattr(self, "driver"):
            return
        machine = self.driver.machine
        machine.close()
        assert not machine.connected
        for late in (
            lambda: machine.failed(self.now, cut_off()),
            lambda: machine.failed(self.now, bad_status(503)),
            lambda: machine.failed(self.now, RetriableError()),
            lambda: machine.ended(self.now),
            lambda: machine.interrupted(self.now),
        ):
            assert machine.state is ReadyState.CLOSED
            late()
            with pytest.raises(RuntimeError):
                machine.begin(self.now + 1e9)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=400, stateful_step_count=50)


# -- The policy ------------------------------------------------------------------------------------

# The fields, what they are by default, and what each may be as well.
POLICY_FIELDS: dict[str, tuple[Any, Any]] = {
    "initial_attempts": (3, None),
    "max_attempts": (None, 7),
    "max_elapsed": (None, 60.5),
    "retry_statuses": ({408, 425, 429, *range(500, 600)} - {501, 505}, [503]),
    "initial_delay": (1.0, 2),
    "multiplier": (2.0, 1.5),
    "max_delay": (30.0, 0),
    "jitter": (1.0, 0.5),
    "min_delay": (0.1, 0.2),
    "max_retry": (3600.0, 60.0),
    "max_retry_after": (3600.0, 61.0),
    "reset_after": (30.0, 31.0),
    "reconnect_on_end": (None, True),
    "max_redirects": (20, 0),
    "max_id_size": (8192, None),
}


def test_the_fields_of_a_policy() -> None:
    public = [
        parameter
        for parameter in inspect.signature(ReconnectPolicy).parameters.values()
        if not parameter.name.startswith("_")
    ]
    assert {each.kind for each in public} == {inspect.Parameter.KEYWORD_ONLY}
    assert [each.name for each in public] == list(POLICY_FIELDS)
    policy = ReconnectPolicy()
    assert {name: getattr(policy, name) for name in POLICY_FIELDS} == {
        name: default for name, (default, _) in POLICY_FIELDS.items()
    }
    assert policy == ReconnectPolicy()


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_every_field_can_be_set(name: str) -> None:
    _, value = POLICY_FIELDS[name]
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        policy = make()
        changed = make(**{name: value})
        for each in (changed, dataclasses.replace(policy, **{name: value})):
            assert getattr(each, name) == value
            for other in POLICY_FIELDS.keys() - {name}:
                assert getattr(each, other) == getattr(policy, other)
        assert changed == dataclasses.replace(policy, **{name: value})


def test_a_changed_whatwg_is_still_the_standard() -> None:
    for policy in (
        ReconnectPolicy.whatwg(max_redirects=5),
        dataclasses.replace(ReconnectPolicy.whatwg(), max_redirects=5),
    ):
        driver = Driver(policy, chance=1.0).open()
        driver.machine.retry = 1000
        assert driver.end(pending=True, until=True) == pytest.approx(1)
        assert policy != ReconnectPolicy(max_redirects=5)


WHOLE = ["initial_attempts", "max_attempts", "max_redirects", "max_id_size"]
DURATIONS = [
    *["max_elapsed", "initial_delay", "multiplier", "max_delay", "jitter", "min_delay"],
    *["max_retry", "max_retry_after", "reset_after"],
]
MAY_BE_NONE = {"initial_attempts", "max_attempts", "max_elapsed", "max_id_size"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in WHOLE for value in (-1, 1.0, "1", True, float("inf"))],
        *[(name, value) for name in DURATIONS for value in (-0.1, -1, "1", False, float("nan"))],
        *[(name, None) for name in WHOLE + DURATIONS if name not in MAY_BE_NONE],
        ("jitter", 1.1),
        *[("retry_statuses", value) for value in (503, "503", None, ["503"])],
        *[("reconnect_on_end", value) for value in ("yes", 2)],
    ],
)
def test_wrong_values(name: str, value: Any) -> None:
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        with pytest.raises(ValueError, match=f"Expected {name} "):
            make(**{name: value})
    with pytest.raises(ValueError, match=f"Expected {name} "):
        dataclasses.replace(ReconnectPolicy(), **{name: value})


def test_a_field_that_there_is_not() -> None:
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        with pytest.raises(TypeError):
            make(max_atempts=1)
    with pytest.raises(TypeError):
        ReconnectPolicy(3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_a_policy_is_frozen(name: str) -> None:
    policy = ReconnectPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(policy, name, POLICY_FIELDS[name][1])
    assert policy == ReconnectPolicy()


def test_repr() -> None:
    assert repr(ReconnectPolicy(max_attempts=7, min_delay=0.5)).startswith("ReconnectPolicy(")
    for policy in POLICIES:
        shown = repr(policy)
        for name in POLICY_FIELDS.keys() - {"retry_statuses"}:
            assert f"{name}={getattr(policy, name)!r}" in shown
        # It fits on a screen.
        assert len(shown) < 400
        assert "_standard" not in shown
