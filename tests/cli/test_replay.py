"""`sse-fast replay`: servers run in processes of their own."""

from __future__ import annotations

import io
import re
import socket
import struct
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import sse_fast
from tests.support.commands import run_command
from tests.support.recording import BODY, CHUNKS, DATA, INDEX, chunks_of, record, replaying
from tests.support.server import Answer, Server

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")

# More than socket buffers hold: if the server left it unread, closing would reset the connection.
SENT = b"x" * 0x800000
SENT_CHUNKED = b"3;x=y\r\nabc\r\n800000\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % SENT
NO_INDEX = (
    b"sse-fast: there is no capture.sse.timing: sending as fast as the client reads (see --rate)\n"
)


def bytes_of(url: str, request: bytes = b"GET / HTTP/1.0\r\n\r\n") -> bytes:
    """Return the whole response, read from a bare socket."""
    host, _, port = url.removeprefix("http://").strip("/").partition(":")
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def pieces_of(answer: bytes) -> list[bytes]:
    """Return the chunks of a response, including the empty last one."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    pieces = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        assert rest[int(size, 16) :][:2] == b"\r\n"
        rest = rest[int(size, 16) + 2 :]
    return pieces


def arrivals(url: str) -> list[float]:
    """Return when each event and the end arrived, in seconds since before the request."""
    began = time.monotonic()
    with sse_fast.open_stream(url, idle_timeout=20) as stream:
        seen = [time.monotonic() - began for _ in stream]
    return [*seen, time.monotonic() - began]


def write_index(*lines: str, first: str = "# sse-fast timing 1, any, any") -> None:
    INDEX.write_text("".join(f"{line}\n" for line in (first, *lines)))


def test_record_of_replay_gives_same_chunks(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer([*CHUNKS, b"\n\n"], delay=0.02)
    assert record(server.url, "--timing").returncode == 0
    with replaying("capture.sse", "--once", status=0) as (url, _):
        assert record(url, "-o", "again", "--timing").returncode == 0
    assert Path("again").read_bytes() == capture.read_bytes() == BODY + b"\n\n"
    lengths = [length for _, length in chunks_of(INDEX)]
    assert lengths[:-1] == [*map(len, CHUNKS), 2]
    assert sum(length for _, length in chunks_of(Path("again.timing"))) == len(BODY) + 2


def test_replay_gives_every_client_same_events(capture: Path) -> None:
    capture.write_bytes(BODY)
    with replaying("capture.sse", errors=NO_INDEX) as (url, _):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with sse_fast.open_stream(url) as stream:
            assert [event.data for event in stream] == DATA
            assert stream.response is not None
            assert stream.response.headers["content-type"] == "text/event-stream"
        with (
            httpx.Client(trust_env=False) as client,
            client.stream("POST", f"{url}any/path?query", json={"a": 1}) as response,
        ):
            assert [event.data for event in sse_fast.iter_events(response)] == DATA
        seen = []
        # A client that reconnects gets the whole capture again, despite its Last-Event-ID.
        for event in sse_fast.EventSource(url, last_event_id="1"):
            seen.append(event.data)
            if len(seen) == 2 * len(DATA):
                break
        assert seen == 2 * DATA
        head, _, body = bytes_of(url).partition(b"\r\n\r\n")
        assert (body, b"Transfer-Encoding" in head) == (BODY, False)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n%b" % SENT,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b" % SENT_CHUNKED,
    ],
    ids=["get", "length", "chunked"],
)
def test_replay_sends_chunks_of_index(capture: Path, request_: bytes) -> None:
    capture.write_bytes(BODY)
    write_index(*(f"0.0{number}\t{len(chunk)}" for number, chunk in enumerate(CHUNKS)), "0.06\t0")
    with replaying("capture.sse", "--once", status=0) as (url, _):
        answer = bytes_of(url, request_)
    assert pieces_of(answer) == [*CHUNKS, b""]


def test_replay_speed_scales_arrival_times(capture: Path) -> None:
    capture.write_bytes(b"data: a\n\n" * 3)
    write_index("0.1\t9", "# a remark", "1.0\t9", "2.0\t9", "2.5\t0")
    due = [0.1, 1.0, 2.0, 2.5]
    with replaying("capture.sse") as (url, _):
        recorded = arrivals(url)
    with replaying("capture.sse", "--speed", "10") as (url, _):
        faster = arrivals(url)
    with replaying("capture.sse", "--speed", "max") as (url, _):
        fastest = arrivals(url)
    assert [*map(len, (recorded, faster, fastest))] == [4, 4, 4]
    assert all(seen >= least for seen, least in zip(recorded, due, strict=True))
    assert all(seen >= least / 10 for seen, least in zip(faster, due, strict=True))
    # Each chunk is sent by itself, not together with the next.
    assert all(later - earlier > 0.1 for earlier, later in pairwise(recorded))
    assert max(faster[-1], fastest[-1]) < recorded[-1] / 1.5


def test_replay_delays_do_not_accumulate(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a simulated clock on which every sleep and write takes too long."""
    from sse_fast._cli import _timing_index, replay

    capture.write_bytes(b"x" * 101)
    write_index(*(f"{number}\t1" for number in range(101)))
    timing = _timing_index.read(INDEX, capture)
    now, sent = 1000.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 0.1

    def send(piece: bytes) -> None:
        nonlocal now
        if piece:
            now += 0.2
            sent.append(now - 1000.0)

    monkeypatch.setattr(replay, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    handler = replay._Handler.__new__(replay._Handler)
    for name, stand_in in {"send": send, "begin": id, "end": id, "read_body": id}.items():
        monkeypatch.setattr(handler, name, stand_in if name == "send" else lambda: None, False)
    pieces = partial(replay._as_recorded, timing=timing, speed=2.0)
    handler.server = SimpleNamespace(  # type: ignore[assignment]
        takes_request=lambda: True, capture=capture, pieces=pieces
    )
    handler.do_GET()
    assert len(sent) == 101
    assert all(0 <= at - number / 2 < 0.5 for number, at in enumerate(sent))


def test_replay_serves_clients_independently(capture: Path) -> None:
    """Clients that are still reading, or left early, do not matter to the others."""
    capture.write_bytes(b"data: a\n\ndata: b\n\n")
    write_index("0.0\t9", "600.0\t9")
    with replaying("capture.sse") as (url, _):
        for _ in range(2):
            streams = [sse_fast.open_stream(url) for _ in range(3)]
            assert [next(stream).data for stream in streams] == ["a", "a", "a"]
            for stream in streams:
                stream.close()


def test_replay_client_disconnect_prints_nothing(capture: Path) -> None:
    capture.write_bytes(b"data: a\n\n" * 2_000_000)
    with replaying("capture.sse", "--speed", "max", "--once", status=0) as (url, _):
        host, _, port = url.removeprefix("http://").strip("/").partition(":")
        # A client that disconnects before its request is complete does not count as a request.
        with socket.create_connection((host, int(port)), 20) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(b"GET")
        with sse_fast.open_stream(url) as stream:
            assert next(stream).data == "a"


def test_replay_once_answers_one_request(capture: Path) -> None:
    capture.write_bytes(b"data: a\n\ndata: b\n\n")
    write_index("0.0\t9", "1.0\t9")
    with replaying("capture.sse", "--once", status=0) as (url, process):
        address = "127.0.0.1", int(re.findall(r"\d+", url)[-1])
        with (
            socket.create_connection(address, 20) as other,
            sse_fast.open_stream(url) as stream,
        ):
            assert next(stream).data == "a"
            # New connections are refused while the response is sent.
            with pytest.raises(sse_fast.TransportError):
                sse_fast.open_stream(url)
            # A connection that was made before gets a 503.
            other.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert other.recv(12) == b"HTTP/1.1 503"
            assert [event.data for event in stream] == ["b"]
        process.wait(20)


def test_replay_port_in_use_exits_1(capture: Path) -> None:
    capture.write_bytes(BODY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("replay", "capture.sse", "--port", port)
        assert (done.returncode, done.stdout) == (1, b"")
        assert f"sse-fast: 127.0.0.1:{port}: Address already in use" in done.stderr.decode()
    with replaying("capture.sse", "--port", port, "--speed", "max") as (url, _):
        assert url == f"http://127.0.0.1:{port}/"
        assert bytes_of(url).endswith(BODY)


def test_replay_rate_sends_one_event_a_chunk(capture: Path) -> None:
    """The index is not even read."""
    events = [b"data: a\n\n", b": c\r\rdata: b\r\n\r\n", b"data: c"]
    capture.write_bytes(b"".join(events))
    INDEX.write_bytes(b"nonsense")
    began = time.monotonic()
    with replaying("capture.sse", "--rate", "5", "--once", status=0) as (url, _):
        answer = bytes_of(url, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert time.monotonic() - began >= 3 / 5
    assert pieces_of(answer) == [
        events[0],
        b": c\r\r",
        b"data: b\r\n\r\n",
        events[2],
        b"",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64])
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["lf", "cr", "crlf"])
def test_replay_blocks_do_not_depend_on_read_size(
    size: int, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sse_fast._cli import replay

    monkeypatch.setattr(replay, "READ_SIZE", size)
    lines = [[b"data: a"], [b": a comment"], [b"id: 1", b"data: b"], [b"x"]]
    blocks = [end.join([*each, b"", b""]) for each in lines]
    for rest in ([], [b"data: rest"], [b"data: rest" + end]):
        file = io.BytesIO(b"".join([*blocks, *rest]))
        found = [*replay._blocks(file)]
        assert b"".join(found) == file.getvalue()
        # A block ends with the CR of its blank line; after a read that ends there, the LF follows.
        found = [each.removeprefix(b"\n").rstrip(b"\r\n") for each in found]
        wanted = [each.rstrip(b"\r\n") for each in [*blocks, *rest]]
        assert [each for each in found if each] == wanted


@pytest.mark.parametrize(
    ("lines", "number", "message"),
    [
        (["0.1\t9", "x\t9"], 3, "expected seconds, a TAB and a length, got 'x\\t9'"),
        (["0.1\t9.5"], 2, "expected seconds, a TAB and a length, got '0.1\\t9.5'"),
        (["0.1"], 2, "expected seconds, a TAB and a length, got '0.1'"),
        (["0.1 9"], 2, "expected seconds, a TAB and a length, got '0.1 9'"),
        (["0.1\t9\t1"], 2, "expected seconds, a TAB and a length, got '0.1\\t9\\t1'"),
        (["", "0.1\t9"], 2, "expected seconds, a TAB and a length, got ''"),
        (["nan\t9"], 2, "expected seconds, a TAB and a length, got 'nan\\t9'"),
        (["inf\t9"], 2, "expected seconds, a TAB and a length, got 'inf\\t9'"),
        (["-0.1\t9"], 2, "expected seconds, a TAB and a length, got '-0.1\\t9'"),
        (["0.1\t-9"], 2, "expected seconds, a TAB and a length, got '0.1\\t-9'"),
        (["0.2\t9", "0.1\t9"], 3, "expected a time of at least 0.200000, as in the line before"),
        (["0.1\t9", "0.2\t10"], 3, "expected chunks within the 18 bytes of the capture, got "),
        (["\0" * 1000 + "\t1"], 2, "expected seconds, a TAB and a length, got '" + "\\x00" * 80),
    ],
)
def test_replay_invalid_index_names_line(
    capture: Path, lines: list[str], number: int, message: str
) -> None:
    capture.write_bytes(b"data: a\n\n" * 2)
    write_index(*lines)
    done = run_command("replay", "capture.sse")
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.decode()
    assert said.startswith(f"sse-fast: capture.sse.timing, line {number}: {message}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("first", ["", "0.1\t9", "# sse-fast timing 2, any, any"])
def test_replay_unknown_index_format_exits_1(capture: Path, first: str) -> None:
    capture.write_bytes(BODY)
    write_index(first=first)
    done = run_command("replay", "capture.sse")
    assert (done.returncode, done.stdout) == (1, b"")
    wanted = f"capture.sse.timing, line 1: expected '# sse-fast timing 1', got {first!r}"
    assert done.stderr.decode() == f"sse-fast: {wanted}\n"


@pytest.mark.parametrize("lines", [[], ["0.0\t9"], ["0.0\t9", "0.1\t5", "0.1\t1"]])
def test_replay_truncated_index_sends_rest_at_end(capture: Path, lines: list[str]) -> None:
    """The recording was killed after any byte; the rest of the capture is sent at the end."""
    capture.write_bytes(b"data: a\n\n" * 3)
    write_index(*lines)
    # The last line was cut off within its length.
    INDEX.write_bytes(INDEX.read_bytes().removesuffix(b"1\n") + b"0.1\t1")
    missing = {0: 27, 1: 18, 3: 13}[len(lines)]
    said = (
        b"sse-fast: capture.sse.timing has no times for the last %d bytes: "
        b"they are sent at the end\n"
    )
    with replaying("capture.sse", "--once", status=0, errors=said % missing) as (url, _):
        assert bytes_of(url).endswith(b"\r\n\r\n" + capture.read_bytes())


def test_read_index_of_growing_capture() -> None:
    from sse_fast._cli import _timing_index

    write_index("0.0\t9", "0.1\t9", "0.2\t9")
    sizes = iter([9, 20, 27])
    growing: Any = SimpleNamespace(stat=lambda: SimpleNamespace(st_size=next(sizes)))
    assert [*_timing_index.read(INDEX, growing).lengths] == [9, 9, 9]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: FILE"),
        (["missing"], 1, "sse-fast: missing: No such file or directory"),
        (["."], 1, "sse-fast: .: "),
        (["capture.sse", "--speed", "2"], 2, "but there is no capture.sse.timing: "),
        (["capture.sse", "--speed", "0"], 2, "expected a number above 0, got 0"),
        (["capture.sse", "--speed", "nan"], 2, "expected a number above 0, got nan"),
        (["capture.sse", "--speed", "x"], 2, "argument --speed: "),
        (["capture.sse", "--rate", "-1"], 2, "expected a number above 0, got -1"),
        (["capture.sse", "--rate", "1", "--speed", "max"], 2, "not allowed with argument"),
        (["capture.sse", "--port", "65536"], 2, "expected a port of 0 to 65535, got 65536"),
    ],
)
def test_replay_wrong_arguments_name_the_fault(
    capture: Path, arguments: list[str], status: int, message: str
) -> None:
    capture.write_bytes(BODY)
    done = run_command("replay", *arguments)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_record_and_replay_empty_stream(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer([])
    assert record(server.url, "--timing").returncode == 0
    assert (capture.read_bytes(), [length for _, length in chunks_of(INDEX)]) == (b"", [0])
    for arguments in ([], ["--rate", "1"]):
        with replaying("capture.sse", "--once", *arguments, status=0) as (url, _):
            assert bytes_of(url).endswith(b"\r\n\r\n")
