"""sse-fast record: write the body of one response to a file, byte for byte, as it arrives."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from sse_fast import EndReason, EventSource, ReconnectPolicy, SSEError
from sse_fast._cli import _timing_index
from sse_fast._cli._common import add_request_options, is_url, say
from sse_fast._cli._event_source import event_source
from sse_fast._cli._output import (
    check_distinct,
    check_standard_output,
    check_writable,
    is_special,
    open_new,
)
from sse_fast._cli._signals import Terminated, cleaning_up
from sse_fast._cli._terminal import VisibleFile, is_terminal
from sse_fast._cli._waiting import telling

# `record` only counts events, and streams with events too large for `cat` are worth recording.
_MAX_EVENT_SIZE = 2**30
_ENDS = {EndReason.END: "the stream ended", EndReason.UNTIL: "--until or --until-event was met"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Write the body of a response to a file, byte for byte, as it arrives. One "
        "capture is one connection: there is no reconnect when the stream ends, breaks off or is "
        "silent for 300 seconds. Ctrl-C stops the recording (exit code 130). All bytes that have "
        "arrived are in the file at any time. A summary goes to standard error at the end."
    )
    parser.add_argument("source", metavar="URL", help="what to record")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="the file to write, which must not exist yet; - is standard output",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite the file and its index, once the server has answered with a stream",
    )
    parser.add_argument(
        "--timing",
        action="store_true",
        help="also write an index, FILE.timing: for each chunk the seconds from the response head "
        "to its arrival, a TAB, and its length in bytes",
    )
    add_request_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if not is_url(arguments):
        arguments.fail("only an http or https URL can be recorded")
    if arguments.output == "-" and arguments.timing:
        arguments.fail("--timing needs a file, as the index is written beside it")
    recording = _Recording(arguments.output, timing=arguments.timing, force=arguments.force)
    source = event_source(
        arguments,
        policy=ReconnectPolicy.never(),
        on_chunk=recording.write,
        max_event_size=_MAX_EVENT_SIZE,
    )
    # Check the paths before sending the request, which may have side effects or cost money.
    recording.check_paths()
    with telling(source, arguments), source:
        if source.end_reason is EndReason.NO_CONTENT:
            raise SSEError("The server answered 204: it has no stream to record")
        # Until here, nothing is left to clean up.
        with cleaning_up():
            _record(source, recording, arguments)
    return 0


def _record(source: EventSource, recording: _Recording, arguments: argparse.Namespace) -> None:
    """Write the stream to the files, and say how it ended."""
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
    except Terminated:
        why = "terminated"
        raise
    except BrokenPipeError:
        why = ""
        raise
    finally:
        recording.end()
        if why and not arguments.quiet:
            say(f"{arguments.output}: {recording}: {why}")


class _Recording:
    """The files of a recording, and how much they hold."""

    def __init__(self, output: str, *, timing: bool, force: bool) -> None:
        self.events = 0
        self._size = 0
        self._path = None if output == "-" else Path(output)
        self._timing = timing
        self._force = force
        self._file: FileIO | None = None
        self._index: FileIO | None = None
        # Takes the place of `_file` on a terminal.
        self._screen: VisibleFile | None = None

    def __str__(self) -> str:
        events = f"{self.events:,} event{'' if self.events == 1 else 's'}"
        return f"{events}, {self._size:,} bytes, {self._seconds():.1f} s"

    def check_paths(self) -> None:
        """Check that the files can be written, and do not exist unless --force was given.

        Raises:
            OSError: they cannot be written, or exist.
        """
        if self._path is None:
            check_standard_output()
            return
        index = _timing_index.path_beside(self._path)
        for path in (self._path, index):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if not self._force and path.exists() and not is_special(path):
                why = "it already exists; choose another name or use --force"
                raise FileExistsError(errno.EEXIST, why, str(path))
        check_writable(self._path)
        if self._timing:
            if self._path.is_char_device():
                why = "--timing needs a file, as the index is written beside it"
                raise OSError(errno.EINVAL, why, str(self._path))
            check_distinct(self._path, index)
            check_writable(index)
        elif os.path.lexists(index) and not os.access(index.parent, os.W_OK):
            # --force removes the index of an earlier capture.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(index))

    def begin(self, url: str) -> None:
        """Open the files; call it when the response head has arrived."""
        self._began = time.monotonic()
        if self._path is None:
            self._file = open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
            self._show_on_terminal()
            return
        index = _timing_index.path_beside(self._path)
        if self._force:
            # An index of an earlier capture does not fit this one.
            index.unlink(missing_ok=True)
        self._file = self._open(self._path)
        self._show_on_terminal()
        if self._timing:
            self._index = self._open(index)
            _write(self._index, _timing_index.first_line(url))

    def write(self, chunk: bytes) -> None:
        """Write a chunk that has just arrived."""
        assert self._file is not None
        arrived = self._seconds()
        if self._screen is None:
            _write(self._file, chunk)
        else:
            self._screen.write(chunk)
        self._size += len(chunk)
        # Write the index after the chunk, so that it never describes more than the capture holds.
        if self._index is not None:
            _write(self._index, _timing_index.line(arrived, len(chunk)))

    def end(self) -> None:
        """Write the index's last line and close the files."""
        if self._index is not None:
            # The index is valid without its last line, and a full disk was already reported.
            with suppress(OSError):
                _write(self._index, _timing_index.line(self._seconds(), 0))
            self._index.close()
        if self._file is not None:
            self._file.close()

    def _show_on_terminal(self) -> None:
        if self._file is not None and self._file.isatty():
            self._screen = VisibleFile(self._file)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _open(self, path: Path) -> FileIO:
        if self._force or is_special(path):
            return path.open("wb", buffering=0)
        return open_new(path)


def _write(file: FileIO, data: bytes) -> None:
    """Write without a buffer, so that a crash loses nothing and other programs can read along."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
    except OSError as error:
        error.filename = file.name if isinstance(file.name, str) else "standard output"
        raise


@contextmanager
def _status_line(recording: _Recording, arguments: argparse.Namespace) -> Iterator[None]:
    """Show progress on standard error, if it is a terminal with no other output."""
    stderr = sys.stderr
    busy = arguments.verbose or arguments.quiet or is_terminal(arguments.output)
    if busy or stderr is None or not stderr.isatty():
        yield
        return
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        yield
        return
    with Live(
        get_renderable=lambda: Text(str(recording)),
        console=Console(file=stderr),
        refresh_per_second=5,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield
