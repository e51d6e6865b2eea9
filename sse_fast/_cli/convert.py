"""`sse-fast convert`: whole captures as Parquet, Arrow, JSON lines or CSV."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from sse_fast import SSEError
from sse_fast._cli._common import json_line, say, standard_input

# What reads, writes and draws is imported late: the other commands can do without.
if TYPE_CHECKING:
    from collections.abc import Callable

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
# Where one of them is exceeded, a row group of Parquet ends.
GROUP_BYTES = 64 * 2**20
GROUP_ROWS = 2**20


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn captures into Parquet, Arrow, JSON lines or CSV",
        description="Turn captures of event streams into one file of Parquet, Arrow, JSON lines or "
        "CSV. Captures may be compressed by gzip or zstd. The columns, or keys: event, data, id, "
        "retry. Needs the extra [convert].",
    )
    parser.add_argument(
        "captures", metavar="CAPTURE", nargs="+", help="files, each a stream; - is standard input"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=f"what to write, or to write anew: {', '.join(SUFFIXES)}; - is standard output",
    )
    parser.add_argument(
        "--format",
        choices=tuple(dict.fromkeys(SUFFIXES.values())),
        help="where the suffix of FILE does not tell",
    )
    parser.add_argument(
        "--offset",
        action="store_true",
        help="a column more: where in its capture the event begins, in bytes",
    )
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what an event over the size does: end it, or be left out (default: %(default)s)",
    )
    parser.add_argument(
        "--max-event-size",
        metavar="BYTES",
        type=int,
        default=16 * 2**20,
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="that read (default: one for each processor, but at most 8)",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress, and no word of what was done"
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    # What can go wrong at the end goes wrong before the beginning.
    kind = _format_of(arguments)
    captures = [_examine(name) for name in arguments.captures]
    _keep_apart(captures, arguments)
    streams = _open_streams(captures, arguments)
    pyarrow = _require("pyarrow", "")
    sizes = [capture.size for capture in captures]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = _Done()
    started = time.perf_counter()
    with _progress(total, arguments) as show, _open_output(arguments.output) as file:
        writer = _WRITERS[kind](file, pyarrow, pyarrow.schema(streams[0]))
        try:
            _convert(captures, streams, writer, done, show)
        except BaseException:
            # Else it would try when it is collected, and complain.
            with suppress(Exception):
                writer.close()
            raise
        writer.close()
    for note in done.notes:
        say(note)
    if done.is_broken:
        if arguments.output != "-":
            say(f"{arguments.output} has {_count(done.events)} from before that")
        return 1
    if not arguments.quiet:
        seconds = time.perf_counter() - started
        skipped = f", {_count(done.skipped)} over the size skipped" if done.skipped else ""
        say(f"{_count(done.events)} from {done.size:,} bytes in {seconds:.2f} s{skipped}")
    return 0


def _format_of(arguments: argparse.Namespace) -> str:
    output: str = arguments.output
    known = SUFFIXES.get(Path(output).suffix.lower())
    kind: str | None = arguments.format or (None if output == "-" else known)
    if output == "-" and kind not in TEXTS:
        arguments.fail(
            f"expected --format {' or '.join(TEXTS)} for standard output, got {kind or 'none'}"
        )
    if kind is None:
        arguments.fail(
            f"expected an output that ends in {', '.join(SUFFIXES)}, or --format, got {output!r}"
        )
        raise AssertionError
    return kind


# -- Captures -------------------------------------------------------------------------------------


class _Capture(NamedTuple):
    name: str
    status: os.stat_result | None
    """None: it is no regular file."""

    @property
    def size(self) -> int | None:
        """In bytes; None where that is not known before its end."""
        # Of what may be compressed, standard input tells only how much came of it.
        return None if self.status is None or self.name == "-" else self.status.st_size


def _examine(name: str) -> _Capture:
    """Raises OSError, or ImportError, if it cannot be read."""
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
        # A pipe would be another one when it is opened again.
        if stat.S_ISREG(status.st_mode):
            close = open_capture(name).close
            if close is not None:
                close()
    return _Capture(name, status if stat.S_ISREG(status.st_mode) else None)


def _keep_apart(captures: list[_Capture], arguments: argparse.Namespace) -> None:
    if arguments.captures.count("-") > 1:
        arguments.fail("expected - for standard input once, got it more often")
    if arguments.output == "-":
        return
    for path in (arguments.output, _part_of(arguments.output)):
        try:
            there = os.stat(path)
        except OSError:
            continue
        for capture in captures:
            if capture.status is not None and os.path.samestat(capture.status, there):
                arguments.fail(
                    f"expected an output beside the captures, got {path!r}, which is one"
                )


def _open_streams(captures: list[_Capture], arguments: argparse.Namespace) -> list[ColumnStream]:
    """One for each: so an error, and an end within an event, are of a capture with a name."""
    from sse_fast import iter_columns

    try:
        return [
            iter_columns(
                standard_input() if capture.name == "-" else capture.name,
                threads=arguments.threads,
                offset=arguments.offset,
                max_event_size=arguments.max_event_size,
                on_error=arguments.on_error,
            )
            for capture in captures
        ]
    except ValueError as error:
        arguments.fail(f"{error}")
        raise


class _Done:
    """What was converted so far."""

    def __init__(self) -> None:
        self.events = 0
        self.skipped = 0
        self.size = 0
        self.notes: list[str] = []
        self.is_broken = False


def _convert(
    captures: list[_Capture],
    streams: list[ColumnStream],
    writer: _Writer,
    done: _Done,
    show: Callable[[int], None],
) -> None:
    """Write all there is, or what comes before the first error in it."""
    for capture, stream in zip(captures, streams, strict=True):
        with stream:
            for columns in _read(capture, stream, done):
                writer.write(columns)
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


# -- Formats --------------------------------------------------------------------------------------


class _Writer:
    """Writes record batches to a file that stays open."""

    def __init__(self, file: BinaryIO, pyarrow: Any, schema: Any) -> None:
        self._file = file
        self._pyarrow = pyarrow
        self._schema = schema

    def write(self, columns: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Write what is still due."""


