"""The verdicts of the state machine, as a table, and the fields of policies."""

from __future__ import annotations

import dataclasses
import inspect
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sse_fast import (
    EndReason,
    ReadyState,
    ReconnectPolicy,
    ResponseError,
    StreamIncomplete,
    TransportError,
)
from tests.support.each import check_each
from tests.support.simulated_clock import (
    BY_CALL,
    BY_CALL_NO_ID,
    BY_GET,
    BY_GET_NO_ID,
    GET,
    OUTCOMES,
    POLICIES,
    POST,
    REQUESTS,
    RESEND,
    Driver,
    bad_status,
    cut_off,
    failing,
    refused,
    reset_in_head,
    sent_id,
    slow_connect,
    slow_head,
    unknown_host,
)

# -- The table -------------------------------------------------------------------------------------


# The verdicts.
AGAIN = "again"
READ = "read"
RAISED = "the same error"
END = EndReason.END
NO_CONTENT = EndReason.NO_CONTENT

# When it happens: in answer to the first request; to a request after a stream; within a stream.
FIRST, LATER, STREAMING = "first", "later", "streaming"
REQUESTED = [FIRST, LATER]

NOT_PROCESSED = ["425", "429", "503", "529"]
PERHAPS_PROCESSED = ["408", "500", "502", "504", "599"]
RETRIABLE = NOT_PROCESSED + PERHAPS_PROCESSED
FINAL = ["201", "205", "300", "304", "400", "401", "403", "404", "409", "410", "499", "501", "505"]
# Redirects without a Location.
NO_LOCATION = ["301", "302", "303", "307", "308"]
NOT_SENT = ["unknown host", "refused", "slow connect"]
SENT = ["reset in head", "slow head"]
FATAL = ["untrusted", "bad value", "other error", "fatal", "other type", "no type"]
RAISED_BY_CALLBACKS = ["raised transport", "raised status", "raised incomplete"]
INCOMPLETE = ["pending end", "until unmet"]
RESUMABLE = [BY_GET, BY_CALL, BY_CALL_NO_ID]

# When, the request, the outcome; and the verdict under each of POLICIES.
ROWS: list[tuple[list[str], list[str], list[str], Any, Any, Any]] = [
    (REQUESTED, [*REQUESTS], ["stream"], READ, READ, READ),
    (REQUESTED, [*REQUESTS], ["204"], NO_CONTENT, NO_CONTENT, NO_CONTENT),
    (REQUESTED, [*REQUESTS], FATAL + FINAL + NO_LOCATION, RAISED, RAISED, RAISED),
    (REQUESTED, [GET, RESEND], RETRIABLE, AGAIN, RAISED, RAISED),
    (REQUESTED, [GET, RESEND], NOT_SENT + SENT, AGAIN, AGAIN, RAISED),
    # Such a request is repeated only if it was provably not processed.
    (REQUESTED, [POST], NOT_PROCESSED, AGAIN, RAISED, RAISED),
    (REQUESTED, [POST], PERHAPS_PROCESSED, RAISED, RAISED, RAISED),
    (REQUESTED, [POST], NOT_SENT, AGAIN, AGAIN, RAISED),
    ([FIRST], [POST], SENT, RAISED, RAISED, RAISED),
    # `resume` applies after a first stream.
    ([FIRST], [BY_GET, BY_CALL], NOT_PROCESSED, AGAIN, RAISED, RAISED),
    ([FIRST], [BY_GET, BY_CALL], PERHAPS_PROCESSED + SENT, RAISED, RAISED, RAISED),
    ([LATER], RESUMABLE, RETRIABLE, AGAIN, RAISED, RAISED),
    ([LATER], RESUMABLE, NOT_SENT + SENT, AGAIN, AGAIN, RAISED),
    # The program overrules the policy.
    ([*REQUESTED, STREAMING], [*REQUESTS], ["retriable", "raised retriable"], AGAIN, AGAIN, AGAIN),
    ([*REQUESTED, STREAMING], [*REQUESTS], RAISED_BY_CALLBACKS, RAISED, RAISED, RAISED),
    ([STREAMING], [*REQUESTS], ["too large", "other error", "fatal"], RAISED, RAISED, RAISED),
    ([STREAMING], [GET], ["clean end"], AGAIN, AGAIN, END),
    ([STREAMING], [RESEND, *RESUMABLE], ["clean end"], END, AGAIN, END),
    # whatwg() guards requests as well, but takes every end for a clean one.
    ([STREAMING], [POST, BY_GET_NO_ID], ["clean end"], END, END, END),
    ([STREAMING], [GET, RESEND, *RESUMABLE], INCOMPLETE, AGAIN, AGAIN, StreamIncomplete),
    ([STREAMING], [POST, BY_GET_NO_ID], INCOMPLETE, StreamIncomplete, END, StreamIncomplete),
    ([STREAMING], [GET, RESEND, *RESUMABLE], ["cut off"], AGAIN, AGAIN, StreamIncomplete),
    ([STREAMING], [POST, BY_GET_NO_ID], ["cut off"], *[StreamIncomplete] * 3),
    # The same error, as it is a StreamTimeout already.
    ([STREAMING], [GET, RESEND, *RESUMABLE], ["idle"], AGAIN, AGAIN, RAISED),
    ([STREAMING], [POST, BY_GET_NO_ID], ["idle"], RAISED, RAISED, RAISED),
]
TABLE = [
    ((when, who, what), columns)
    for whens, whos, whats, *columns in ROWS
    for when in whens
    for who in whos
    for what in whats
]


