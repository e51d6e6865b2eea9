"""sse-fast record: the body of one response into a file, byte for byte, as it arrives."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from sse_fast import EndReason, ReconnectPolicy, SSEError
from sse_fast._cli import _timing_index
from sse_fast._cli._common import (
    add_request_options,
    event_source,
    is_url,
    log_if_verbose,
    say,
    try_to_write,
)

# Events are counted only: what is too large elsewhere is what somebody may want to look at here.
_MAX_EVENT_SIZE = 2**30
_ENDS = {EndReason.END: "the stream ended", EndReason.UNTIL: "--until was met"}


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "record",
        help="write a stream into a file as it arrives",
        description="Write the body of a response into a file, byte for byte, as it arrives. One "
        "connection is one capture: a stream that ends, breaks off or is quiet for 300 seconds is "
        "not asked for again. Ctrl-C stops it (exit code 130); what has arrived is in the file at "
        "any time. At the end standard error says how much that was, and what ended it.",
    )
    parser.add_argument("source", metavar="URL", help="what to record")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="where to write it: a file that is not there yet; - is standard output",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite the file, and its index, once the server has answered with a stream",
    )
    parser.add_argument(
        "--timing",
        action="store_true",
        help="write an index beside it, FILE.timing: for each chunk the seconds from the head of "
        "the response to its arrival, a TAB, and its length in bytes",
    )
    add_request_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not is_url(arguments):
        arguments.fail("expected a URL of http or https, got none")
    if arguments.output == "-" and arguments.timing:
        arguments.fail("--timing goes with a file, beside which the index is written")
    log_if_verbose(arguments)
    recording = _Recording(arguments.output, timing=arguments.timing, force=arguments.force)
    source = event_source(
        arguments,
        policy=ReconnectPolicy.never(),
        on_chunk=recording.write,
        max_event_size=_MAX_EVENT_SIZE,
    )
    # To ask may have its price: not for what could not be written.
    recording.check_paths()
    with source:
        if source.end_reason is EndReason.NO_CONTENT:
            raise SSEError("Expected a stream to record, got status 204: the server has none")
        recording.begin(source.url)
        why = "broken off"
        try:
            with _status_line(recording, arguments):
                for _ in source:
                    recording.events += 1
            assert source.end_reason is not None
            why = _ENDS[source.end_reason]
        except KeyboardInterrupt:
            why = "interrupted"
            raise
        except BrokenPipeError:
            why = ""
            raise
        finally:
            recording.end()
            if why:
                say(f"{arguments.output}: {recording}: {why}")
    return 0


class _Recording:
    """What has arrived so far, and the files that it is in."""

    def __init__(self, output: str, *, timing: bool, force: bool) -> None:
        self.events = 0
        self._size = 0
        self._path = None if output == "-" else Path(output)
        self._timing = timing
        self._force = force
        self._file: FileIO | None = None
        self._index: FileIO | None = None

    def __str__(self) -> str:
        events = f"{self.events:,} event{'' if self.events == 1 else 's'}"
        return f"{events}, {self._size:,} bytes, {self._seconds():.1f} s"

    def check_paths(self) -> None:
        """Raises OSError where the files cannot be written, or would have to be overwritten."""
        if self._path is None:
            return
        index = _timing_index.path_beside(self._path)
        for path in (self._path, index):
            if not self._force and path.exists() and not _is_special(path):
                why = "it is there already: take another name, or --force"
                raise FileExistsError(errno.EEXIST, why, str(path))
        for path in (self._path, index) if self._timing else (self._path,):
            if not _is_special(path):
                try_to_write(path)

    def begin(self, url: str) -> None:
        """The head of the response has come."""
        self._began = time.monotonic()
        if self._path is None:
            self._file = open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
            return
        index = _timing_index.path_beside(self._path)
        if self._force:
            # It would be taken for that of this capture.
            index.unlink(missing_ok=True)
        self._file = self._open(self._path)
        if self._timing:
            self._index = self._open(index)
            _write(self._index, _timing_index.first_line(url))

    def write(self, chunk: bytes) -> None:
        assert self._file is not None
        arrived = self._seconds()
        _write(self._file, chunk)
        self._size += len(chunk)
        # Last: so the index never knows of more than the capture has.
        if self._index is not None:
            _write(self._index, _timing_index.line(arrived, len(chunk)))

    def end(self) -> None:
        if self._index is not None:
            # Nothing is lost with it, and a full disk has been told of.
            with suppress(OSError):
                _write(self._index, _timing_index.line(self._seconds(), 0))
            self._index.close()
        if self._file is not None:
            self._file.close()

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _open(self, path: Path) -> FileIO:
        return path.open("wb" if self._force or _is_special(path) else "xb", buffering=0)


def _is_special(path: Path) -> bool:
    """/dev/null, a pipe: nothing is overwritten, and to open it is to use it."""
    return path.is_char_device() or path.is_fifo()


def _write(file: FileIO, data: bytes) -> None:
    """At once, without a buffer: somebody may be reading along, and nothing is lost to a crash."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
    except OSError as error:
        error.filename = file.name if isinstance(file.name, str) else "standard output"
        raise


@contextmanager
def _status_line(recording: _Recording, arguments: argparse.Namespace) -> Iterator[None]:
    """How much it is by now, where somebody watches and nothing else is written there."""
    stderr = sys.stderr
    busy = arguments.verbose or (arguments.output == "-" and sys.stdout.isatty())
    if busy or stderr is None or not stderr.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        text = ""
        while not done.wait(0.2):
            # Over all of the one before.
            text = f"{recording}".ljust(len(text))
            print(end=f"\r{text}", file=stderr, flush=True)
        print(end=f"\r{' ' * len(text)}\r", file=stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
