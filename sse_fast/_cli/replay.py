"""sse-fast replay: serve a capture as an event stream on loopback."""

from __future__ import annotations

import argparse
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias

from sse_fast._cli import _timing_index
from sse_fast._cli._common import say
from sse_fast._cli._server import Handler, Server
from sse_fast._seconds import MAX_SECONDS
from sse_fast._source import READ_SIZE

Pieces: TypeAlias = Iterator[tuple[float, bytes]]
"""Pieces of the body, each with the time at which it is due, in seconds after the request."""

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Serve a capture as an event stream on 127.0.0.1 until Ctrl-C. Every request, "
        "GET or POST and of any path, gets the whole capture from its beginning; Last-Event-ID is "
        "ignored. The URL is printed on standard output. With the index that `record --timing` "
        "wrote, FILE.timing, chunks are sent as they arrived; without one they have 64 KiB and "
        "are sent as fast as the client reads."
    )
    parser.add_argument("capture", metavar="FILE", type=Path, help="what to serve")
    parser.add_argument(
        "--port", type=_port, default=0, help="the port to listen on (default: a free one)"
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        metavar="FACTOR",
        type=_speed,
        help="1: as recorded (default), 2: twice as fast, max: as fast as the client reads",
    )
    pace.add_argument(
        "--rate",
        metavar="EVENTS",
        type=_positive,
        help="send this many events per second, one per chunk, and ignore the index",
    )
    parser.add_argument("--once", action="store_true", help="exit after answering one request")
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    pieces = _pieces(arguments)
    try:
        server = _Replay(arguments.capture, pieces, arguments.port, once=arguments.once)
    except OSError as error:
        error.filename = f"127.0.0.1:{arguments.port}"
        raise
    with server:
        print(f"http://127.0.0.1:{server.port}/", flush=True)
        server.serve_forever(0.05)
    if server.only is not None:
        server.only.join()
    return 0


def _pieces(arguments: argparse.Namespace) -> Callable[[BinaryIO], Pieces]:
    """Return the function that cuts the capture into pieces and says when each is due.

    Raises:
        OSError: the capture or its index cannot be read.
        SSEError: the index is invalid, or belongs to another capture.
    """
    # A missing capture is reported before the server starts.
    arguments.capture.open("rb").close()
    if arguments.rate is not None:
        return partial(_by_blocks, rate=arguments.rate)
    index = _timing_index.path_beside(arguments.capture)
    if index.exists():
        timing = _timing_index.read(index, arguments.capture)
        rest = arguments.capture.stat().st_size - sum(timing.lengths)
        if rest > 0:
            # The recording was killed or is still running.
            say(f"{index} has no times for the last {rest:,} bytes: they are sent at the end")
            timing.lengths.append(rest)
            timing.seconds.append(timing.seconds[-1] if timing.seconds else 0.0)
        return partial(_as_recorded, timing=timing, speed=arguments.speed or 1.0)
    if arguments.speed not in (None, math.inf):
        arguments.fail(
            f"--speed needs an index of arrival times, but there is no {index}: "
            "`record --timing` writes one, and --rate does not need one"
        )
    if arguments.speed is None:
        say(f"there is no {index}: sending as fast as the client reads (see --rate)")
    return _undelayed


def _as_recorded(file: BinaryIO, timing: _timing_index.Timing, speed: float) -> Pieces:
    for seconds, length in zip(timing.seconds, timing.lengths, strict=True):
        due, left = seconds / speed, length
        # The last line has no bytes: it delays the end of the body.
        yield due, b""
        while left and (piece := file.read(min(left, READ_SIZE))):
            left -= len(piece)
            yield due, piece


def _by_blocks(file: BinaryIO, rate: float) -> Pieces:
    for number, block in enumerate(_blocks(file)):
        yield number / rate, block


def _undelayed(file: BinaryIO) -> Pieces:
    while piece := file.read(READ_SIZE):
        yield 0.0, piece


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield blocks that end with a blank line; nearly all of them are events."""
    parts: list[bytes] = []
    # The last byte is kept back, as a blank line may begin with it.
    kept = b""
    while piece := file.read(READ_SIZE):
        data = kept + piece
        start = 0
        for blank_line in _BLANK_LINE.finditer(data):
            yield b"".join([*parts, data[start : blank_line.end()]])
            parts.clear()
            start = blank_line.end()
        stop = max(start, len(data) - 1)
        parts.append(data[start:stop])
        kept = data[stop:]
    if rest := b"".join([*parts, kept]):
        yield rest


class _Replay(Server):
    """A server that answers each request with the capture, or with `once` only the first."""

    def __init__(
        self, capture: Path, pieces: Callable[[BinaryIO], Pieces], port: int, *, once: bool
    ) -> None:
        super().__init__(_Handler, port)
        self.capture = capture
        self.pieces = pieces
        self.once = once
        # The thread that answers the one request.
        self.only: threading.Thread | None = None
        self._lock = threading.Lock()

    def takes_request(self) -> bool:
        """Return whether to answer a request: with `once`, only the first."""
        if not self.once:
            return True
        with self._lock:
            if self.only is not None:
                return False
            self.only = threading.current_thread()
        self.shutdown()
        return True


class _Handler(Handler):
    """Sends the capture."""

    server: _Replay

    def do_GET(self) -> None:  # noqa: N802
        self.read_body()
        if not self.server.takes_request():
            self.send_error(503)
            return
        with self.server.capture.open("rb") as file:
            self.begin()
            began = time.monotonic()
            for due, piece in self.server.pieces(file):
                seconds = began + due - time.monotonic()
                if seconds > 0:
                    time.sleep(min(seconds, MAX_SECONDS))
                self.send(piece)
            self.end()

    do_POST = do_GET  # noqa: N815


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"expected a port of 0 to 65535, got {text}")
    return port


def _speed(text: str) -> float:
    return math.inf if text == "max" else _positive(text)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number
