"""The differences of docs/migrating.md from requests-sse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
import requests
import requests_sse

from sse_fast import EventSource
from tests.support.migrating import (
    GONE,
    HELD,
    NUL,
    RESET,
    UNFINISHED,
    Waits,
    gets_it_at_once,
    goes_on_asking,
    read_ours,
    read_requests,
    run,
    shows,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import LIMIT, Play, serve_stage, stream
from tests.support.server import nobody


class LeaveError(Exception):
    """To get out of theirs."""


def leave(*_: Any) -> None:
    raise LeaveError


@shows("No delay", "requests-sse")
def test_no_delay_with_requests_sse() -> None:
    theirs = run(read_requests, HELD, timeout=0.3, on_error=leave)
    assert (theirs.data, type(theirs.error)) == ([], LeaveError)
    filler = b":" * 512 + b"\n"
    filled = Play(body=[b"data: 1\n\n" + filler], end="hang")
    assert run(read_requests, filled, timeout=LIMIT, stop_after=1).data == ["1"]
    assert gets_it_at_once(EventSource)


@shows("A CRLF that is cut in two", "requests-sse")
def test_a_crlf_that_is_cut_in_two() -> None:
    cut = stream(b"data: 1\r", b"\ndata: 2\r\n\r\n")
    assert run(read_requests, cut).data == ["1", "2"]
    assert run(read_ours, cut).data == ["1\n2"]


@shows("An event line without a name", "requests-sse")
def test_an_event_line_without_a_name() -> None:
    body = b"event:\ndata: 1\n\n"
    assert run(read_requests, stream(body)).events == [("", "1", "")]
    assert run(read_ours, stream(body)).events == [("message", "1", "")]


@shows("Ids", "requests-sse")
def test_ids_with_requests_sse() -> None:
    assert run(read_requests, stream(b"data: 1\n\n"), latest_event_id="7").ids == [""]
    assert run(read_ours, stream(b"data: 1\n\n"), last_event_id="7").ids == ["7"]
    assert run(read_requests, *RESET).sent == [None, b"5", b"5", b"5"]
    assert run(read_ours, *RESET).sent == [None, b"5", None, None]
    theirs = run(read_requests, UNFINISHED, stream(b"data: 3\n\n"))
    assert (theirs.data, theirs.ids) == (["3"], ["6"])
    ours = run(read_ours, UNFINISHED, stream(b"data: 3\n\n"))
    assert (ours.data, ours.ids) == (["3"], [""])
    theirs = run(read_requests, NUL)
    assert (theirs.ids, theirs.sent) == (["5", "a\0b"], [None, b"a\0b"])
    ours = run(read_ours, NUL)
    assert (ours.ids, ours.sent) == (["5", "5"], [None, b"5"])


@shows("Attempts", "requests-sse")
def test_attempts_of_requests_sse(waits: Waits) -> None:
    with nobody() as origin:
        assert isinstance(read_requests(origin).error, requests.ConnectionError)
    assert waits == [10, 20, 40, 80, 160]
    theirs = run(read_requests, stream(), *[GONE] * 9)
    assert (theirs.data, len(theirs.requests)) == (["a"], 1 + 6)
    goes_on_asking(read_ours, waits)


@shows("proxies and verify", "requests-sse")
def test_proxies_and_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[Any] = []
    send = requests.adapters.HTTPAdapter.send

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        verified.append(options["verify"])
        return send(self, *args, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", noted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "environment.pem")
    with serve_stage([stream()] * 2) as said, serve_stage([stream()]) as environment:
        monkeypatch.setenv("http_proxy", environment.origin)
        options: dict[str, Any] = {"verify": "ca.pem", "proxies": {"http": said.origin}}
        assert read_requests("http://127.0.0.1:9/", 1, **options).data == ["a"]
        for trust_env in (True, False):
            with requests.Session() as session:
                session.verify, session.proxies = options["verify"], options["proxies"]
                session.trust_env = trust_env
                assert read_ours("http://127.0.0.1:9/", 1, client=session).data == ["a"]
        assert (len(said.requests), len(environment.requests)) == (2, 1)
    assert verified == ["ca.pem", "environment.pem", "ca.pem"]


@contextmanager
def waiting(source: Any, gate: threading.Event) -> Iterator[threading.Thread]:
    """A thread that has read an event, and waits for the next."""
    got = threading.Event()

    def read_on() -> None:
        # What it is to end by, or what becomes of that.
        with suppress(requests.RequestException, ValueError, AttributeError):
            for _ in source:
                got.set()

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        assert got.wait(LIMIT)
        yield reader
    finally:
        gate.set()
        reader.join()


@shows("close() from another thread", "requests-sse")
def test_close_from_another_thread() -> None:
    for ours in (False, True):
        gate = threading.Event()
        waits_for_more = Play(body=[b"data: 1\n\n"], framing="chunked", end=gate)
        with serve_stage([waits_for_more]) as stage:
            source: Any = (EventSource if ours else requests_sse.EventSource)(stage.url)
            with source:
                closer = threading.Thread(target=source.close)
                with waiting(source, gate) as reader:
                    closer.start()
                    closer.join(LIMIT if ours else 0.3)
                    reader.join(LIMIT if ours else 0)
                    assert closer.is_alive() == reader.is_alive() == (not ours)
                closer.join()


@shows("Without with", "requests-sse")
def test_without_with() -> None:
    with serve_stage([stream()]) as stage:
        with (
            pytest.raises(ValueError, match="None"),
            closing(requests_sse.EventSource(stage.url)) as source,
        ):
            next(source)
        with closing(EventSource(stage.url)) as ours:
            assert next(ours).data == "a"


@shows("The origin after a redirect", "requests-sse")
def test_the_origin_after_a_redirect() -> None:
    with serve_stage([stream()] * 2) as far:
        away = Play(302, [("Location", far.url)], framing="length")
        with serve_stage([away] * 2) as near:
            with requests_sse.EventSource(near.url) as source:
                assert next(source).origin == near.origin
            with EventSource(near.url) as ours:
                next(ours)
                assert ours.response is not None
                assert ours.response.url == far.url