def test_table_has_no_duplicate_row() -> None:
    assert len({key for key, _ in TABLE}) == len(TABLE)


def test_verdicts_are_those_of_the_table() -> None:
    def check(row: tuple[tuple[str, str, str], list[Any]]) -> None:
        key, expected = row
        assert [find_verdict(*key, policy) for policy in POLICIES] == expected

    check_each((("-".join(row[0]), row) for row in TABLE), check)


def find_verdict(when: str, who: str, what: str, policy: ReconnectPolicy) -> Any:
    """Return the verdict on an outcome `what`, at the time `when`, for the request `who`."""
    driver = Driver(policy, **REQUESTS[who])
    last_event_id = "" if who.endswith("no id") else "7"
    if when == FIRST:
        driver.reconnection.last_event_id = last_event_id
        driver.begin()
    else:
        driver.open().event(last_event_id)
    if when == LATER:
        # Every policy and every request allows it.
        driver.reconnect()
        driver.begin()
    verdict = OUTCOMES[what](driver)
    # No outcome changes the id.
    assert driver.reconnection.last_event_id == last_event_id
    if isinstance(verdict, float):
        assert driver.reconnection.state is ReadyState.CONNECTING
        return AGAIN
    if verdict is None:
        assert driver.reconnection.state is ReadyState.OPEN
        return READ
    assert driver.reconnection.state is ReadyState.CLOSED
    with pytest.raises(RuntimeError):
        driver.begin()
    if isinstance(verdict, EndReason):
        return verdict
    return RAISED if verdict is driver.error else type(verdict)


def test_default_retry_statuses() -> None:
    retriable = []
    for status in range(205, 1000):
        driver = Driver()
        driver.begin()
        if isinstance(driver.fail(bad_status(status)), float):
            retriable.append(status)
    retried = [status for status in range(500, 600) if status not in (501, 505)]
    assert retriable == [408, 425, 429, *retried]


def test_incomplete_stream_has_cause() -> None:
    error = cut_off()
    incomplete = Driver(method="POST").open().event().fail(error)
    assert isinstance(incomplete, StreamIncomplete)
    assert incomplete.__cause__ is error


def test_stream_incomplete_names_what_is_missing() -> None:
    for pending, until, missing in [
        (True, False, "within an event"),
        (True, True, "within an event"),
        (False, True, "before an event met `until` or `until_event`"),
    ]:
        incomplete = Driver(method="POST").open().event().end(pending=pending, until=until)
        assert str(incomplete) == f"The stream ended {missing}"


