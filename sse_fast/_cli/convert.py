"""`sse-fast convert`: whole captures as Parquet, Arrow, JSON lines or CSV."""

from __future__ import annotations

import argparse
import errno
import io
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from sse_fast import SSEError
from sse_fast._cli._columns import MoreColumns, arrivals_of
from sse_fast._cli._common import say, standard_input
from sse_fast._cli._formats import WRITERS, needed
from sse_fast._cli._output import check_standard_output, check_writable, is_special, replacing
from sse_fast._cli._signals import cleaning_up
from sse_fast._cli._terminal import VisibleFile, is_terminal, standard_output
from sse_fast._cli._timing_index import path_beside

# pyarrow and rich are imported where they are used: the other commands do not need them.
if TYPE_CHECKING:
    from collections.abc import Callable

    from sse_fast._cli._formats import Writer
    from sse_fast.columns import Columns, ColumnStream

SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
TEXTS = ("jsonl", "csv")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Turn captures of event streams into one file of Parquet, Arrow, JSON lines or "
        "CSV. Captures may be compressed by gzip or zstd. The columns (or keys) are event, data, "
        "id and retry, and on request offset, arrival and source. Needs the extra [convert]."
    )
    parser.add_argument(
        "captures",
        metavar="CAPTURE",
        nargs="+",
        help="files, each a stream by itself; - is standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=f"file to write or replace ({', '.join(SUFFIXES)}); - is standard output",
    )
    parser.add_argument(
        "--format",
        choices=tuple(dict.fromkeys(SUFFIXES.values())),
        help="format of the output (default: by the suffix of FILE)",
    )
    parser.add_argument(
        "--offset",
        action="store_true",
        help="add the event's byte offset in its capture as a column",
    )
    parser.add_argument(
        "--arrival",
        action="store_true",
        help="add the time at which the event arrived as a column, by the index of the capture, "
        "CAPTURE.timing; null where it is unknown",
    )
    parser.add_argument(
        "--source",
        action="store_true",
        help="add the capture's path as a column; - for standard input",
    )
    oversize = parser.add_mutually_exclusive_group()
    oversize.add_argument(
        "--oversize",
        choices=("raise", "skip"),
        help="stop at an event over --max-event-size, or skip it (default: raise)",
    )
    oversize.add_argument(
        "--on-error",
        dest="oversize",
        choices=("raise", "skip"),
        help="former name of --oversize",
    )
    parser.add_argument(
        "--max-event-size",
        metavar="BYTES",
        type=int,
        default=16 * 2**20,
        help="largest event in bytes (default: 16 MiB)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="number of reader threads (default: one per CPU, at most 8)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Convert the captures, and return the exit code."""
    # Check everything that can be checked before writing anything.
    kind = _format_of(arguments)
    captures = [_examine(name) for name in arguments.captures]
    _check_output(captures, arguments)
    streams = _open_streams(captures, arguments)
    with needed("pyarrow"):
        import pyarrow
    names = ("offset", "arrival", "source")
    chosen = tuple(name for name in names if getattr(arguments, name))
    more = [
        MoreColumns(
            pyarrow,
            capture.name,
            arrivals_of(capture.name) if arguments.arrival else None,
            columns=chosen,
        )
        for capture in captures
    ]
    sizes = [capture.size for capture in captures]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = _Done()
    started = time.perf_counter()
    with (
        cleaning_up(),
        _progress(total, arguments) as show,
        _open_output(arguments.output) as file,
    ):
        schema = more[0].schema(pyarrow.schema(streams[0]))
        writer = WRITERS[kind](file, pyarrow, schema)
        try:
            _convert(captures, streams, more, writer, done, show)
        except BaseException:
            # Otherwise it would close itself when it is collected, and print a warning.
            with suppress(Exception):
                writer.close()
            raise
        writer.close()
    for note in done.notes:
        say(note)
    if done.is_broken:
        if arguments.output != "-":
            say(f"{arguments.output} contains the {_count(done.events)} before the error")
        return 1
    if not arguments.quiet:
        seconds = time.perf_counter() - started
        skipped = f", {_count(done.skipped)} over the size limit skipped" if done.skipped else ""
        say(f"{_count(done.events)} from {done.size:,} bytes in {seconds:.2f} s{skipped}")
    return 0


def _format_of(arguments: argparse.Namespace) -> str:
    output: str = arguments.output
    known = SUFFIXES.get(Path(output).suffix.lower())
    kind: str | None = arguments.format or (None if output == "-" else known)
    if output == "-" and kind not in TEXTS:
        arguments.fail(f"standard output needs --format {' or '.join(TEXTS)}")
    if kind is None:
        arguments.fail(
            f"the suffix of {output!r} names no format: use {', '.join(SUFFIXES)}, or --format"
        )
        raise AssertionError
    return kind


# -- Captures -------------------------------------------------------------------------------------


class _Capture(NamedTuple):
    name: str
    status: os.stat_result | None
    """None: not a regular file."""

    @property
    def size(self) -> int | None:
        """Bytes; None if that is not known before its end."""
        # A compressed file on standard input reports its progress in decompressed bytes.
        return None if self.status is None or self.name == "-" else self.status.st_size


def _examine(name: str) -> _Capture:
    """Look up a capture, and check that it can be read.

    Raises:
        OSError: it cannot be opened.
        ImportError: no library can decompress it.
    """
    from sse_fast.columns._captures import open_capture

    if name == "-":
        try:
            status = os.fstat(standard_input().fileno())
        except io.UnsupportedOperation:
            return _Capture(name, None)
    else:
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        # Opening a pipe here would take its writer away from the conversion.
        if stat.S_ISREG(status.st_mode):
            close = open_capture(name).close
            if close is not None:
                close()
    return _Capture(name, status if stat.S_ISREG(status.st_mode) else None)


def _check_output(captures: list[_Capture], arguments: argparse.Namespace) -> None:
    """Refuse an output that is one of the captures, and standard input given twice."""
    if arguments.captures.count("-") > 1:
        arguments.fail("standard input (-) can be read only once")
    if arguments.output == "-":
        check_standard_output()
        return
    path = arguments.output
    with suppress(FileNotFoundError):
        existing = os.stat(path)
        for capture in captures:
            if capture.status is not None and os.path.samestat(capture.status, existing):
                arguments.fail(f"the output {path!r} is one of the captures: choose another name")
            index = path_beside(Path(capture.name))
            if index.exists() and os.path.samestat(index.stat(), existing):
                arguments.fail(
                    f"the output {path!r} is the index of a capture: choose another name"
                )
    check_writable(Path(path))


def _open_streams(captures: list[_Capture], arguments: argparse.Namespace) -> list[ColumnStream]:
    """Open a stream for each capture, so that messages can name the capture."""
    from sse_fast import iter_columns

    try:
        return [
            iter_columns(
                standard_input() if capture.name == "-" else capture.name,
                threads=arguments.threads,
                # The arrival of an event is found by its offset.
                offset=arguments.offset or arguments.arrival,
                max_event_size=arguments.max_event_size,
                oversize=arguments.oversize,
            )
            for capture in captures
        ]
    except ValueError as error:
        arguments.fail(f"{error}")
        raise


class _Done:
    """The counts of a conversion in progress."""

    def __init__(self) -> None:
        self.events = 0
        self.skipped = 0
        self.size = 0
        self.notes: list[str] = []
        self.is_broken = False


def _convert(
    captures: list[_Capture],
    streams: list[ColumnStream],
    more: list[MoreColumns],
    writer: Writer,
    done: _Done,
    show: Callable[[int], None],
) -> None:
    """Write all events, or those before the first error."""
    for capture, stream, columns_of in zip(captures, streams, more, strict=True):
        with stream:
            for columns in _read(capture, stream, done):
                writer.write(columns_of.add(columns))
                done.events += len(columns)
                show(done.size + stream.position)
            done.size += stream.position
            done.skipped += stream.skipped
        show(done.size)
        if done.is_broken:
            return
        if stream.pending:
            done.notes.append(f"{capture.name}: the stream ended within an event, which is dropped")


def _read(capture: _Capture, stream: ColumnStream, done: _Done) -> Iterator[Columns]:
    try:
        yield from stream
    except (SSEError, MemoryError) as error:
        done.notes.append(f"{capture.name}: {str(error) or 'out of memory'}")
        done.is_broken = True


# -- Output ---------------------------------------------------------------------------------------


@contextmanager
def _open_output(path: str) -> Iterator[BinaryIO | VisibleFile]:
    """Open the output; a regular file appears under its name once all of it is written."""
    try:
        if path == "-":
            yield standard_output()
        elif is_special(Path(path)):
            with open(path, "wb") as file:
                yield VisibleFile(file) if file.isatty() else file
        else:
            with replacing(path) as file:
                yield file
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise


@contextmanager
def _progress(total: int | None, arguments: argparse.Namespace) -> Iterator[Callable[[int], None]]:
    """Show progress on a terminal; yields a function of the number of bytes read so far."""
    # Standard error is None if it was closed.
    if (
        arguments.quiet
        or is_terminal(arguments.output)
        or sys.stderr is None
        or not sys.stderr.isatty()
    ):
        yield lambda size: None
        return
    with needed("rich", ", or --quiet"):
        from rich import console, progress
    with progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.update(task, completed=size)


def _count(events: int) -> str:
    return f"{events:,} event{'' if events == 1 else 's'}"
