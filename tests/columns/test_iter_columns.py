"""Sources that arrive in chunks: where batches are cut, how they end, how they are closed."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sse_fast import (
    EventTooLarge,
    ResponseError,
    StreamTimeout,
    TransportError,
    iter_columns,
    read_columns,
)
from sse_fast.columns import _readers
from tests.support.clients import OPENERS
from tests.support.columnar import MIXED, each_type, interpret_blocks, iterate, rows_of, segments_of
from tests.support.reference import cut
from tests.support.server import Answer, Server
from tests.support.threaded_reader import wait_until, wait_until_blocked

EXPECTED = interpret_blocks(MIXED)
# The adapters are tested in their room: one library is enough for what `iter_columns` adds.
one_opener = pytest.mark.parametrize(
    "opener",
    [
        pytest.param(opener, id=name, marks=[] if name == "urllib3" else [pytest.mark.matrix])
        for name, opener in OPENERS.items()
    ],
)


def numbered(count: int, start: int = 0) -> bytes:
    return b"".join(b"id: %d\ndata: %d\n\n" % (n, n) for n in range(start, start + count))


def data_of(batch: Any) -> list[str]:
    return [row[1] for row in rows_of(batch)]


def texts(start: int, stop: int) -> list[str]:
    return list(map(str, range(start, stop)))


# -- Sources ---------------------------------------------------------------------------------------


def test_iterables_and_files_are_read(tmp_path: Path) -> None:
    chunks = cut(MIXED, range(9, len(MIXED), 9))
    path = tmp_path / "capture"
    path.write_bytes(MIXED)
    assert iterate(chunks) == iterate(iter(chunks)) == iterate(each for each in chunks) == EXPECTED
    assert iterate(map(bytearray, chunks)) == iterate(map(memoryview, chunks)) == EXPECTED
    assert iterate(io.BytesIO(MIXED)) == EXPECTED
    for buffering in (0, -1):
        with open(path, "rb", buffering=buffering) as file:
            assert iterate(file) == EXPECTED
            assert not file.closed
    assert iterate(path) == iterate(str(path)) == iterate([path]) == EXPECTED
    assert iterate([]) == iterate(b"") == ([], "", False, 0, None)


def test_pipe_delivers_batches_as_they_arrive() -> None:
    near, far = os.pipe()
    with open(near, "rb") as source, open(far, "wb", buffering=0) as sink:
        stream = iter_columns(source, batch_size=1)
        sink.write(b"data: a\n\ndat")
        assert data_of(next(stream)) == ["a"]
        sink.write(b"a: b\n\n")
        assert data_of(next(stream)) == ["b"]
        sink.close()
        assert next(stream, None) is None
        assert not source.closed


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_response_of_any_client_is_read(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer(cut(MIXED, range(50, len(MIXED), 50)))
    with opener(server.url + "/") as response:
        stream = iter_columns(response, batch_size=3, offset=True)
        rows = [row for batch in stream for row in rows_of(batch)]
        assert rows == EXPECTED.rows
        assert (stream.last_event_id, stream.pending) == EXPECTED[1:3]
        assert stream.position == len(MIXED)
        assert stream.response is not None
        assert stream.response.status == 200


@one_opener
def test_response_of_wrong_type_raises(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"data: a\n\n"], headers={"Content-Type": "text/html"})
    refused = pytest.raises(ResponseError, match="'text/event-stream', got 'text/html'")
    with opener(server.url + "/") as response, refused:
        iter_columns(response)
    with opener(server.url + "/") as response:
        assert data_of(next(iter_columns(response, check=False))) == ["a"]


@one_opener
def test_response_without_content_ends(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([], "length", 204, {})
    with opener(server.url + "/") as response:
        assert list(iter_columns(response)) == []


@one_opener
def test_truncated_body_raises_after_its_events(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([numbered(3) + b"data: 3"], "cut")
    with opener(server.url + "/") as response:
        stream = iter_columns(response)
        assert data_of(next(stream)) == texts(0, 3)
        with pytest.raises(TransportError):
            next(stream)
        assert next(stream, None) is None
        assert stream.last_event_id == "2"
        assert stream.pending


def test_invalid_source_raises(tmp_path: Path) -> None:
    async def chunks() -> Any:
        yield b""

    for source in (chunks(), 5, None, object(), io.StringIO("data: a\n\n")):
        with pytest.raises(TypeError):
            iter_columns(source)
        with pytest.raises(TypeError, match="Expected bytes, a path or a sequence of paths"):
            read_columns(source)
    with pytest.raises(
        TypeError, match="async body, which cannot be read here: use a synchronous client"
    ):
        iter_columns(chunks())
    with pytest.raises(TypeError, match="iter_columns"):
        read_columns([b"data: a\n\n"])
    with pytest.raises(TypeError, match="chunks of bytes from the source, got str"):
        next(iter_columns(["not a path", b""]))
    with pytest.raises(BufferError):
        read_columns(memoryview(b"data: a\n\n")[::2])
    for function in (read_columns, iter_columns):
        with pytest.raises(TypeError, match="A URL is not a path"):
            function("https://127.0.0.1/events")
    for path in (tmp_path, str(tmp_path), tmp_path / "none"):
        with pytest.raises(OSError):
            read_columns(path)
        with pytest.raises(OSError):
            next(iter_columns(path))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads": 0}, ValueError),
        ({"threads": True}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 2**31}, ValueError),
        ({"batch_size": 1.0}, TypeError),
        ({"max_event_size": 0}, ValueError),
        ({"max_event_size": 2**28 + 1, "data_type": "string_view"}, ValueError),
        ({"data_type": "string"}, ValueError),
        ({"oversize": "ignore"}, ValueError),
        ({"on_error": "ignore"}, ValueError),
        ({"oversize": "skip", "on_error": "skip"}, TypeError),
        ({"last_event_id": "a\nb"}, ValueError),
        ({"last_event_id": b"a"}, TypeError),
        ({"batch_bytes": 0}, ValueError),
        ({"batch_seconds": -1}, ValueError),
        ({"batch_seconds": float("nan")}, ValueError),
    ],
)
def test_invalid_option_raises(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        iter_columns(b"", **options)
    if not options.keys() & {"batch_bytes", "batch_seconds"}:
        with pytest.raises(error):
            read_columns(b"", **options)


# -- Where batches are cut -------------------------------------------------------------------------


def test_batch_bytes_counts_source() -> None:
    stream = b"data: 1\n\n:" + b"." * 100 + b"\ndata: 2\n\ndata: 3\n\ndata: 4\n\n"
    for source in ([stream], cut(stream, range(1, len(stream)))):
        batches = list(iter_columns(source, batch_bytes=110))
        assert list(map(data_of, batches)) == [["1", "2"], ["3", "4"]]
    batches = list(iter_columns([numbered(1000)], batch_bytes=100))
    assert all(5 < len(batch) < 9 for batch in batches[:-1])


def test_batch_bytes_at_every_event_border() -> None:
    stream = b"data: 1\n\n" * 12
    for source in ([stream], cut(stream, range(1, len(stream)))):
        for size, count in ((1, 1), (9, 1), (10, 2), (18, 2), (19, 3), (27, 3)):
            batches = iter_columns(source, batch_bytes=size)
            assert [len(batch) for batch in batches] == [count] * (12 // count)


def test_batch_bytes_counts_copied_text() -> None:
    """A long id is copied into each row."""
    stream = b"id: " + b"i" * 1000 + b"\n\n" + b"data\n\n" * 100
    batches = list(iter_columns([stream], batch_bytes=5000))
    assert [len(batch) for batch in batches] == [5] * 20
    # With views, there is one copy.
    assert len(list(iter_columns([stream], batch_bytes=5000, data_type="string_view"))) == 1


def test_batch_seconds_cuts_when_bytes_arrive() -> None:
    clock = 0.0

    def chunks() -> Iterator[bytes]:
        nonlocal clock
        for number, seconds in enumerate([0, 4, 5, 6, 30, 1, 20]):
            clock += seconds
            yield numbered(1, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_readers.time, "monotonic", lambda: clock)
        batches = list(map(data_of, iter_columns(chunks(), batch_seconds=10)))
        assert batches == [["0", "1", "2", "3"], ["4", "5", "6"]]
        clock = 0.0
        assert list(map(data_of, iter_columns(chunks(), batch_seconds=0))) == [
            [str(number)] for number in range(7)
        ]
        clock = 0.0
        assert list(map(data_of, iter_columns(chunks(), batch_seconds=10, batch_size=3))) == [
            ["0", "1", "2"],
            ["3", "4"],
            ["5", "6"],
        ]
        clock = 0.0
        assert len(list(iter_columns(chunks()))) == 1


@each_type
def test_flush_returns_rows_so_far(data_type: str) -> None:
    flushed: list[Any] = []

    def chunks() -> Iterator[bytes]:
        for number in range(10):
            yield numbered(1, number) + b"data: un"
            if number % 4 == 3:
                flushed.append(stream.flush())
                assert stream.flush() is None
                assert stream.last_event_id == str(number)
            yield b"finished\n\n"

    stream = iter_columns(chunks(), data_type=data_type)
    assert stream.flush() is None
    last = next(stream)
    rows = [row[1] for batch in [*flushed, last] for row in rows_of(batch)]
    assert rows == [text for n in range(10) for text in (str(n), "unfinished")]
    assert [len(batch) for batch in [*flushed, last]] == [7, 8, 5]
    assert iter_columns(MIXED).flush() is None


def test_on_chunk_and_position_follow_the_chunks() -> None:
    seen: list[bytes] = []
    chunks = cut(MIXED, range(70, len(MIXED), 70))
    stream = iter_columns(iter(chunks), batch_size=1, on_chunk=seen.append)
    assert (stream.position, seen) == (0, [])
    next(stream)
    assert (stream.position, seen) == (70, chunks[:1])
    for _ in stream:
        assert stream.position == sum(map(len, seen))
    assert seen == chunks
    with segments_of(50):
        stream = iter_columns(MIXED)
        positions = [stream.position for _ in stream]
        assert 0 < positions[0] < 120
        assert positions == sorted(positions)
    assert stream.position == len(MIXED)


def test_too_large_raised_after_earlier_rows() -> None:
    start = numbered(3)
    for rest in (
        [start + b"data: " + b"x" * 99 + b"\n\n" + numbered(1)],
        [start, b"data", b"x" * 99],
    ):
        if rest[-1][:1] == b"x":
            rest[1] = b"data:"
        stream = iter_columns(rest, max_event_size=50, batch_size=2)
        assert [data_of(next(stream)), data_of(next(stream))] == [texts(0, 2), texts(2, 3)]
        with pytest.raises(EventTooLarge) as caught:
            next(stream)
        assert caught.value.offset == len(start)
        assert caught.value.events == []
        assert not hasattr(caught.value, "columns")
        assert next(stream, None) is None


def test_timeout_raised_after_earlier_rows() -> None:
    def chunks() -> Iterator[bytes]:
        yield numbered(2) + b"data: 2"
        raise TimeoutError

    stream = iter_columns(chunks())
    assert data_of(next(stream)) == texts(0, 2)
    with pytest.raises(StreamTimeout) as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert next(stream, None) is None
    assert stream.pending


# -- Close -----------------------------------------------------------------------------------------


@one_opener
def test_close_from_another_thread_wakes_reader(opener: Any, server: Server) -> None:
    hold = threading.Event()
    server.answers["/"] = Answer([numbered(2)], hold=hold)
    outcome: list[Any] = []
    with opener(server.url + "/") as response:
        stream = iter_columns(response, batch_size=2)
        assert data_of(next(stream)) == texts(0, 2)

        def work() -> None:
            try:
                outcome.append(next(stream, None))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until_blocked(thread)
        stream.close()
        thread.join(5)
        hold.set()
        assert not thread.is_alive()
    assert outcome == [None]
    assert next(stream, None) is None
    stream.close()


@pytest.mark.parametrize("way", ["with", "close"])
def test_closed_stream_releases_its_source(way: str) -> None:
    source = bytearray(numbered(1000))
    with segments_of(100):
        stream = iter_columns(source, threads=2, data_type="string_view")
        batch = next(stream)
    with pytest.raises(BufferError):
        source.clear()
    if way == "with":
        with stream:
            pass
    else:
        stream.close()
    assert next(stream, None) is None
    with pytest.raises(BufferError):
        source.clear()
    assert data_of(batch)[:2] == ["0", "1"]
    del batch
    source.clear()


# -- Interrupts ------------------------------------------------------------------------------------


def test_read_continues_after_interrupt() -> None:
    interrupted = 0

    class Chunks:
        def __init__(self) -> None:
            self.left = iter(cut(numbered(100), range(50, 1300, 50)))
            self.is_due = False

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            self.is_due = not self.is_due
            if self.is_due:
                raise KeyboardInterrupt
            return next(self.left)

    stream = iter_columns(Chunks(), batch_size=30)
    batches: list[Any] = []
    while True:
        try:
            batches += stream
            break
        except KeyboardInterrupt:
            interrupted += 1
        except TransportError:
            # An end right after an interrupted read counts as an error.
            break
    assert interrupted > 20
    assert [text for batch in batches for text in data_of(batch)] == texts(0, 100)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no POSIX timers")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["memory", "chunks"])
def test_parse_continues_after_interrupt(way: str, threads: int) -> None:
    """Ctrl-C while compiled code runs is raised when it returns."""
    count = 200_000
    stream = b"".join(b"data: %d\n\n" % number for number in range(count))
    interrupts = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        if frame is not None and frame.f_code.co_name in {"_read", "_parse", "wait"}:
            interrupts += 1
            raise KeyboardInterrupt

    source = stream if way == "memory" else cut(stream, range(2**16, len(stream), 2**16))
    batches: list[Any] = []
    with segments_of(2**20), iter_columns(source, threads=threads, batch_size=20_000) as reading:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        try:
            while interrupts < 300:
                try:
                    batches += iter(lambda: next(reading, None), None)
                    break
                except KeyboardInterrupt:
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert [int(text) for batch in batches for text in data_of(batch)] == list(range(count))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no POSIX timers")
@pytest.mark.parametrize("threads", [1, 2])
def test_close_in_signal_handler_ends_quietly(threads: int) -> None:
    """Wherever the signal strikes, iteration ends without an exception."""
    stream = b"".join(b"data: %d\n\n" % number for number in range(60_000))
    cut_short = 0
    before = signal.getsignal(signal.SIGALRM)
    try:
        for number in range(150):
            with segments_of(2**15):
                reading = iter_columns(stream, threads=threads)
                signal.signal(signal.SIGALRM, lambda *_, reading=reading: reading.close())
                signal.setitimer(signal.ITIMER_REAL, 0.00002 * (number + 1))
                rows = sum(map(len, reading))
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert next(reading, None) is None
            cut_short += rows < 60_000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cut_short > 10


def test_read_after_main_thread_ended(tmp_path: Path) -> None:
    """Executors accept no work then, so the calling thread reads."""
    script = (
        "import concurrent.futures.thread as executors, threading, time\n"
        "from sse_fast import read_columns\n"
        "from sse_fast.columns import _readers\n"
        "_readers.SEGMENT_SIZE = 100\n"
        "def work():\n"
        "    threading.main_thread().join()\n"
        "    while not executors._shutdown:\n"
        "        time.sleep(0.001)\n"
        "    print(len(read_columns(b'data: x\\n\\n' * 1000, threads=2)))\n"
        "threading.Thread(target=work).start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("1000\n", "")


@pytest.mark.parametrize("wrap", [bytearray, memoryview])
def test_compressed_chunks_of_any_type_are_read(wrap: Any) -> None:
    packed = gzip.compress(MIXED)
    for chunks in ([packed], [packed[:1], packed[1:]], [b"", packed[:30], packed[30:]]):
        batches = list(iter_columns([wrap(chunk) for chunk in chunks]))
        assert [row for batch in batches for row in rows_of(batch)] == rows_of(read_columns(MIXED))


def test_http_client_with_length_is_read(server: Server) -> None:
    server.answers["/"] = Answer([numbered(3), b"data: 3\n\n"], "length")
    connection = http.client.HTTPConnection(*server.server_address[:2])
    with closing(connection):
        connection.request("GET", "/")
        stream = iter_columns(connection.getresponse())
        assert [text for batch in stream for text in data_of(batch)] == texts(0, 4)
    wait_until(lambda: server.requests)