def test_failed_reconnect_of_post_raises_incomplete() -> None:
    """After a first stream, a request that must not be repeated means StreamIncomplete."""
    driver = Driver(method="POST").open()
    driver.reconnect()
    driver.begin()
    incomplete = driver.fail(reset_in_head())
    assert isinstance(incomplete, StreamIncomplete)
    assert "resend" in str(incomplete)


def test_head_is_not_repeated_after_clean_end() -> None:
    assert Driver(method="HEAD").open().end() is EndReason.END


@pytest.mark.parametrize(
    "failure",
    [unknown_host, refused, slow_connect, reset_in_head, slow_head, lambda: bad_status(503)],
)
def test_third_failed_first_attempt_raises(failure: Callable[[], Exception]) -> None:
    driver = Driver()
    for _ in range(2):
        driver.begin()
        assert isinstance(driver.fail(failure()), float)
    driver.begin()
    assert driver.fail(failure()) is driver.error


def test_error_of_last_attempt_is_raised() -> None:
    driver = Driver()
    for failure in (refused, reset_in_head, lambda: bad_status(503)):
        driver.begin()
        verdict = driver.fail(failure())
    assert verdict is driver.error
    assert isinstance(verdict, ResponseError)


@pytest.mark.parametrize("make", [ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never])
def test_initial_attempts_limits_first_attempts(make: Any) -> None:
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
def test_unlimited_first_attempts(policy: ReconnectPolicy) -> None:
    driver = Driver(policy)
    for failure in [unknown_host, refused, slow_connect, reset_in_head, slow_head] * 20:
        driver.begin()
        assert isinstance(driver.fail(failure()), float)


@pytest.mark.parametrize("policy", POLICIES[:2])
def test_unlimited_attempts_after_first_response(policy: ReconnectPolicy) -> None:
    driver = Driver(policy).open()
    assert isinstance(driver.fail(cut_off()), float)
    for failure in [unknown_host, refused, slow_connect, reset_in_head, slow_head] * 20:
        driver.begin()
        assert isinstance(driver.fail(failure()), float)


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("make", [ReconnectPolicy, ReconnectPolicy.whatwg])
def test_max_attempts_limits_streams_without_events(make: Any, limit: int) -> None:
    driver = Driver(make(max_attempts=limit))
    # Attempts before the first response do not count.
    failing(driver, 2)
    driver.open()
    for _ in range(3):
        # Each event resets the count; streams without events count as failures do.
        driver.event()
        for number in range(limit):
            verdict = driver.fail(cut_off()) if number % 2 else driver.end()
            assert isinstance(verdict, float)
            driver.open()
    incomplete = driver.fail(cut_off())
    assert isinstance(incomplete, StreamIncomplete)
    assert "max_attempts" in str(incomplete)


@pytest.mark.parametrize("failure", [refused, lambda: bad_status(503)])
def test_max_attempts_limits_failures_in_a_row(failure: Callable[[], Exception]) -> None:
    driver = Driver(ReconnectPolicy(max_attempts=2)).open().event()
    verdicts = [driver.end()]
    for _ in range(2):
        driver.begin()
        verdicts.append(driver.fail(failure()))
    assert [isinstance(verdict, Exception) for verdict in verdicts] == [False, False, True]


def test_max_attempts_reset_after_thirty_seconds_open() -> None:
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    for _ in range(5):
        driver.now += 31
        assert isinstance(driver.fail(cut_off()), float)
        driver.open()
    driver.now += 29
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_max_attempts_ends_after_empty_streams() -> None:
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    assert isinstance(driver.end(), float)
    driver.open()
    assert driver.end() is EndReason.END


def test_max_elapsed_limits_time_of_attempts() -> None:
    # With constant waits, the result depends on which failure is counted from.
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


