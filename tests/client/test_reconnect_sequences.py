"""Random sequences of outcomes, compared with a model of the contract."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sse_fast import (
    EndReason,
    EventTooLarge,
    FatalError,
    ReadyState,
    ReconnectPolicy,
    RetriableError,
    StreamIncomplete,
)
from sse_fast._request import Request
from tests.support.examples import examples
from tests.support.simulated_clock import (
    OTHER,
    REDIRECTS,
    SAME,
    Driver,
    bad_status,
    cut_off,
    idle,
    no_framing,
    refused,
    reset_in_head,
    sent_id,
    slow_connect,
    slow_head,
    unknown_host,
    untrusted,
)

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
            "end_delay": st.floats(0, 10),
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

WAITING, ASKING, OPEN, CLOSED = "waiting", "asking", "open", "closed"


def during(*phases: str) -> Any:
    return precondition(lambda self: self.phase in phases)


class AnySequence(RuleBasedStateMachine):
    """Any outcomes in any order, beside a model.

    The model repeats the contract: the phase of the client, whether the request may be sent again,
    and how many attempts in a row have brought nothing.
    """

    @initialize(
        policy=policies,
        method=st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT"]),
        resend=st.sampled_from([False, False, True]),
        resume=st.sampled_from([None, None, "get", "call"]),
        # An id of blanks only has a test of its own in test_reconnect_requests.
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
            rng=random.Random(seed).random,
            resume_request=Request("PATCH", "https://a.example/rest", (), b"rest"),
            resend=resend,
            resume=resume,
        )
        self.phase = WAITING
        self.begun: list[float] = []
        # The first request needs no permission.
        self.permitted = True
        self.had_response = False
        self.had_event = False
        self.opened_at = 0.0
        # Attempts, and the time of the first failure, since the last progress.
        self.vain_attempts = 0
        self.first_failure: float | None = None
        self.earliest = 0.0

    @property
    def now(self) -> float:
        return self.driver.now

    # -- Outcomes

    @during(WAITING)
    @rule(late=st.sampled_from([0.0, 0.0, 0.0, 0.01, 1.0, 50.0]))
    def begin(self, late: float) -> None:
        machine = self.driver.reconnection
        self.driver.now = max(self.now, machine.next_attempt_at) + late
        limit = self.policy.max_id_size
        if limit is not None and len(machine.last_event_id) > limit:
            with pytest.raises(StreamIncomplete) as caught:
                self.driver.begin()
            self.lost(self.driver.fail(caught.value))
            assert self.phase == CLOSED
            return
        request = self.driver.begin()
        assert self.now >= self.earliest - 1e-6
        assert sent_id(request) == (machine.last_event_id.encode() or None)
        resume_mode = self.resume if self.had_response else None
        if resume_mode == "get" and machine.last_event_id:
            assert (request.method, request.body) == ("GET", None)
        elif resume_mode == "call":
            assert request.method == "PATCH"
        else:
            # Without an id, there is no rest to ask for, so the first request is repeated.
            assert request.method == self.first_method
            assert self.permitted or self.first_method in ("GET", "HEAD") or self.resend
        self.permitted = False
        self.method = request.method
        self.vain_attempts += 1
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
            self.vain_attempts = 0
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
            assert self.phase == CLOSED

    @during(ASKING)
    @rule(
        code=st.sampled_from([408, 425, 429, 500, 502, 503, 529, 401, 404, 501]),
        retry_after=st.none() | seconds,
    )
    def get_bad_status(self, code: int, retry_after: float | None) -> None:
        self.lost(
            self.driver.fail(bad_status(code, retry_after)),
            # The status of a GET for the rest says nothing about the first request.
            permitted=code in (425, 429, 503, 529) and self.method == self.first_method,
            fatal=code in (401, 404, 501),
        )

    @during(ASKING)
    @rule()
    def get_no_content(self) -> None:
        assert self.driver.answer(204) is EndReason.NO_CONTENT
        self.phase = CLOSED

    @during(ASKING)
    @rule(failure=st.sampled_from([unknown_host, refused, slow_connect]))
    def get_no_connection(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()), permitted=True)

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
        self.driver.reconnection.retry = retry

    @during(OPEN)
    @rule(failure=st.sampled_from([cut_off, idle]))
    def get_cut_off(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure()))

    @during(OPEN)
    @rule(pending=st.booleans(), until=st.booleans(), framed=st.booleans())
    def get_end(self, pending: bool, until: bool, framed: bool) -> None:
        retry = self.driver.reconnection.retry
        verdict = self.driver.end(pending=pending, until=until, framed=framed)
        is_clean = self.policy._whatwg or not (pending or until)
        was_long = self.now - self.opened_at >= self.policy.reset_after
        if is_clean and self.had_event and (framed or was_long):
            self.vain_attempts, self.first_failure = 0, None
            self.lost(verdict, good=True, retry=retry)
        elif is_clean and self.had_event and retry is not None:
            self.vain_attempts = max(0, self.vain_attempts - 1)
            self.lost(verdict, good=True, retry=retry)
        else:
            self.lost(verdict)

    @during(ASKING, OPEN)
    @rule(
        failure=st.sampled_from(
            [untrusted, no_framing, FatalError, KeyError, partial(EventTooLarge, 2, 1)]
        )
    )
    def get_fatal_error(self, failure: Callable[[], Exception]) -> None:
        if failure is no_framing and self.policy._whatwg:
            self.lost(self.driver.fail(failure()))
            return
        self.lost(self.driver.fail(failure()), fatal=True)

    @during(ASKING, OPEN)
    @rule(failure=st.sampled_from([refused, cut_off, StreamIncomplete, partial(bad_status, 503)]))
    def raise_in_a_callback(self, failure: Callable[[], Exception]) -> None:
        self.lost(self.driver.fail(failure(), from_callback=True), fatal=True)

    @during(ASKING, OPEN)
    @rule(delay=st.none() | seconds, retry_after=st.none() | seconds)
    def raise_retriable(self, delay: float | None, retry_after: float | None) -> None:
        verdict = self.driver.fail(RetriableError(delay=delay), retry_after)
        self.lost(verdict, requested=True, delay=delay)

    @during(WAITING, ASKING, OPEN, CLOSED)
    @rule(delay=st.none() | seconds)
    def reconnect(self, delay: float | None) -> None:
        # A reconnect does not count as a failure.
        self.lost(self.driver.reconnect(delay), requested=True, reconnect=True, delay=delay)

    @during(WAITING, ASKING, OPEN)
    @rule()
    def cancel(self) -> None:
        error = self.driver.interrupt()
        if self.phase == WAITING:
            assert error is None
            return
        self.reset_after_progress()
        if self.phase == ASKING:
            # A cancelled attempt has not failed.
            self.vain_attempts -= 1
        # Attempts that are broken off are rate limited as well.
        self.earliest = self.begun[-1] + self.policy.min_delay
        self.phase = WAITING if error is None else CLOSED

    # -- Verdicts

    def reset_after_progress(self) -> None:
        long_open = self.now - self.opened_at >= self.policy.reset_after
        if self.phase == OPEN and long_open:
            self.vain_attempts = 0
            self.first_failure = None

    def lost(
        self,
        verdict: Any,
        *,
        permitted: bool = False,
        fatal: bool = False,
        requested: bool = False,
        reconnect: bool = False,
        good: bool = False,
        retry: int | None = None,
        delay: float | None = None,
    ) -> None:
        self.reset_after_progress()
        if not isinstance(verdict, float):
            assert isinstance(verdict, (Exception, EndReason))
            assert not requested
            self.phase = CLOSED
            return
        assert not fatal
        if self.first_failure is None and not reconnect and not good:
            self.first_failure = self.now
        self.phase = WAITING
        self.permitted = permitted or requested
        self.earliest = self.now + self.policy.min_delay
        policy = self.policy
        if delay is not None:
            assert verdict == pytest.approx(max(policy.min_delay, delay))
            return
        longest = max(policy.min_delay, policy.max_retry, policy.max_retry_after)
        assert policy.min_delay - 1e-6 <= verdict <= longest + policy.max_delay + 1e-6
        if not requested:
            limit = policy.max_attempts if self.had_response else policy.initial_attempts
            assert limit is None or self.vain_attempts < limit
            if policy.max_elapsed is not None:
                since = self.now if self.first_failure is None else self.first_failure
                assert self.now + verdict - since <= policy.max_elapsed + 1e-6
        if good and not policy._whatwg:
            server_delay = policy.end_delay if retry is None else retry / 1000
            server_delay = min(
                server_delay, policy.end_delay if retry is None else policy.max_retry
            )
            assert verdict <= max(policy.min_delay, server_delay) + 1e-6

    @invariant()
    def has_expected_state(self) -> None:
        states = {OPEN: ReadyState.OPEN, CLOSED: ReadyState.CLOSED}
        assert self.driver.reconnection.state is states.get(self.phase, ReadyState.CONNECTING)
        assert self.driver.reconnection.has_connection is (self.phase in (ASKING, OPEN))

    @invariant()
    def has_one_connection(self) -> None:
        if self.phase != WAITING:
            with pytest.raises(RuntimeError):
                self.driver.reconnection.begin(self.now + 1e9)

    @invariant()
    def is_rate_limited(self) -> None:
        # min_delay is at least 0.1: the eleventh attempt is at least a second after the first.
        if len(self.begun) > 10:
            assert self.begun[-1] - self.begun[-11] >= 1 - 1e-6

    def teardown(self) -> None:
        """Assert that nothing begins after close(), whatever is reported later."""
        if not hasattr(self, "driver"):
            return
        machine = self.driver.reconnection
        machine.close()
        assert not machine.has_connection
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
TestAnySequence.settings = examples(400, stateful_step_count=50)
