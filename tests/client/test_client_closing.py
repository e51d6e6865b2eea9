"""close(): who wakes, and what `ready_state` says."""

from __future__ import annotations

import gc
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EndReason, EventSource, ReadyState, ResponseError, SSEError
from tests.support.clients import LIMIT, UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream
from tests.support.threaded_reader import (
    BLOCKING,
    EVERY,
    FAST,
    MUTE,
    SETTLED,
    SLOW,
    SOON,
    B,
    Reading,
    assert_quietly_over,
    quiet,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


# -- close() from another thread -------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("while_", ["head", "quiet", "backoff"])
def test_close_within_100_ms(way: Way, while_: str) -> None:
    """The best of some: a busy machine adds what it likes to the others."""
    play = {"head": MUTE, "quiet": quiet(b"data: a\n\n"), "backoff": stream(b"data: a\n\n")}[while_]
    best = SOON
    for _ in range(5):
        with serve_stage([play]) as stage, Reading(way, stage.url, policy=SLOW) as reading:
            wait_until(lambda: stage.requests if while_ == "head" else reading.data)
            time.sleep(SETTLED)
            best = min(best, reading.close())
        if best < 0.1:
            return
    pytest.fail(f"{best * 1000:.0f} ms")


@EVERY
def test_close_while_a_response_is_waited_for(way: Way, stage: Stage, record_property: Any) -> None:
    stage.plays = [MUTE, B]
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        time.sleep(SETTLED)
        assert reading.source.ready_state is ReadyState.CONNECTING
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert reading.data == []
    assert_quietly_over(reading, stage, 1)


# On asyncio, httpx and httpx2 leave the socket of a handshake that is cancelled to the collector.
@pytest.mark.filterwarnings(
    "ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed (<socket|transport):ResourceWarning",
)
@EVERY
def test_close_while_tls_is_waited_for(way: Way, stage: Stage, record_property: Any) -> None:
    """Of a server that speaks none, and says nothing else either."""
    url = stage.url.replace("http:", "https:")
    with Reading(way, url, policy=FAST) as reading:
        wait_until(lambda: stage.open == 1)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert_quietly_over(reading, stage, 0)
    gc.collect()


@pytest.mark.parametrize("framing", ["close", "chunked", "length-short"])
@EVERY
def test_close_while_a_refusal_is_read(
    way: Way, stage: Stage, framing: Any, record_property: Any
) -> None:
    """The body of it does not end by itself."""
    stage.plays = [Play(503, (), body=[b"busy"], framing=framing, end="hang"), B]
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert_quietly_over(reading, stage, 1)


@EVERY
def test_close_while_a_stream_is_quiet(way: Way, stage: Stage, record_property: Any) -> None:
    for play in (quiet(b"data: a\n\n"), Play(body=[b"data: a\n\n"], end="hang")):
        stage.requests.clear()
        stage.plays = [play, B]
        with Reading(way, stage.url, policy=FAST) as reading:
            wait_until(lambda reading=reading: reading.data)
            time.sleep(SETTLED)
            assert reading.source.ready_state is ReadyState.OPEN
            taken = reading.close()
            record_property("seconds", taken)
            print(f"{way}: {taken * 1000:.1f} ms")
            assert taken < SOON
        assert reading.data == ["a"]
        assert_quietly_over(reading, stage, 1)
        wait_until(lambda: stage.open == 0, SOON)


@EVERY
@pytest.mark.parametrize("before", ["error", "end", "retry"])
def test_close_while_an_attempt_is_waited_for(
    way: Way, stage: Stage, before: str, record_property: Any
) -> None:
    stage.plays = {
        "error": [Play(503, ()), B],
        "end": [stream(), B],
        "retry": [stream(b"retry: 30000\n\ndata: a\n\n"), B],
    }[before]
    policy = FAST if before == "retry" else SLOW
    errors: list[Exception] = []
    with Reading(way, stage.url, policy=policy, on_error=errors.append) as reading:
        wait_until(lambda: errors if before == "error" else reading.data)
        wait_until(lambda: reading.source.ready_state is ReadyState.CONNECTING)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert reading.data == ([] if before == "error" else ["a"])
    assert_quietly_over(reading, stage, 1)


@EVERY
def test_close_while_an_event_is_looked_at(way: Way, stage: Stage) -> None:
    """What arrived together with it is not handed over any more."""
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), B]
    closed = threading.Event()
    with Reading(way, stage.url, lambda event: closed.wait(LIMIT), policy=FAST) as reading:
        wait_until(lambda: reading.data)
        before = time.monotonic()
        reading.source.close()
        assert time.monotonic() - before < SOON
        closed.set()
        reading.join()
    assert reading.data == ["a"]
    assert_quietly_over(reading, stage, 1)
    # It was taken all the same, as the next one was asked for.
    assert reading.source.last_event_id == "1"


