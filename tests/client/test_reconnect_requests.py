"""The requests of the state machine, and their Last-Event-ID."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

import sse_fast
from sse_fast import FatalError, ReadyState, ReconnectPolicy, RetriableError, StreamIncomplete
from sse_fast._client.reconnect import Reconnection
from sse_fast._request import Request
from tests.support import DATA
from tests.support.each import check_each
from tests.support.simulated_clock import (
    BODY,
    BY_GET_NO_ID,
    POLICIES,
    POST,
    REQUESTS,
    RESUME_REQUEST,
    URL,
    Driver,
    cut_off,
    failing,
    most_in_a_second,
    refused,
    reset_in_head,
    sent_id,
    slow_head,
)

# -- Requests that are repeated --------------------------------------------------------------------


FIELDS = (("Authorization", b"Bearer x"), ("Content-Type", b"application/json"))


def test_first_request_is_the_given_one() -> None:
    request = Request("GET", URL)
    machine = Reconnection(ReconnectPolicy(), request)
    assert machine.state is ReadyState.CONNECTING
    assert machine.begin(0.0) == request


def test_repeated_request_is_unchanged() -> None:
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
    "reconnect": lambda driver: driver.reconnect(),
    "number": lambda driver: driver.reconnect(1.0),
}


@pytest.mark.parametrize("consent", CONSENT.values(), ids=CONSENT)
@pytest.mark.parametrize("policy", POLICIES, ids=["default", "whatwg", "never"])
def test_consent_holds_for_one_attempt(
    policy: ReconnectPolicy, consent: Callable[[Driver], Any]
) -> None:
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


def test_consent_after_error_or_end_reconnects() -> None:
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
            assert driver.reconnection.state is ReadyState.CONNECTING
            assert driver.begin() == first
            assert sent_id(first) == b"7"


def test_consent_overrules_limits_but_counts() -> None:
    policy = ReconnectPolicy.never(max_elapsed=0)
    driver = Driver(policy, "POST")
    for number in range(40):
        driver.begin()
        driver.fail(RetriableError(delay=10)) if number % 2 else driver.reconnect(10)
    # Such attempts count nevertheless.
    driver.begin()
    assert driver.fail(refused()) is driver.error


def test_cancelled_attempt_repeats_only_safe_request() -> None:
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
            # The next call connects with the same id.
            assert driver.begin() == first
            continue
        assert driver.reconnection.state is ReadyState.CLOSED
        with pytest.raises(RuntimeError):
            driver.begin()


@pytest.mark.parametrize("who", REQUESTS)
def test_cancelled_stream_resumes_only_if_repeatable(who: str) -> None:
    driver = Driver(**REQUESTS[who]).open()
    driver.event("" if who.endswith("no id") else "7")
    error = driver.interrupt()
    if who in (POST, BY_GET_NO_ID):
        assert isinstance(error, StreamIncomplete)
        assert driver.reconnection.state is ReadyState.CLOSED
        return
    assert error is None
    assert sent_id(driver.begin()) == (None if who.endswith("no id") else b"7")


def test_cancelled_wait_keeps_time_and_consent() -> None:
    """The time of the next attempt stays, and so does the consent to repeat the request."""
    driver = Driver(method="POST", rng=1.0)
    driver.begin()
    assert driver.fail(refused()) == pytest.approx(1.1)
    driver.now += 0.5
    assert driver.interrupt() is None
    assert driver.reconnection.next_attempt_at == pytest.approx(1.1)
    driver.begin()
    driver.reconnect(5)
    assert driver.interrupt() is None
    assert driver.reconnection.next_attempt_at - driver.now == pytest.approx(5)
    driver.begin()


def test_cancelled_attempt_does_not_count() -> None:
    driver = Driver()
    for _ in range(10):
        driver.begin()
        driver.interrupt()
    # All three attempts are left.
    assert isinstance(failing(driver, 2), float)
    assert failing(driver, 1) is driver.error
    # A stream without an event does count.
    driver = Driver(ReconnectPolicy(max_attempts=1)).open()
    driver.interrupt()
    driver.open().interrupt()
    driver.open()
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_repeated_cancelling_is_rate_limited() -> None:
    driver = Driver()
    begun = []
    for number in range(100):
        driver.begin()
        begun.append(driver.now)
        if number % 3:
            driver.answer(200, content_type="text/event-stream")
        assert driver.interrupt() is None
    assert most_in_a_second(begun) == 10


def test_resume_get_sends_get_without_body() -> None:
    fields = (
        *FIELDS,
        ("content-length", b"2"),
        ("Accept", b"text/event-stream"),
        ("Content-Language", b"en"),
    )
    driver = Driver(method="POST", fields=fields, resume="get", last_event_id="1")
    # Before the first stream, it is the first request.
    assert driver.reconnection.resume_mode is None
    assert driver.begin().method == "POST"
    driver.fail(refused())
    again = driver.begin()
    assert (again.method, again.body, sent_id(again)) == ("POST", BODY, b"1")
    driver.answer(503)
    driver.open().event("7")
    assert driver.reconnection.resume_mode == "get"
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
        # This GET may be repeated.
        driver.answer(500)
        assert driver.begin() == rest
        driver.answer(200, content_type="text/event-stream")


@pytest.mark.parametrize("blank", ["", " ", " \t "])
def test_resume_get_always_has_last_event_id(blank: str) -> None:
    """A GET without Last-Event-ID would not ask for the rest."""
    driver = Driver(method="POST", resume="get").open().event(blank)
    verdict = driver.fail(cut_off())
    if isinstance(verdict, float):
        assert sent_id(driver.begin()) is not None
        return
    assert isinstance(verdict, StreamIncomplete)


def test_resume_get_without_id_is_the_first_request() -> None:
    """There is no rest to ask for, so the program has to consent each time."""
    driver = Driver(method="POST", fields=FIELDS, resume="get")
    first = driver.begin()
    driver.answer(200, content_type="text/event-stream")
    for _ in range(2):
        driver.reconnect()
        assert driver.begin() == first
        driver.answer(200, content_type="text/event-stream")
    assert isinstance(driver.fail(cut_off()), StreamIncomplete)


def test_resume_get_after_id_reset_is_the_first_request() -> None:
    """The first request must not be repeated without consent."""
    driver = Driver(method="POST", resume="get").open().event("7")
    driver.fail(cut_off())
    assert driver.begin().method == "GET"
    driver.answer(200, content_type="text/event-stream")
    assert isinstance(driver.event("").fail(cut_off()), StreamIncomplete)
    driver.reconnect()
    assert driver.begin().method == "POST"


def test_resume_callable_may_set_last_event_id() -> None:
    resume_request = RESUME_REQUEST._replace(fields=(("last-event-id", b"8"),))
    driver = Driver(resume="call", resume_request=resume_request).open().event("7")
    driver.end()
    assert driver.begin() == resume_request


def test_resume_callable_is_used_after_first_response() -> None:
    resume_request = Request("PUT", "https://b.example/rest", (("X-Key", b"1"),), b"rest")
    driver = Driver(method="POST", fields=FIELDS, resume="call", resume_request=resume_request)
    assert driver.reconnection.resume_mode is None
    assert driver.begin() == Request("POST", URL, FIELDS, BODY)
    driver.fail(refused())
    assert driver.begin().method == "POST"
    driver.answer(503)
    driver.open()
    assert driver.reconnection.resume_mode == "call"
    driver.fail(cut_off())
    assert driver.begin() == resume_request
    driver.fail(slow_head())
    driver.open().event("7")
    driver.fail(cut_off())
    assert driver.begin() == resume_request._replace(
        fields=(("X-Key", b"1"), ("Last-Event-ID", b"7"))
    )


# -- Last-Event-ID ---------------------------------------------------------------------------------


VECTORS = [
    vector
    for vector in json.loads((DATA / "vectors.json").read_bytes())
    if "last_event_id_header" in vector
]


def test_vectors_with_last_event_id_are_complete() -> None:
    assert len(VECTORS) == 395
    assert sum(vector["last_event_id_header"] is not None for vector in VECTORS) == 59


def test_last_event_id_matches_browsers() -> None:
    check_each(((vector["name"], vector) for vector in VECTORS), check_last_event_id)


def check_last_event_id(vector: dict[str, Any]) -> None:
    header = vector["last_event_id_header"]
    # If the standard and Chromium differ, take the id of the standard.
    last_event_id = vector.get("spec", vector)["last_event_id"]
    driver = Driver(ReconnectPolicy.whatwg()).open().event(last_event_id)
    driver.end()
    assert sent_id(driver.begin()) == (None if header is None else base64.b64decode(header))


@pytest.mark.parametrize(
    ("last_event_id", "expected"),
    [
        ("", None),
        # It is not empty, so browsers send what is left after trimming.
        (" \t ", b""),
        ("7", b"7"),
        (" \t7 \t8\t ", b"7 \t8"),
        ("é€🚀", "é€🚀".encode()),
        # Only space and tab are trimmed.
        ("\u00a07\u3000", "\u00a07\u3000".encode()),
        ("\x0b7\x0c", b"\x0b7\x0c"),
    ],
)
def test_last_event_id_is_trimmed_utf8(last_event_id: str, expected: bytes | None) -> None:
    # Both the first request and a later one.
    driver = Driver(last_event_id=last_event_id)
    assert sent_id(driver.begin()) == expected
    driver.answer(503)
    assert sent_id(driver.begin()) == expected


def test_last_event_id_follows_events() -> None:
    driver = Driver(last_event_id="1").open()
    ids = []
    for last_event_id in ("2", None, "3", ""):
        driver.event(last_event_id).end()
        ids.append(sent_id(driver.begin()))
        driver.answer(200, content_type="text/event-stream")
    assert ids == [b"2", b"2", b"3", None]


def test_last_event_id_replaces_field_of_caller() -> None:
    driver = Driver(fields=[("LAST-event-id", b"1"), ("X-Key", b"2")])
    assert sent_id(driver.begin()) == b"1"
    driver.answer(200, content_type="text/event-stream")
    driver.event("7").end()
    assert sent_id(driver.begin()) == b"7"


@pytest.mark.parametrize("make", [sse_fast.EventSource, sse_fast.AsyncEventSource])
def test_starting_id_with_control_characters_raises(make: Any) -> None:
    for last_event_id in ("a\rb", "a\nb", "a\0b", "\n"):
        with pytest.raises(ValueError, match=r"^last_event_id must not contain (CR|LF|NUL)"):
            make("http://a.example/", last_event_id=last_event_id)


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        (ReconnectPolicy(), 8192),
        (ReconnectPolicy(max_id_size=5), 5),
        (ReconnectPolicy.never(), 8192),
    ],
)
def test_id_over_max_id_size_raises_incomplete(policy: ReconnectPolicy, limit: int) -> None:
    # The limit is in bytes.
    fitting = "é" * (limit // 2) + "x" * (limit % 2)
    driver = Driver(policy, last_event_id=fitting)
    assert sent_id(driver.begin()) == fitting.encode()
    driver.answer(200, content_type="text/event-stream")
    driver.event(fitting + "x")
    driver.reconnect()
    with pytest.raises(StreamIncomplete) as caught:
        driver.begin()
    assert "é" not in str(caught.value)
    # The error is final, and the id is kept.
    assert driver.fail(caught.value) is caught.value
    assert driver.reconnection.state is ReadyState.CLOSED
    assert driver.reconnection.last_event_id == fitting + "x"


def test_whatwg_has_no_max_id_size() -> None:
    for policy in (ReconnectPolicy.whatwg(), ReconnectPolicy(max_id_size=None)):
        driver = Driver(policy, last_event_id="x" * 10**6)
        assert sent_id(driver.begin()) == b"x" * 10**6
    with pytest.raises(StreamIncomplete):
        Driver(ReconnectPolicy.whatwg(max_id_size=5), last_event_id="123456").begin()
