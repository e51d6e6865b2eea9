"""How often a server gets requests: the rate limit, Retry-After and its limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from typing import Any

from sse_fast import ReconnectPolicy, RetriableError
from tests.support.callback_styles import AttemptTimes
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, OURS, Way
from tests.support.scripted_server import Play, Request, in_two_seconds, serve_stage
from tests.support.threaded_reader import NO_DELAY, OURS_OR_OTHERS

pytestmark = UNREAD_UNDER_TRIO

SECONDS = 1.3
# Seconds that a busy machine may add.
LATE = 1.0
EVENT = b"id: 1\ndata: a\n\n"


def play_in_turn(*plays: Play) -> Callable[[int, Request], Play]:
    """Return a callable that plays these in turn, and 204 after `SECONDS`."""
    first: list[float] = []

    def play(index: int, request: Request) -> Play:
        first.append(request.arrived)
        if request.arrived - first[0] > SECONDS:
            return Play(204, fields=())
        return plays[index % len(plays)]

    return play


def check_rate(times: list[float], least: int) -> None:
    assert len(times) >= least
    for first, eleventh in zip(times, times[10:], strict=False):
        assert eleventh - first > 1.0 - 0.001


def check_policy(case: tuple[Way, ReconnectPolicy, int]) -> None:
    way, policy, least = case
    plays = [Play(body=[b"retry:0\n\n"]), Play(body=[b"retry:0\ndata: a\n\n"])]
    if not policy.initial_delay:
        plays += [Play(body=[b"retry:0\n\n"], end="rst"), Play(framing="none")]
    with serve_stage(play_in_turn(*plays)) as stage:
        outcome = way.read(stage.url, policy=policy)
    assert outcome.error is None
    check_rate([request.arrived for request in stage.requests], least)
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert request.waited > 0.1 - 0.001


def test_any_policy_sends_at_most_ten_requests_a_second() -> None:
    cases = [
        (way, policy, least)
        for way in OURS
        for policy, least in [
            (ReconnectPolicy(), 2),
            (ReconnectPolicy.whatwg(), 5),
            # Only `min_delay` holds the client back.
            (ReconnectPolicy(initial_delay=0.0), 5),
            (ReconnectPolicy.whatwg(initial_delay=0.0), 5),
        ]
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(check_policy, cases))


def check_program(case: tuple[Way, str]) -> None:
    way, how = case

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            if how == "reconnect":
                source.reconnect()
            elif how == "run":
                raise KeyError
            else:
                raise RetriableError(delay=0) if how == "RetriableError" else TypeError

        while source.end_reason is None:
            with suppress(KeyError):
                await source.run(on_message)

    attempts = AttemptTimes()
    play = Play(body=[EVENT], end="hang")
    with serve_stage(play_in_turn(play)) as stage:
        policy = ReconnectPolicy(initial_delay=0.0)
        on_error = (lambda error: 0) if how == "on_error" else None
        way.use(use, stage.url, policy=policy, headers=attempts, on_error=on_error)
    check_rate(attempts, 5)
    # An attempt may be cancelled before its request is sent.
    assert len(stage.requests) <= len(attempts)


def test_program_cannot_exceed_ten_requests_a_second() -> None:
    requests = ["reconnect", "on_error", "RetriableError", "run"]
    cases = [(way, how) for way in OURS for how in requests]
    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(check_program, cases))


@OURS_OR_OTHERS
def test_retry_after_delays_the_next_request(ways: list[Way]) -> None:
    """The ways run together, since they spend their time waiting."""

    def waited(case: tuple[Way, int, Callable[[], str]]) -> float:
        way, status, value = case
        refused: list[float] = []

        def play(index: int, request: Request) -> Play:
            if index:
                return Play(204, fields=())
            refused.append(time.monotonic())
            return Play(status, [("Retry-After", value())])

        with serve_stage(play) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY)
        assert outcome.error is None
        assert len(stage.requests) == 2
        return stage.requests[1].arrived - refused[0]

    cases = [
        (way, status, value)
        for way in ways
        for status, value in [(503, lambda: "1"), (429, in_two_seconds)]
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        for (_, _, value), seconds in zip(cases, pool.map(waited, cases), strict=True):
            most = 2.0 if value is in_two_seconds else 1.0
            assert 1.0 - 0.01 < seconds < most + LATE


@BY_US
def test_max_retry_after_limits_the_delay(way: Way) -> None:
    policy = ReconnectPolicy(initial_delay=0.0, max_retry_after=0.1)
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    plays = [Play(503, [("Retry-After", value)]) for value in ("3600", in_an_hour)]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=policy)
    assert outcome.error is None
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert 0.1 - 0.001 < request.waited < 0.1 + LATE