@EVERY
def test_close_in_the_loop(way: Way, stage: Stage) -> None:
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), B]
    outcome = way.read(stage.url, policy=FAST, on_event=lambda source, event: source.close())
    assert outcome.error is None
    assert outcome.plain == [("message", "a", "1")]
    assert outcome.source.end_reason is EndReason.CLOSED
    assert len(stage.requests) == 1
    wait_until(lambda: stage.open == 0, SOON)


@EVERY
def test_close_before_anything_was_asked(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        assert source.ready_state is ReadyState.CONNECTING
        assert source.end_reason is None
        source.close()
        source.close()
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is EndReason.CLOSED
        assert [event async for event in source] == []
        assert await source.run(print) is EndReason.CLOSED
        with pytest.raises(SSEError):
            await source.open()

    way.use(use, stage.url, policy=FAST)
    assert stage.requests == []


@EVERY
def test_close_after_the_end(way: Way, stage: Stage) -> None:
    """It changes nothing of why it ended."""

    async def use(source: Any) -> None:
        response = await source.open()
        assert response is source.response
        assert await source.open() is response
        assert source.ready_state is ReadyState.OPEN
        assert [event.data async for event in source] == ["a"]
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is EndReason.UNTIL
        for _ in range(2):
            source.close()
            await source.aclose()
            assert source.ready_state is ReadyState.CLOSED
            assert source.end_reason is EndReason.UNTIL
        assert [event async for event in source] == []

    stage.plays = [stream(), B]
    way.use(use, stage.url, policy=FAST, until=lambda event: True)
    assert len(stage.requests) == 1


def test_nothing_is_left_of_a_response_that_was_waited_for(stage: Stage) -> None:
    """Over sockets of our own; a library's call ends with its time-out, or with the server."""
    for way in SOURCES.values():
        if way.has_client:
            continue
        stage.requests.clear()
        stage.plays = [MUTE]
        threads = threading.active_count() - stage.open
        with Reading(way, stage.url) as reading:
            wait_until(lambda: stage.requests)
            reading.close()
        wait_until(lambda: stage.open == 0, SOON)
        wait_until(lambda threads=threads: threading.active_count() <= threads, SOON)


@pytest.mark.parametrize("way", BLOCKING, ids=str)
def test_a_response_that_comes_after_close_is_closed(way: Way, stage: Stage) -> None:
    """By what was left behind to wait for it."""
    closed = threading.Event()

    def plays(number: int, request: Request) -> Play:
        source.close()
        closed.wait(LIMIT)
        return quiet(b"data: a\n\n")

    stage.plays = plays
    with way.make_client() as client:
        source = EventSource(stage.url, client=client, policy=FAST)
        assert list(source) == []
        closed.set()
        wait_until(lambda: stage.open == 0, SOON)
    assert len(stage.requests) == 1


@EVERY
def test_close_in_the_midst_of_a_flood(way: Way, stage: Stage) -> None:
    """Whichever of its steps the reader is at, in whichever thread."""
    events = b"".join(b"id: %d\ndata: %d\n\n" % (number, number) for number in range(500))
    stage.plays = lambda number, request: stream(*[events] * 40, end="hang")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for attempt in range(6):
            with Reading(way, stage.url, policy=FAST) as reading:
                wait_until(lambda reading=reading: len(reading.data) > 1)
                time.sleep(0.0007 * attempt)
                taken = reading.close()
            assert reading.error is None
            assert taken < SOON
            # In order, without a gap.
            expected = [str(number % 500) for number in range(len(reading.data))]
            assert reading.data == expected
            assert reading.end_reason is EndReason.CLOSED
        assert len(stage.requests) == 6
    finally:
        sys.setswitchinterval(interval)


# -- ready_state -----------------------------------------------------------------------------------


@EVERY
def test_ready_state(way: Way, stage: Stage) -> None:
    """At each stage."""
    stage.plays = [Play(503, ()), stream(), stream(framing="chunked-truncated"), B]
    states: list[tuple[str, ReadyState]] = []

    async def use(source: Any) -> None:
        def note(what: str) -> Any:
            states.append((what, source.ready_state))

        box.append(note)
        note("new")
        async for event in source:
            note(event.data)
        note("end")

    def noting(what: str) -> Any:
        return lambda *args: box[0](what)

    box: list[Any] = []
    way.use(use, stage.url, policy=FAST, headers=noting("ask"), on_error=noting("error"))
    connecting, opened, closed = ReadyState
    assert states == [
        ("new", connecting),
        ("ask", connecting),
        ("error", connecting),
        ("ask", connecting),
        ("a", opened),
        ("ask", connecting),
        ("a", opened),
        ("error", connecting),
        ("ask", connecting),
        ("b", opened),
        ("ask", connecting),
        ("end", closed),
    ]


def test_ready_state_after_an_error(stage: Stage) -> None:
    stage.plays = [Play(404, ())]
    with pytest.raises(ResponseError), EventSource(stage.url) as source:
        pytest.fail("it has no events")
    source = EventSource(stage.url)
    stage.requests.clear()
    with pytest.raises(ResponseError):
        next(source)
    assert source.ready_state is ReadyState.CLOSED
    assert source.end_reason is EndReason.ERROR
    # An error is raised once, and then it is over.
    assert list(source) == []


# -- A Unix socket ---------------------------------------------------------------------------------


@contextmanager
def unix_socket(path: Path, stage: Stage) -> Iterator[None]:
    """What leads to the stage, for as long as the block runs."""

    def pass_on(one: socket.socket) -> None:
        with one, socket.create_connection(stage.server_address) as other:
            pairs = {one: other, other: one}
            while pairs and not over.is_set():
                for readable in select.select(list(pairs), [], [], 0.01)[0]:
                    received = readable.recv(65536)
                    if not received:
                        with suppress(OSError):
                            pairs[readable].shutdown(socket.SHUT_WR)
                        del pairs[readable]
                    else:
                        pairs[readable].sendall(received)

    def work(one: socket.socket) -> None:
        # The client may leave at any point.
        with suppress(OSError, KeyError):
            pass_on(one)

    def accept() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.setblocking(True)
                threads.append(threading.Thread(target=work, args=(connection,)))
                threads[-1].start()

    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.01)
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_a_unix_socket(name: str, stage: Stage, tmp_path: Path) -> None:
    stage.plays = [stream(), Play(302, [("Location", "/d?x")], framing="length"), B]
    with unix_socket(tmp_path / "s", stage):
        outcome = SOURCES[name].read("http://docker/c", uds=tmp_path / "s", policy=FAST)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.error is None
    assert [request.target for request in stage.requests] == ["/c", "/c", "/d?x", "/c"]
    assert {request.get("Host") for request in stage.requests} == {b"docker"}


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_a_unix_socket_leads_to_no_other_origin(name: str, stage: Stage, tmp_path: Path) -> None:
    """Which would be asked of the very same socket."""
    with serve_stage([B]) as there, unix_socket(tmp_path / "s", stage):
        stage.plays = [Play(302, [("Location", there.url)], framing="length"), B]
        outcome = SOURCES[name].read(stage.url, uds=tmp_path / "s", policy=FAST)
        assert isinstance(outcome.error, SSEError)
        assert [len(stage.requests), len(there.requests)] == [1, 0]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_close_wakes_a_reader_of_a_unix_socket(name: str, stage: Stage, tmp_path: Path) -> None:
    for play in (MUTE, quiet(b"data: a\n\n")):
        stage.requests.clear()
        stage.plays = [play]
        with unix_socket(tmp_path / "s", stage):
            with Reading(SOURCES[name], stage.url, uds=str(tmp_path / "s")) as reading:
                wait_until(lambda: stage.requests)
                time.sleep(SETTLED)
                assert reading.close() < SOON
            assert reading.error is None
        (tmp_path / "s").unlink()