def test_max_elapsed_reset_by_success() -> None:
    driver = Driver(ReconnectPolicy(max_elapsed=5), rng=1.0).open()
    for _ in range(10):
        driver.now += 20
        assert isinstance(driver.event().end(), float)
        driver.begin()
        assert isinstance(driver.fail(refused()), float)
        driver.open()
        driver.now += 30
        assert isinstance(driver.fail(cut_off()), float)
        driver.open()
    driver.event().fail(cut_off())
    driver.begin()
    driver.now += 5
    assert driver.fail(refused()) is driver.error


@pytest.mark.parametrize("before", ["nothing", "a stream", "a cancelled attempt", "reconnect()"])
def test_max_elapsed_counts_from_first_failure(before: str) -> None:
    """Neither the beginning of the failed attempt nor a cancelled attempt counts."""
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
def test_max_elapsed_includes_first_wait(had_event: bool) -> None:
    for retry, expected in [(50_000, float), (70_000, StreamIncomplete)]:
        driver = Driver(ReconnectPolicy(max_elapsed=60)).open()
        driver.reconnection.retry = retry
        driver.had_event = had_event
        verdict = driver.fail(cut_off())
        assert isinstance(verdict, expected)
        driver = Driver(ReconnectPolicy(max_elapsed=60)).open()
        driver.reconnection.retry = retry
        driver.had_event = had_event
        assert isinstance(driver.end(), float if expected is float else EndReason)


@pytest.mark.parametrize("who", REQUESTS)
def test_reconnect_on_end_needs_repeatable_request(who: str) -> None:
    may_be_sent_again = who not in (POST, BY_GET_NO_ID)
    for choice, expected in [(True, may_be_sent_again), (False, False), (None, who == GET)]:
        for make in (ReconnectPolicy, ReconnectPolicy.whatwg):
            driver = Driver(make(reconnect_on_end=choice), **REQUESTS[who])
            driver.open().event("" if who.endswith("no id") else "7")
            verdict = driver.end()
            assert isinstance(verdict, float) if expected else verdict is EndReason.END
    assert Driver(ReconnectPolicy.never(max_attempts=1)).open().end() is EndReason.END


def test_retry_statuses_replace_default() -> None:
    for make in (ReconnectPolicy, partial(ReconnectPolicy.whatwg, initial_attempts=3)):
        for status, expected in [(404, float), (503, ResponseError), (500, ResponseError)]:
            driver = Driver(make(retry_statuses={404}))
            driver.begin()
            assert isinstance(driver.answer(status), expected)
    # Whether the request was processed is another matter.
    driver = Driver(ReconnectPolicy(retry_statuses={404}), "POST")
    driver.begin()
    assert isinstance(driver.answer(404), ResponseError)


def test_certificate_error_is_fatal_other_tls_error_not() -> None:
    """Libraries wrap the error of the certificate in several ways."""
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
    # Another failure of TLS may be temporary.
    error = TransportError("TLS", phase="connect", sent=False)
    error.__cause__ = ssl.SSLEOFError()
    driver = Driver()
    driver.begin()
    assert isinstance(driver.fail(error), float)


@pytest.mark.parametrize("policy", [POLICIES[0], POLICIES[2]], ids=["default", "never"])
@pytest.mark.parametrize("phase", ["head", "body"])
def test_permanent_transport_error_is_raised(policy: ReconnectPolicy, phase: str) -> None:
    """Bytes that are no framing or coding are the same in each attempt."""
    error = TransportError("no framing", phase=phase)
    error.permanent = True
    for who in REQUESTS.values():
        driver = Driver(policy, **who)
        driver.open() if phase == "body" else driver.begin()
        assert driver.fail(error) is error
        assert driver.reconnection.state is ReadyState.CLOSED


@pytest.mark.parametrize("phase", ["head", "body"])
def test_permanent_transport_error_whatwg_is_retried(phase: str) -> None:
    """Browsers take such bytes for a network error."""
    error = TransportError("no framing", phase=phase)
    error.permanent = True
    driver = Driver(ReconnectPolicy.whatwg())
    driver.open() if phase == "body" else driver.begin()
    assert driver.fail(error) == 3.0


