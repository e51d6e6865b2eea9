"""How often a server is asked, how long it is waited for, and what is not asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from itertools import chain, pairwise, repeat
from typing import Any

import anyio
import pytest

from sse_fast import (
    EndReason,
    EventTooLarge,
    ReconnectPolicy,
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, OURS, SOURCES, Outcome, Way, check_concurrently
from tests.support.scripted_server import Play, Request, Stage, in_two_seconds, serve_stage
from tests.support.server import nobody

pytestmark = UNREAD_UNDER_TRIO

NO_DELAY = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
POST: dict[str, Any] = {"method": "POST", "data": b"x"}

TIMEOUT = 0.3
# One that the head of a response has to keep as well.
UNHURRIED = 0.6
PING = 0.05  # seconds
# What a busy machine may add.
LATE = 1.0
EVENT = b"id: 1\ndata: a\n\n"


def statuses(*values: int) -> list[Play]:
    return [Play(value, fields=[("Content-Type", "text/plain")]) for value in values]


class Attempts(list[float]):
    """A `headers` that notes when it is asked for: right before each attempt.

    A server may be late to see a request, after which the next would seem to be early.
    """

    def __call__(self) -> dict[str, str]:
        self.append(time.monotonic())
        return {}

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self)]


class Errors(list[Exception]):
    """An `on_error` that keeps what it was called with, and has no say."""

    def __call__(self, error: Exception) -> None:
        self.append(error)


# -- How often -------------------------------------------------------------------------------------

SECONDS = 1.3


def for_a_while(*plays: Play) -> Callable[[int, Request], Play]:
    """Those, in turns, and 204 once the time is up."""
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
    with serve_stage(for_a_while(*plays)) as stage:
        outcome = way.read(stage.url, policy=policy)
    assert outcome.error is None
    check_rate([request.arrived for request in stage.requests], least)
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert request.waited > 0.1 - 0.001


def test_at_most_ten_requests_a_second() -> None:
    cases = [
        (way, policy, least)
        for way in OURS
        for policy, least in [
            (ReconnectPolicy(), 2),
            (ReconnectPolicy.whatwg(), 5),
            # The limit is all that holds it back.
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
            try:
                with anyio.move_on_after(0.01 if how == "cancel" else 60.0):
                    await source.run(on_message)
            except KeyError:
                pass

    attempts = Attempts()
    play = Play(body=[b": ping\n\n" if how == "cancel" else EVENT], end="hang")
    with serve_stage(for_a_while(play)) as stage:
        policy = ReconnectPolicy(initial_delay=0.0)
        on_error = (lambda error: 0) if how == "on_error" else None
        way.use(use, stage.url, policy=policy, headers=attempts, on_error=on_error)
    check_rate(attempts, 5)
    # An attempt that is cancelled may not have come that far.
    assert len(stage.requests) <= len(attempts)


def test_not_more_often_for_a_program_that_wants_it() -> None:
    wishes = ["reconnect", "on_error", "RetriableError", "run"]
    cases = [(way, how) for way in OURS for how in wishes]
    cases.append((SOURCES["sse_fast asyncio"], "cancel"))
    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(check_program, cases))


def test_retry_after() -> None:
    """At once, as all of it is waiting."""

    def waited(case: tuple[Way, int, Callable[[], str]]) -> float:
        way, status, value = case
        said: list[float] = []

        def play(index: int, request: Request) -> Play:
            if index:
                return Play(204, fields=())
            said.append(time.monotonic())
            return Play(status, [("Retry-After", value())])

        with serve_stage(play) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY)
        assert outcome.error is None
        assert len(stage.requests) == 2
        return stage.requests[1].arrived - said[0]

    cases = [
        (way, status, value)
        for way in SOURCES.values()
        for status, value in [(503, lambda: "1"), (429, in_two_seconds)]
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        for (_, _, value), seconds in zip(cases, pool.map(waited, cases), strict=True):
            most = 2.0 if value is in_two_seconds else 1.0
            assert 1.0 - 0.01 < seconds < most + LATE


@BY_US
def test_max_retry_after(way: Way) -> None:
    policy = ReconnectPolicy(initial_delay=0.0, max_retry_after=0.1)
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    plays = [Play(503, [("Retry-After", value)]) for value in ("3600", in_an_hour)]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=policy)
    assert outcome.error is None
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert 0.1 - 0.001 < request.waited < 0.1 + LATE


# -- What is not asked again -----------------------------------------------------------------------


def test_401_is_asked_once(way: Way) -> None:
    errors = Errors()
    with serve_stage(statuses(401)) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, on_error=errors)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 401
    assert errors == [outcome.error]
    assert len(stage.requests) == 1
    assert outcome.source.end_reason is EndReason.ERROR


def renewed(way: Way, url: str, **options: Any) -> Outcome:
    """With a token that `on_error` renews, once."""
    token = "old"

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    def on_error(error: Exception) -> int | None:
        nonlocal token
        expired = isinstance(error, ResponseError) and error.response.status == 401
        if not expired or token == "new":
            return None
        token = "new"
        return 0

    async def aheaders() -> dict[str, str]:
        await anyio.sleep(0)
        return headers()

    async def aon_error(error: Exception) -> int | None:
        await anyio.sleep(0)
        return on_error(error)

    if way.is_async:
        options.update(headers=aheaders, on_error=aon_error)
    else:
        options.update(headers=headers, on_error=on_error)
    return way.read(url, policy=NO_DELAY, **options)


def test_401_is_asked_twice_with_a_new_token(way: Way) -> None:
    for method in [{}, POST]:
        with serve_stage([*statuses(401), Play(body=[EVENT, b"data: end\n\n"])]) as stage:
            outcome = renewed(way, stage.url, until="end", **method)
        assert [event.data for event in outcome.events] == ["a"]
        assert stage.sent("Authorization") == ["Bearer old", "Bearer new"]

        with serve_stage(statuses(401, 401)) as stage:
            outcome = renewed(way, stage.url, **method)
        assert isinstance(outcome.error, ResponseError)
        assert len(stage.requests) == 2


@BY_US
def test_401_on_the_way_back_keeps_the_id(way: Way) -> None:
    with serve_stage([Play(body=[EVENT]), *statuses(401)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert isinstance(outcome.error, ResponseError)
    assert stage.sent() == [None, "1"]
    assert outcome.source.last_event_id == "1"

    with serve_stage([Play(body=[EVENT]), *statuses(401), Play(body=[b"data: b\n\n"])]) as stage:
        outcome = renewed(way, stage.url, until=lambda event: event.data == "b")
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert stage.sent() == [None, "1", "1"]


def test_an_event_that_is_too_large_is_not_asked_for_again(way: Way) -> None:
    errors = Errors()
    large = b"id: 2\ndata: " + b"x" * 200 + b"\n\n"
    for body in [[EVENT + large], [EVENT, large]]:
        errors.clear()
        with serve_stage([Play(body=body, delay=3.0)]) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY, max_event_size=100, on_error=errors)
        assert [event.data for event in outcome.events] == ["a"]
        assert isinstance(outcome.error, EventTooLarge)
        assert errors == [outcome.error]
        assert len(stage.requests) == 1
        assert outcome.source.last_event_id == "1"


@BY_US
def test_an_event_that_is_too_large_is_asked_for_again_if_on_error_says_so(way: Way) -> None:
    def on_error(error: Exception) -> int:
        assert isinstance(error, EventTooLarge)
        return 0

    plays = [Play(body=[EVENT + b"data: " + b"x" * 200]), Play(body=[b"data: b\n\n"])]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, max_event_size=100, on_error=on_error)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert stage.sent() == [None, "1", "1"]


@pytest.mark.parametrize("method", [{}, POST], ids=["GET", "POST"])
def test_attempts_where_nobody_listens(way: Way, method: dict[str, Any]) -> None:
    """Also to send what must not be sent twice: it was not sent at all."""
    with nobody() as url:
        for attempts in [1, 3, 5]:
            errors = Errors()
            policy = ReconnectPolicy(initial_delay=0.0, min_delay=0.0, initial_attempts=attempts)
            outcome = way.read(url, policy=policy, on_error=errors, **method)
            assert outcome.error is errors[-1]
            assert len(errors) == attempts
            for error in errors:
                assert isinstance(error, TransportError)
                assert (error.phase, error.sent) == ("connect", False)
        assert ReconnectPolicy().initial_attempts == 3


@BY_US
def test_attempts_before_the_first_answer(way: Way) -> None:
    with serve_stage(statuses(503, 502, 429, 500)) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 429
    assert len(stage.requests) == 3
    # Behind it, there is no limit.
    with serve_stage([*statuses(503, 502), Play(), *statuses(*[500] * 9)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert outcome.error is None
    assert len(stage.requests) == 13


@BY_US
def test_whatwg_goes_on_where_nobody_listens(way: Way) -> None:
    def on_error(error: Exception) -> None:
        errors.append(error)
        if len(errors) == 20:
            raise KeyError

    errors: list[Exception] = []
    policy = ReconnectPolicy.whatwg(initial_delay=0.0, min_delay=0.0)
    with nobody() as url:
        outcome = way.read(url, policy=policy, on_error=on_error)
    assert isinstance(outcome.error, KeyError)


@BY_US
def test_max_id_size(way: Way) -> None:
    def read(id: str, policy: ReconnectPolicy, start: str = "") -> tuple[Outcome, Stage]:
        body = f"id: {id}\ndata: a\n\n".encode()
        with serve_stage([Play(body=[body])]) as stage:
            return way.read(stage.url, policy=policy, last_event_id=start), stage

    small = ReconnectPolicy(initial_delay=0.0, min_delay=0.0, max_id_size=10)
    whatwg = ReconnectPolicy.whatwg(initial_delay=0.0, min_delay=0.0)
    # Counted in bytes, as it is sent.
    for policy, most in [(small, "é" * 5), (NO_DELAY, "x" * 8192)]:
        outcome, stage = read(most, policy)
        assert outcome.error is None
        assert stage.sent() == [None, most]

        outcome, stage = read(most + "y", policy)
        assert isinstance(outcome.error, StreamIncomplete)
        # The id may be a secret.
        assert most not in str(outcome.error)
        assert [event.data for event in outcome.events] == ["a"]
        assert len(stage.requests) == 1
        assert outcome.source.last_event_id == most + "y"

        outcome, stage = read("1", policy, start=most + "y")
        assert isinstance(outcome.error, StreamIncomplete)
        assert stage.requests == []

    outcome, stage = read("x" * 20_000, whatwg)
    assert outcome.error is None
    assert stage.sent() == [None, "x" * 20_000]


# -- How long --------------------------------------------------------------------------------------


def pings(seconds: float, *behind: bytes) -> Play:
    """A comment every so often; then nothing."""
    body = [*repeat(b": ping\n", round(seconds / PING)), *behind]
    return Play(body=body, framing="chunked", delay=PING * 1000, end="hang")


def check_idle_timeout(way: Way) -> None:
    """Comments keep the connection, silence does not."""
    attempts, errors = Attempts(), Errors()
    with serve_stage([pings(2 * TIMEOUT, EVENT)]) as stage:
        outcome = way.read(
            stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, headers=attempts, on_error=errors
        )
    assert [event.data for event in outcome.events] == ["a"]
    # On a busy machine, the answer to the second may be late as well.
    assert {type(error) for error in errors} == {StreamTimeout}
    assert set(stage.sent()[1:]) == {"1"}
    assert 3 * TIMEOUT < attempts.gaps[0] < 3 * TIMEOUT + LATE


def check_idle_timeout_of_what_must_not_be_sent_twice(way: Way) -> None:
    with serve_stage([pings(0.0, EVENT)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.source.last_event_id == "1"
    assert len(stage.requests) == 1


def check_idle_timeout_before_there_is_an_answer(way: Way) -> None:
    attempts = Attempts()
    silent = Play(framing="none", end="hang")
    with serve_stage([silent]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, headers=attempts)
    assert outcome.error is None
    assert len(stage.requests) >= 2
    assert TIMEOUT < attempts.gaps[0] < TIMEOUT + LATE

    with serve_stage([silent]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert len(stage.requests) == 1


def check_event_timeout(way: Way) -> None:
    """Comments do not help; and if nothing comes at all, it is one read timeout late at most."""
    attempts, errors = Attempts(), Errors()
    # The one of silence twice, as each waits for its head, too.
    quiet = pings(TIMEOUT / 2)
    with serve_stage([pings(10 * TIMEOUT), quiet, quiet]) as stage:
        outcome = way.read(
            stage.url, policy=NO_DELAY, event_timeout=TIMEOUT, headers=attempts, on_error=errors
        )
    assert outcome.error is None
    assert {type(error) for error in errors} == {StreamTimeout}
    by_clock, *by_silence = attempts.gaps[:3]
    assert TIMEOUT < by_clock < TIMEOUT + PING + LATE / 2
    assert TIMEOUT < min(by_silence) < 2 * TIMEOUT + LATE / 2


def check_event_timeout_of_what_must_not_be_sent_twice(way: Way) -> None:
    with serve_stage([pings(10 * TIMEOUT)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, event_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert len(stage.requests) == 1


def slow_consumer(way: Way, by_callback: bool) -> None:
    """While it does not wait for an event, none is late."""
    pause = 1.5 * UNHURRIED

    async def asleep(event: Any) -> None:
        await anyio.sleep(pause)

    def sleep(event: Any) -> None:
        time.sleep(pause)

    async def use(source: Any) -> None:
        if by_callback:
            await source.run(asleep if way.is_async else sleep)
            return
        async for event in source:
            if way.is_async:
                await asleep(event)
            else:
                sleep(event)

    errors = Errors()
    # It is quiet for too long, but nobody waits; the last event has long been there when it asks.
    body = [EVENT, EVENT + EVENT]
    delay = 1.2 * UNHURRIED * 1000
    with serve_stage([Play(body=body, framing="chunked", delay=delay)]) as stage:
        way.use(use, stage.url, policy=NO_DELAY, event_timeout=UNHURRIED, on_error=errors)
    assert errors == []
    assert len(stage.requests) == 2


def check_slow_consumer(way: Way) -> None:
    slow_consumer(way, by_callback=False)


def check_slow_on_message(way: Way) -> None:
    slow_consumer(way, by_callback=True)


@pytest.mark.parametrize(
    "check",
    [
        check_idle_timeout,
        check_idle_timeout_of_what_must_not_be_sent_twice,
        check_idle_timeout_before_there_is_an_answer,
        check_event_timeout,
        check_event_timeout_of_what_must_not_be_sent_twice,
        check_slow_consumer,
        check_slow_on_message,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
def test_in_time(way: Way, check: Callable[[Way], None]) -> None:
    # Not all at once: a client that is short of time would take the server for quiet.
    check_concurrently(check, way, 4)


def test_the_shorter_of_the_two_timeouts_counts() -> None:
    way = SOURCES["sse_fast"]
    for options in [
        {"idle_timeout": TIMEOUT, "event_timeout": 5.0},
        {"idle_timeout": 5.0, "event_timeout": TIMEOUT},
    ]:
        attempts = Attempts()
        with serve_stage([pings(0.0, EVENT)]) as stage:
            way.read(stage.url, policy=NO_DELAY, headers=attempts, **options)
        assert TIMEOUT < attempts.gaps[0] < TIMEOUT + LATE


def test_no_timeout() -> None:
    way = SOURCES["sse_fast"]
    with serve_stage([Play(body=[EVENT, EVENT], delay=3 * TIMEOUT * 1000)]) as stage:
        outcome = way.read(
            stage.url, policy=ReconnectPolicy.never(), idle_timeout=None, event_timeout=None
        )
    assert len(outcome.events) == 2
    assert outcome.source.end_reason is EndReason.END


@BY_US
def test_no_timeout_reaches_the_sockets(way: Way, stage: Stage) -> None:
    """As other time-outs do."""
    given: list[tuple[Any, ...]] = []

    async def use(given_source: Any) -> None:
        # What has the async face of it sends nothing itself.
        source = getattr(given_source, "_source", given_source)
        send = source._send_request

        def noted(request: Any, *timeouts: Any, **options: Any) -> Any:
            given.append(timeouts)
            return send(request, *timeouts, **options)

        source._send_request = noted
        assert (await given_source.open()).status == 200

    for options in [
        {"connect_timeout": None, "idle_timeout": None, "event_timeout": None},
        {"connect_timeout": 7.0, "idle_timeout": 8.0},
    ]:
        stage.plays = [Play(body=[EVENT])]
        stage.requests.clear()
        way.use(use, stage.url, policy=ReconnectPolicy.never(), **options)
    assert given == [(None, None), (7.0, 8.0)]


def test_an_end_that_comes_too_late_for_an_event_is_one() -> None:
    """The blocking client looks at the clock before a read, and not behind its end."""
    play = Play(body=[b": a\n\n", b": b\n\n"], delay=0.6 * TIMEOUT * 1000)
    with serve_stage([play]) as stage:
        outcome = SOURCES["sse_fast"].read(stage.url, method="POST", event_timeout=TIMEOUT)
    assert outcome.error is None
    assert outcome.source.end_reason is EndReason.END


@BY_US
def test_events_in_time(way: Way) -> None:
    """The clock starts anew with each."""
    body = list(chain.from_iterable([b": ping\n", EVENT] for _ in range(6)))
    with serve_stage([Play(body=body, delay=PING * 1000)]) as stage:
        outcome = way.read(stage.url, policy=ReconnectPolicy.never(), event_timeout=TIMEOUT)
    assert outcome.error is None
    assert len(outcome.events) == 6


@pytest.mark.parametrize("how", ["fin", "rst", "within an event"])
def test_cut_off_where_it_must_not_be_sent_twice(way: Way, how: str) -> None:
    cut = Play(body=[EVENT, b"id: 2\ndata: b"], framing="chunked-truncated", delay=10.0)
    if how == "rst":
        cut.end = "rst"
    if how == "within an event":
        cut.framing = "chunked"
    with serve_stage([cut]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, **POST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert isinstance(outcome.error.__cause__, TransportError) == (how != "within an event")
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.source.last_event_id == "1"
    assert len(stage.requests) == 1

    with serve_stage([cut]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, resend=True, **POST)
    assert outcome.error is None
    assert stage.sent() == [None, "1"]
    assert [(each.method, each.body) for each in stage.requests] == [("POST", b"x")] * 2


@BY_US
def test_the_end_of_what_must_not_be_sent_twice(way: Way) -> None:
    with serve_stage([Play(body=[EVENT])]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, **POST)
        assert outcome.source.end_reason is EndReason.END
        outcome = way.read(stage.url, policy=NO_DELAY)
        assert outcome.source.end_reason is EndReason.NO_CONTENT
    assert len(stage.requests) == 2

    with serve_stage([Play(body=[EVENT])]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, until="end", **POST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert len(stage.requests) == 1
