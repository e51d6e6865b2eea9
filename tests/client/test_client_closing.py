"""close() wakes whatever waits, and `ready_state` tells the state of a source."""

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
from tests.support.eventsources import ADAPTERS, BY_US, SOURCES, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream
from tests.support.threaded_reader import (
    EVERY_ADAPTER,
    EVERY_WAY,
    LONG_DELAY,
    PROMPT_SECONDS,
    SHORT_DELAY,
    SILENCE,
    STREAM_B,
    SYNC_WAYS,
    ThreadedReader,
    assert_closed_quietly,
    each_way,
    quiet_stream,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


# -- close() from another thread -------------------------------------------------------------------


@EVERY_WAY
@pytest.mark.parametrize("phase", ["head", "quiet", "backoff"])
def test_close_ends_reading_within_100_ms(way: Way, phase: str) -> None:
    """The best of five counts, since a busy machine delays the others."""
    play = {
        "head": SILENCE,
        "quiet": quiet_stream(b"data: a\n\n"),
        "backoff": stream(b"data: a\n\n"),
    }[phase]
    best = PROMPT_SECONDS
    for _ in range(5):
        with (
            serve_stage([play]) as stage,
            ThreadedReader(way, stage.url, policy=LONG_DELAY) as reader,
        ):
            reader.wait_until_blocked(
                lambda stage=stage, reader=reader: (
                    stage.requests if phase == "head" else reader.data
                )
            )
            best = min(best, reader.close())
        if best < 0.1:
            return
    pytest.fail(f"{best * 1000:.0f} ms")


@EVERY_ADAPTER
def test_close_wakes_reader_that_waits_for_response(way: Way, stage: Stage) -> None:
    stage.plays = [SILENCE, STREAM_B]
    with ThreadedReader(way, stage.url, policy=SHORT_DELAY) as reader:
        reader.wait_until_blocked(lambda: stage.requests)
        assert reader.source.ready_state is ReadyState.CONNECTING
        taken = reader.close()
    assert taken < PROMPT_SECONDS
    assert reader.data == []
    assert_closed_quietly(reader, stage, 1)


# Under asyncio, httpx and httpx2 leave the socket of a cancelled handshake to the collector.
@pytest.mark.filterwarnings(
    "ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed (<socket|transport):ResourceWarning",
)
@EVERY_ADAPTER
def test_close_wakes_reader_in_tls_handshake(way: Way, stage: Stage) -> None:
    """The server never answers the handshake."""
    url = stage.url.replace("http:", "https:")
    with ThreadedReader(way, url, policy=SHORT_DELAY) as reader:
        reader.wait_until_blocked(lambda: stage.open == 1)
        taken = reader.close()
    assert taken < PROMPT_SECONDS
    assert_closed_quietly(reader, stage, 0)
    gc.collect()


@pytest.mark.parametrize("framing", ["close", "chunked", "length-short"])
@EVERY_ADAPTER
def test_close_wakes_reader_of_refusal_body(way: Way, stage: Stage, framing: Any) -> None:
    """The body of the refusal does not end by itself."""
    stage.plays = [Play(503, (), body=[b"busy"], framing=framing, end="hang"), STREAM_B]
    with ThreadedReader(way, stage.url, policy=SHORT_DELAY) as reader:
        reader.wait_until_blocked(lambda: stage.requests)
        taken = reader.close()
    assert taken < PROMPT_SECONDS
    assert_closed_quietly(reader, stage, 1)


@EVERY_ADAPTER
def test_close_wakes_reader_of_quiet_stream(way: Way, stage: Stage) -> None:
    for play in (quiet_stream(b"data: a\n\n"), Play(body=[b"data: a\n\n"], end="hang")):
        stage.requests.clear()
        stage.plays = [play, STREAM_B]
        with ThreadedReader(way, stage.url, policy=SHORT_DELAY) as reader:
            reader.wait_until_blocked(lambda reader=reader: reader.data)
            assert reader.source.ready_state is ReadyState.OPEN
            taken = reader.close()
            assert taken < PROMPT_SECONDS
        assert reader.data == ["a"]
        assert_closed_quietly(reader, stage, 1)
        wait_until(lambda: stage.open == 0, PROMPT_SECONDS)


@EVERY_WAY
@pytest.mark.parametrize("cause", ["error", "end", "retry"])
def test_close_wakes_reader_that_waits_for_next_attempt(way: Way, stage: Stage, cause: str) -> None:
    stage.plays = {
        "error": [Play(503, ()), STREAM_B],
        "end": [stream(), STREAM_B],
        "retry": [stream(b"retry: 30000\n\ndata: a\n\n"), STREAM_B],
    }[cause]
    policy = SHORT_DELAY if cause == "retry" else LONG_DELAY
    errors: list[Exception] = []
    with ThreadedReader(way, stage.url, policy=policy, on_error=errors.append) as reader:
        wait_until(lambda: errors if cause == "error" else reader.data)
        reader.wait_until_blocked(lambda: reader.source.ready_state is ReadyState.CONNECTING)
        taken = reader.close()
    assert taken < PROMPT_SECONDS
    assert reader.data == ([] if cause == "error" else ["a"])
    assert_closed_quietly(reader, stage, 1)


@EVERY_WAY
def test_close_while_event_is_processed_delivers_no_other(way: Way, stage: Stage) -> None:
    """An event that arrived together with it is not delivered any more."""
    stage.plays = [quiet_stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), STREAM_B]
    closed = threading.Event()
    with ThreadedReader(
        way, stage.url, lambda event: closed.wait(LIMIT), policy=SHORT_DELAY
    ) as reader:
        wait_until(lambda: reader.data)
        before = time.monotonic()
        reader.source.close()
        assert time.monotonic() - before < PROMPT_SECONDS
        closed.set()
        reader.join()
    assert reader.data == ["a"]
    assert_closed_quietly(reader, stage, 1)
    # The event counts as taken, as the next one was asked for.
    assert reader.source.last_event_id == "1"