@pytest.mark.parametrize("failure", [lambda: bad_status(503), refused, unknown_host, slow_head])
@pytest.mark.parametrize("policy", POLICIES[:2], ids=["default", "whatwg"])
def test_same_failure_is_retried_for_ten_minutes(
    policy: ReconnectPolicy, failure: Callable[[], Exception]
) -> None:
    """However often the same failure repeats, the policy decides alone."""
    if policy == POLICIES[1] and isinstance(failure(), ResponseError):
        policy = ReconnectPolicy.whatwg(retry_statuses={503})
    driver = Driver(policy, rng=0.5).open().event("7")
    driver.end()
    begun = []
    while driver.now < 600:
        begun.append(driver.now)
        assert sent_id(driver.begin()) == b"7"
        assert isinstance(driver.fail(failure()), float)
    # The backoff of the default policy has its longest average, 15 seconds.
    assert 30 < len(begun) < 60 if policy == POLICIES[0] else len(begun) == 200
    # The server is back.
    assert driver.open().reconnection.state is ReadyState.OPEN


# -- The policy ------------------------------------------------------------------------------------


# Field -> (default, another valid value).
POLICY_FIELDS: dict[str, tuple[Any, Any]] = {
    "initial_attempts": (3, None),
    "max_attempts": (None, 7),
    "max_elapsed": (None, 60.5),
    "retry_statuses": ({408, 425, 429, *range(500, 600)} - {501, 505}, [503]),
    "end_delay": (1.0, 2.5),
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
    "trusted_origins": ((), ["https://a.example"]),
}


def test_policy_fields_and_defaults() -> None:
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
def test_policy_field_can_be_set(name: str) -> None:
    _, value = POLICY_FIELDS[name]
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        policy = make()
        changed = make(**{name: value})
        for each in (changed, dataclasses.replace(policy, **{name: value})):
            assert getattr(each, name) == value
            for other in POLICY_FIELDS.keys() - {name}:
                assert getattr(each, other) == getattr(policy, other)
        assert changed == dataclasses.replace(policy, **{name: value})


def test_changed_whatwg_still_follows_the_standard() -> None:
    for policy in (
        ReconnectPolicy.whatwg(max_redirects=5),
        dataclasses.replace(ReconnectPolicy.whatwg(), max_redirects=5),
    ):
        driver = Driver(policy, rng=1.0).open()
        driver.reconnection.retry = 1000
        assert driver.end(pending=True, until=True) == pytest.approx(1)
        assert policy != ReconnectPolicy(max_redirects=5)


WHOLE = ["initial_attempts", "max_attempts", "max_redirects", "max_id_size"]
DURATIONS = [
    *[
        "max_elapsed",
        "end_delay",
        "initial_delay",
        "multiplier",
        "max_delay",
        "jitter",
        "min_delay",
    ],
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
def test_policy_refuses_wrong_value(name: str, value: Any) -> None:
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        with pytest.raises(ValueError, match=f"Expected {name} "):
            make(**{name: value})
    with pytest.raises(ValueError, match=f"Expected {name} "):
        dataclasses.replace(ReconnectPolicy(), **{name: value})


def test_policy_refuses_unknown_field() -> None:
    for make in (ReconnectPolicy, ReconnectPolicy.whatwg, ReconnectPolicy.never):
        with pytest.raises(TypeError):
            make(max_atempts=1)
    with pytest.raises(TypeError):
        ReconnectPolicy(3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_policy_is_frozen(name: str) -> None:
    policy = ReconnectPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(policy, name, POLICY_FIELDS[name][1])
    assert policy == ReconnectPolicy()


def test_policy_repr_shows_public_fields() -> None:
    assert repr(ReconnectPolicy(max_attempts=7, min_delay=0.5)).startswith("ReconnectPolicy(")
    for policy in POLICIES:
        shown = repr(policy)
        for name in POLICY_FIELDS.keys() - {"retry_statuses"}:
            assert f"{name}={getattr(policy, name)!r}" in shown
        # It fits on a screen.
        assert len(shown) < 400
        assert "_whatwg" not in shown
