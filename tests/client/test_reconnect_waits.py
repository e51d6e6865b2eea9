"""How long the client waits before the next attempt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sse_fast import ReconnectPolicy, RetriableError
from tests.support.simulated_clock import (
    POLICIES,
    Driver,
    bad_status,
    cut_off,
    failing,
    idle,
    most_in_a_second,
    refused,
    slow_head,
)


def wait(
    policy: ReconnectPolicy = POLICIES[0],
    *,
    retry: int | None = None,
    retry_after: float | None = None,
    rng: float = 0.0,
) -> Any:
    """Return the wait before the second attempt, after a 503."""
    driver = Driver(policy, rng=rng)
    driver.reconnection.retry = retry
    driver.begin()
    return driver.fail(bad_status(503, retry_after))


@pytest.mark.parametrize("rng", [0.0, 0.5, 1.0])
def test_backoff_is_random_and_doubles(rng: float) -> None:
    failures: list[Callable[[Driver], Any]] = [
        lambda driver: driver.fail(refused()),
        lambda driver: driver.fail(slow_head()),
        lambda driver: driver.answer(503),
        lambda driver: driver.open() and driver.fail(cut_off()),
        lambda driver: driver.open() and driver.end(),
        lambda driver: driver.open().event() and driver.fail(idle()),
    ]
    driver = Driver(ReconnectPolicy(initial_attempts=None), rng=rng)
    waits = []
    for number in range(12):
        fail = failures[number % 6]
        if number % 6 < 3:
            driver.begin()
        waits.append(fail(driver))
    backoffs = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]
    assert waits == pytest.approx([0.1 + rng * backoff for backoff in backoffs])


def test_backoff_follows_policy_fields() -> None:
    policy = ReconnectPolicy(
        initial_attempts=None, initial_delay=0.5, multiplier=3, max_delay=10, min_delay=2
    )
    for jitter, rng, share in [(1.0, 0.25, 0.25), (0.0, 0.0, 1.0), (0.5, 0.0, 0.5), (0.5, 1, 1)]:
        driver = Driver(dataclasses.replace(policy, jitter=jitter), rng=rng)
        waits = []
        for _ in range(5):
            driver.begin()
            waits.append(driver.fail(refused()))
        assert waits == pytest.approx([2 + share * each for each in (0.5, 1.5, 4.5, 10, 10)])


def test_backoff_stays_finite() -> None:
    for multiplier in (2.0, 1e300):
        policy = ReconnectPolicy(initial_attempts=None, multiplier=multiplier)
        driver = Driver(policy, rng=1.0)
        for _ in range(1200):
            driver.begin()
            last = driver.fail(refused())
        assert last == pytest.approx(30.1)


@pytest.mark.parametrize(
    ("lose", "expected"),
    [
        (lambda driver: driver.event().end(), 1.1),
        (lambda driver: driver.end(), 32.1),
        (lambda driver: driver.event().end(framed=False), 32.1),
        (lambda driver: driver.event().end(pending=True), 1.1),
        (lambda driver: driver.event().end(pending=True, framed=False), 32.1),
        (lambda driver: driver.event().end(until=True), 1.1),
        (lambda driver: driver.event().end(until=True, framed=False), 32.1),
        (lambda driver: driver.event().fail(cut_off()), 32.1),
        (lambda driver: driver.event().fail(idle()), 32.1),
        (lambda driver: driver.event().fail(refused()), 32.1),
    ],
)
def test_backoff_reset_by_marked_end_with_events_only(
    lose: Callable[[Driver], Any], expected: float
) -> None:
    driver = Driver(ReconnectPolicy(max_delay=1000), rng=1.0).open()
    driver.fail(cut_off())
    assert failing(driver, 3) == pytest.approx(8.1)
    lose(driver.open())
    assert failing(driver, 1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "rng", "expected"),
    [
        ({}, 0.0, 0.1),
        ({}, 0.5, 0.5),
        ({}, 1.0, 1.0),
        ({"end_delay": 4, "jitter": 0.0}, 0.0, 4.0),
        ({"end_delay": 4, "jitter": 0.5}, 0.0, 2.0),
        ({"end_delay": 4, "min_delay": 5}, 1.0, 5.0),
        ({"end_delay": 0, "initial_delay": 50, "min_delay": 0}, 1.0, 0.0),
    ],
)
def test_good_end_waits_end_delay(options: Any, rng: float, expected: float) -> None:
    driver = Driver(ReconnectPolicy(**options), rng=rng)
    for number in range(20):
        driver.open().event()
        if number % 2:
            assert driver.end() == pytest.approx(expected)
        else:
            # The end of such a body is not marked, but the stream was not short.
            driver.now += 30
            assert driver.end(framed=False) == pytest.approx(expected)


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize(("retry", "expected"), [(10, 0.1), (2000, 2.0), (2**63 - 1, 3600)])
def test_retry_replaces_end_delay(framed: bool, retry: int, expected: float) -> None:
    driver = Driver(ReconnectPolicy(end_delay=50), rng=1.0)
    for number in range(20):
        driver.open().event(str(number)).reconnection.retry = retry
        assert driver.end(framed=framed) == pytest.approx(expected)


@pytest.mark.parametrize(("retry", "expected"), [(None, 5.0), (10, 0.1), (2000, 2.0)])
@pytest.mark.parametrize("options", [{}, {"method": "POST", "resume": "get"}])
def test_good_end_before_until_waits_as_one(
    retry: int | None, expected: float, options: dict[str, Any]
) -> None:
    """A server may end each connection after some events, and answer the request in the last."""
    driver = Driver(ReconnectPolicy(end_delay=5, max_attempts=3), rng=1.0, **options)
    for number in range(20):
        driver.open().event(str(number)).reconnection.retry = retry
        assert driver.end(until=True) == pytest.approx(expected)
    assert driver.reconnection.failure_count == 0


def test_good_end_before_until_is_no_progress_of_a_post() -> None:
    """A POST that is sent again, and brings no id, begins anew."""
    driver = Driver(
        ReconnectPolicy(max_attempts=3, jitter=0.0), rng=1.0, method="POST", resend=True
    )
    waits = [driver.open().event().end(until=True)]
    waits += [driver.open().event().end(until=True)]
    assert waits == pytest.approx([1.1, 2.1])


@pytest.mark.parametrize(("delay", "expected"), [(None, 0.1), (7.0, 7.0)])
def test_retriable_error_after_a_good_end_waits_as_one(
    delay: float | None, expected: float
) -> None:
    driver = Driver(rng=1.0)
    for number in range(20):
        driver.open().event(str(number)).reconnection.retry = 10
        driver.reconnection.stream_ended(
            driver.now, had_event=True, framed=True, pending=False, until_unmet=False
        )
        waited = driver.fail(RetriableError(delay=delay), from_callback=True)
        assert waited == pytest.approx(expected)


def test_unmarked_end_with_retry_is_no_success_and_no_failure() -> None:
    driver = Driver(ReconnectPolicy(max_attempts=4), rng=1.0).open()
    driver.fail(cut_off())
    assert failing(driver, 1) == pytest.approx(2.1)
    for number in range(10):
        driver.open().event(str(number)).reconnection.retry = 10
        assert driver.end(framed=False) == pytest.approx(0.1)
    assert failing(driver, 1) == pytest.approx(4.1)
    assert failing(driver, 1) == pytest.approx(8.1)
    driver.begin()
    assert driver.fail(refused()) is driver.error


@pytest.mark.parametrize("retry", [None, 0])
@pytest.mark.parametrize("die", ["cut off", "idle", "unmarked end"])
def test_server_that_greets_and_dies_is_asked_less_often(die: str, retry: int | None) -> None:
    """A `retry` changes nothing: the events bring no id that was not sent before."""
    driver = Driver(rng=0.5)
    while driver.now < 600:
        driver.open().event("1" if driver.now else None).reconnection.retry = retry
        if die == "unmarked end":
            assert isinstance(driver.end(framed=False), float)
        else:
            assert isinstance(driver.fail(cut_off() if die == "cut off" else idle()), float)
    assert driver.reconnection.attempt < 60


@pytest.mark.parametrize("rng", [0.0, 1.0])
def test_catching_up_ten_by_ten_is_prompt(rng: float) -> None:
    """Thirty connections of ten events, each of which ends with `retry: 10`."""
    for framed in (True, False):
        driver = Driver(rng=rng)
        for number in range(30):
            driver.open().event(str(number)).reconnection.retry = 10
            driver.end(framed=framed)
        assert driver.now < 5
        # Then the server goes down.
        begun = driver.now
        while driver.now < begun + 2:
            failing(driver, 1)
        assert driver.reconnection.attempt < 25


def test_backoff_reset_by_thirty_seconds_open() -> None:
    for seconds, expected in [(29.9, 8.1), (30.001, 1.1), (1000, 1.1)]:
        driver = Driver(rng=1.0).open().event()
        driver.end()
        assert failing(driver, 3) == pytest.approx(4.1)
        driver.open()
        driver.now += seconds
        assert driver.end() == pytest.approx(expected)
    # The time of an attempt without an answer does not count as open.
    driver = Driver(rng=1.0)
    driver.begin()
    driver.now += 100
    driver.fail(slow_head())
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(2.1)


def test_reset_after_resets_backoff() -> None:
    for seconds, expected in [(4, 2.1), (5, 1.1)]:
        driver = Driver(ReconnectPolicy(reset_after=5), rng=1.0).open()
        driver.end()
        driver.open()
        driver.now += seconds
        assert driver.end() == pytest.approx(expected)
    # The time from the request to the response does not count.
    driver = Driver(ReconnectPolicy(reset_after=5), rng=1.0).open()
    driver.end()
    driver.begin()
    driver.now += 100
    driver.answer(200, content_type="text/event-stream")
    driver.now += 4
    assert driver.end() == pytest.approx(2.1)


def test_backoff_not_reset_by_opening() -> None:
    driver = Driver(rng=1.0)
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
        # The longest that are respected.
        (0.1, 2**63 - 1, None, 3600),
        (0.1, None, 1e9, 3600),
        (0.1, None, float("inf"), 3600),
    ],
)
def test_longest_of_min_delay_retry_and_retry_after(
    min_delay: float, retry: int | None, retry_after: float | None, expected: float
) -> None:
    policy = ReconnectPolicy(min_delay=min_delay)
    server_delays = {"retry": retry, "retry_after": retry_after}
    assert wait(policy, **server_delays) == pytest.approx(expected)
    # The backoff is added to it.
    assert wait(policy, **server_delays, rng=1.0) == pytest.approx(expected + 1)


def test_max_retry_and_max_retry_after_limit_waits() -> None:
    policy = ReconnectPolicy(max_retry=20, max_retry_after=40)
    assert wait(policy, retry=30_000) == pytest.approx(20)
    assert wait(policy, retry_after=50) == pytest.approx(40)
    assert wait(policy, retry=30_000, retry_after=10) == pytest.approx(20)
    assert wait(policy, retry=19_000, retry_after=39) == pytest.approx(39)
    assert wait(ReconnectPolicy(max_retry=0, max_retry_after=0), retry=9, retry_after=9) == 0.1


def test_retry_is_kept_and_retry_after_is_not() -> None:
    driver = Driver().open().event()
    driver.reconnection.retry = 5000
    assert driver.end() == pytest.approx(5)
    driver.begin()
    assert driver.fail(bad_status(429, 60)) == pytest.approx(60)
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(5)
    driver.open().event()
    assert driver.fail(cut_off()) == pytest.approx(5)


@pytest.mark.parametrize("rng", [0.0, 1.0])
def test_whatwg_waits_three_seconds_or_retry(rng: float) -> None:
    driver = Driver(ReconnectPolicy.whatwg(), rng=rng)
    # Without a retry, the wait is constant.
    for _ in range(10):
        driver.begin()
        assert driver.fail(refused()) == pytest.approx(3)
    driver.open().event()
    for retry, expected in [(5000, 5), (1000, 1), (50, 0.1), (0, 0.1), (2**63 - 1, 3600)]:
        driver.reconnection.retry = retry
        assert driver.end() == pytest.approx(expected)
        driver.begin()
        assert driver.fail(refused()) == pytest.approx(expected)
        driver.open()


def test_changed_whatwg_ignores_retry_after() -> None:
    whatwg = partial(ReconnectPolicy.whatwg, retry_statuses={503})
    # The standard has no Retry-After.
    assert wait(whatwg(), retry_after=60) == pytest.approx(3)
    assert wait(whatwg(initial_delay=5)) == pytest.approx(5)
    assert wait(whatwg(min_delay=4)) == pytest.approx(4)
    assert wait(whatwg(min_delay=4), retry=1000) == pytest.approx(4)
    assert wait(whatwg(max_retry=10), retry=20_000) == pytest.approx(10)


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "whatwg", "never"])
def test_delay_of_the_program_is_at_least_min_delay(policy: ReconnectPolicy) -> None:
    def of_error(delay: float) -> Any:
        return Driver(policy).open().fail(RetriableError(delay=delay))

    def of_number(delay: float) -> Any:
        return Driver(policy).open().reconnect(delay)

    for of in (of_error, of_number):
        assert of(5) == pytest.approx(5)
        # It may exceed the limits for servers.
        assert of(5000) == pytest.approx(5000)
        assert of(0) == pytest.approx(0.1)
        assert of(0.01) == pytest.approx(0.1)


def test_retriable_error_without_delay_follows_policy() -> None:
    driver = Driver(rng=0.5)
    driver.begin()
    assert driver.fail(RetriableError()) == pytest.approx(0.1 + 0.5)
    driver.begin()
    # The Retry-After of the response in whose on_open it was raised.
    assert driver.fail(RetriableError(), retry_after=60) == pytest.approx(60 + 1)
    driver.begin()
    assert driver.fail(RetriableError(delay=2), retry_after=60) == pytest.approx(2)
    # The standard has no Retry-After.
    driver = Driver(ReconnectPolicy.whatwg())
    driver.begin()
    assert driver.fail(RetriableError(), retry_after=60) == pytest.approx(3)


@pytest.mark.parametrize("policy", POLICIES[:2], ids=["default", "whatwg"])
@pytest.mark.parametrize("with_events", [True, False])
def test_retry_0_is_rate_limited(policy: ReconnectPolicy, with_events: bool) -> None:
    # The shortest random waits.
    driver = Driver(policy, rng=0.0)
    begun = []
    for _ in range(300):
        driver.open()
        begun.append(driver.now)
        driver.reconnection.retry = 0
        if with_events:
            driver.event()
        assert isinstance(driver.end(), float)
    assert most_in_a_second(begun) == 10