@EVERY_WAY
def test_close_in_the_loop_ends_it(way: Way, stage: Stage) -> None:
    stage.plays = [quiet_stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), STREAM_B]
    outcome = way.read(stage.url, policy=SHORT_DELAY, on_event=lambda source, event: source.close())
    assert outcome.error is None
    assert outcome.plain == [("message", "a", "1")]
    assert outcome.source.end_reason is EndReason.CLOSED
    assert len(stage.requests) == 1
    wait_until(lambda: stage.open == 0, PROMPT_SECONDS)


@EVERY_WAY
def test_close_before_first_request_sends_none(way: Way, stage: Stage) -> None:
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

    way.use(use, stage.url, policy=SHORT_DELAY)
    assert stage.requests == []


@EVERY_WAY
def test_close_after_the_end_keeps_end_reason(way: Way, stage: Stage) -> None:
    """The end reason stays."""

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

    stage.plays = [stream(), STREAM_B]
    way.use(use, stage.url, policy=SHORT_DELAY, until=lambda event: True)
    assert len(stage.requests) == 1


@BY_US
def test_close_before_response_leaves_no_thread(way: Way, stage: Stage) -> None:
    """A library's call may go on until its timeout, so this is about our own transport."""
    stage.plays = [SILENCE]
    threads = threading.active_count() - stage.open
    with ThreadedReader(way, stage.url) as reader:
        wait_until(lambda: stage.requests)
        reader.close()
    wait_until(lambda: stage.open == 0, PROMPT_SECONDS)
    wait_until(lambda: threading.active_count() <= threads, PROMPT_SECONDS)


@each_way(SYNC_WAYS, ADAPTERS)
def test_response_after_close_is_closed(way: Way, stage: Stage) -> None:
    """The thread that still waits for the response closes it."""
    closed = threading.Event()

    def plays(number: int, request: Request) -> Play:
        source.close()
        closed.wait(LIMIT)
        return quiet_stream(b"data: a\n\n")

    stage.plays = plays
    with way.make_client() as client:
        source = EventSource(stage.url, client=client, policy=SHORT_DELAY)
        assert list(source) == []
        closed.set()
        wait_until(lambda: stage.open == 0, PROMPT_SECONDS)
    assert len(stage.requests) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue of connections is needed")