class _Parquet(_Writer):
    """`event` keeps its dictionary: one for each row group."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        parquet = _require("pyarrow.parquet", "")
        self._writer = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._forget()

    def _forget(self) -> None:
        self._batches: list[Any] = []
        self._rows = 0
        self._bytes = 0

    def write(self, columns: Any) -> None:
        if self._rows + len(columns) > GROUP_ROWS:
            self._write_group()
        batch = self._pyarrow.record_batch(columns)
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._batches:
            table = self._pyarrow.Table.from_batches(self._batches)
            self._writer.write_table(table.unify_dictionaries(), row_group_size=self._rows)
        self._forget()

    def close(self) -> None:
        try:
            self._write_group()
        finally:
            self._writer.close()


class _Plain(_Writer):
    """`event` without a dictionary: an Arrow file has one from its beginning to its end, or adds to
    it, which not every reader understands; CSV has none.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        field = self._schema.field("event").with_type(self._schema.field("data").type)
        self._schema = self._schema.set(self._schema.get_field_index("event"), field)
        self._writer = self._open()

    def _open(self) -> Any:
        return _require("pyarrow.ipc", "").new_file(self._file, self._schema)

    def write(self, columns: Any) -> None:
        self._writer.write(self._pyarrow.record_batch(columns).cast(self._schema))

    def close(self) -> None:
        self._writer.close()


class _Csv(_Plain):
    def _open(self) -> Any:
        return _require("pyarrow.csv", "").CSVWriter(self._file, self._schema)


class _JsonLines(_Writer):
    """As `sse-fast cat --json` prints them."""

    def write(self, columns: Any) -> None:
        batch = self._pyarrow.record_batch(columns)
        events, data, ids, retries, *offsets = (column.to_pylist() for column in batch.columns)
        rows = zip(
            events, data, ids, retries, offsets[0] if offsets else repeat(None), strict=False
        )
        self._file.write(
            b"".join(
                [
                    json_line(event, text, last_id or "", retry, offset)
                    for event, text, last_id, retry, offset in rows
                ]
            )
        )


_WRITERS: dict[str, type[_Writer]] = {
    "parquet": _Parquet,
    "arrow": _Plain,
    "jsonl": _JsonLines,
    "csv": _Csv,
}


# -- Output ---------------------------------------------------------------------------------------


@contextmanager
def _open_output(path: str) -> Iterator[BinaryIO]:
    """A file that is there, under its name, when all of it is written."""
    try:
        if path == "-":
            yield sys.stdout.buffer
        elif os.path.exists(path) and not os.path.isfile(path):
            # A pipe or a device: there is nothing to put in its place.
            with open(path, "wb") as file:
                yield file
        else:
            with _replace(path) as file:
                yield file
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise


@contextmanager
def _replace(path: str) -> Iterator[BinaryIO]:
    # A link stays.
    target = os.path.realpath(path)
    part = _part_of(path)
    there = os.path.exists(target)
    if there and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    # Not over what is there already: it may be somebody's, or of a conversion that goes on.
    with open(part, "xb") as file:
        try:
            yield file
            file.close()
            if there:
                shutil.copymode(target, part)
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                file.close()
            with suppress(OSError):
                os.unlink(part)
            raise


def _part_of(path: str) -> str:
    return f"{os.path.realpath(path)}.part"


@contextmanager
def _progress(total: int | None, arguments: argparse.Namespace) -> Iterator[Callable[[int], None]]:
    """Gives what takes the number of bytes read so far, and shows it on a terminal."""
    to_screen = arguments.output == "-" and sys.stdout.isatty()
    # There may be none.
    if arguments.quiet or to_screen or sys.stderr is None or not sys.stderr.isatty():
        yield lambda size: None
        return
    progress = _require("rich.progress", ", or --quiet")
    console = import_module("rich.console").Console(file=sys.stderr)
    with progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.update(task, completed=size)


def _require(module: str, otherwise: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"Expected {library}, which `sse-fast convert` needs, got none ({error}): "
            f"pip install 'sse-fast[convert]'{otherwise}"
        ) from error


def _count(events: int) -> str:
    return f"{events:,} event{'' if events == 1 else 's'}"