def test_connection_made_after_close_is_ended() -> None:
    """The thread that still connects ends the connection, instead of waiting for a response."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # Linux drops the handshake of a connection that finds no place, and the client's kernel
        # repeats it after a second.
        with socket.create_connection(address):
            url = f"http://{address[0]}:{address[1]}/"
            # The timeout of the client must not be what ends the connection.
            with ThreadedReader(SOURCES["sse_fast"], url, idle_timeout=3 * LIMIT) as reader:
                reader.wait_until_blocked()
                reader.close()
            listener.accept()[0].close()
            listener.settimeout(LIMIT)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(LIMIT)
                with suppress(ConnectionError):
                    while connection.recv(65536):
                        pass


@EVERY_WAY
def test_close_during_many_events_leaves_no_gap(way: Way, stage: Stage) -> None:
    """close() may come at any step of the reader, from any thread."""
    events = b"".join(b"id: %d\ndata: %d\n\n" % (number, number) for number in range(500))
    stage.plays = lambda number, request: stream(*[events] * 40, end="hang")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for attempt in range(6):
            with ThreadedReader(way, stage.url, policy=SHORT_DELAY) as reader:
                wait_until(lambda reader=reader: len(reader.data) > 1)
                time.sleep(0.0007 * attempt)
                taken = reader.close()
            assert reader.error is None
            assert taken < PROMPT_SECONDS
            # The events are in order, without a gap.
            expected = [str(number % 500) for number in range(len(reader.data))]
            assert reader.data == expected
            assert reader.end_reason is EndReason.CLOSED
        assert len(stage.requests) == 6
    finally:
        sys.setswitchinterval(interval)


# -- ready_state -----------------------------------------------------------------------------------


@EVERY_WAY
def test_ready_state_at_each_moment(way: Way, stage: Stage) -> None:
    stage.plays = [Play(503, ()), stream(), stream(framing="chunked-truncated"), STREAM_B]
    states: list[tuple[str, ReadyState]] = []

    async def use(source: Any) -> None:
        sources.append(source)
        record("new")
        async for event in source:
            record(event.data)
        record("end")

    def record(moment: str) -> None:
        states.append((moment, sources[0].ready_state))

    sources: list[Any] = []
    way.use(
        use,
        stage.url,
        policy=SHORT_DELAY,
        headers=lambda: record("headers"),
        on_open=lambda response: record(f"open {response.status}"),
        on_error=lambda error: record("error"),
    )
    connecting, opened, closed = ReadyState
    assert states == [
        ("new", connecting),
        ("headers", connecting),
        ("open 503", connecting),
        ("error", connecting),
        ("headers", connecting),
        ("open 200", opened),
        ("a", opened),
        ("headers", connecting),
        ("open 200", opened),
        ("a", opened),
        ("error", connecting),
        ("headers", connecting),
        ("open 200", opened),
        ("b", opened),
        ("headers", connecting),
        ("open 204", connecting),
        ("end", closed),
    ]


def test_ready_state_closed_after_error(stage: Stage) -> None:
    stage.plays = [Play(404, ())]
    with pytest.raises(ResponseError), EventSource(stage.url) as source:
        pytest.fail("an event of a 404")
    source = EventSource(stage.url)
    stage.requests.clear()
    with pytest.raises(ResponseError):
        next(source)
    assert source.ready_state is ReadyState.CLOSED
    assert source.end_reason is EndReason.ERROR
    # Afterwards, the source says that it has raised, and how to go on.
    for _ in range(2):
        with pytest.raises(SSEError, match=r"ResponseError: call reconnect\(\)"):
            next(source)
    with pytest.raises(SSEError, match=r"reconnect\(\)"):
        source.open()
    source.close()
    assert list(source) == []


NEEDS_UNIX_SOCKETS = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets"
)

# -- A Unix socket ---------------------------------------------------------------------------------


@contextmanager
def unix_socket(path: Path, stage: Stage) -> Iterator[None]:
    """Forward connections to the Unix socket at `path` to the server, within the block."""

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection(stage.server_address) as server:
            pairs = {client: server, server: client}
            while pairs and not stopping.is_set():
                for readable in select.select(list(pairs), [], [], 0.01)[0]:
                    received = readable.recv(65536)
                    if not received:
                        with suppress(OSError):
                            pairs[readable].shutdown(socket.SHUT_WR)
                        del pairs[readable]
                    else:
                        pairs[readable].sendall(received)

    def work(client: socket.socket) -> None:
        # The client may leave at any point.
        with suppress(OSError, KeyError):
            forward(client)

    def accept() -> None:
        while not stopping.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.setblocking(True)
                threads.append(threading.Thread(target=work, args=(connection,)))
                threads[-1].start()

    stopping = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.01)
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()


@NEEDS_UNIX_SOCKETS
@BY_US
def test_uds_requests_over_unix_socket(way: Way, stage: Stage, tmp_path: Path) -> None:
    stage.plays = [stream(), Play(302, [("Location", "/d?x")], framing="length"), STREAM_B]
    with unix_socket(tmp_path / "s", stage):
        outcome = way.read("http://docker/c", uds=tmp_path / "s", policy=SHORT_DELAY)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.error is None
    assert [request.target for request in stage.requests] == ["/c", "/c", "/d?x", "/c"]
    assert {request.get("Host") for request in stage.requests} == {b"docker"}


@NEEDS_UNIX_SOCKETS
@BY_US
def test_uds_redirect_to_other_origin_raises(way: Way, stage: Stage, tmp_path: Path) -> None:
    """Otherwise, the request for the other origin would go to the same socket."""
    with serve_stage([STREAM_B]) as other, unix_socket(tmp_path / "s", stage):
        stage.plays = [Play(302, [("Location", other.url)], framing="length"), STREAM_B]
        outcome = way.read(stage.url, uds=tmp_path / "s", policy=SHORT_DELAY)
        assert isinstance(outcome.error, SSEError)
        assert [len(stage.requests), len(other.requests)] == [1, 0]


@NEEDS_UNIX_SOCKETS
@BY_US
def test_close_wakes_reader_of_unix_socket(way: Way, stage: Stage, tmp_path: Path) -> None:
    for play in (SILENCE, quiet_stream(b"data: a\n\n")):
        stage.requests.clear()
        stage.plays = [play]
        with unix_socket(tmp_path / "s", stage):
            with ThreadedReader(way, stage.url, uds=str(tmp_path / "s")) as reader:
                reader.wait_until_blocked(lambda: stage.requests)
                assert reader.close() < PROMPT_SECONDS
            assert reader.error is None
        (tmp_path / "s").unlink()
