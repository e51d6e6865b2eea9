"""Captures as sources of events: decompressed, with arrival times, and refused if not a stream."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from sse_fast import SSEError
from sse_fast._cli import _timing_index
from sse_fast._source import READ_SIZE

MAGIC = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""The first bytes of gzip and of zstd, which cannot begin valid UTF-8."""

_FIELD = re.compile(rb"(?:data|event|id|retry)(?::|$)")
_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_LONGEST = 16
"""Bytes of a line that are kept: more than any field's name and colon."""


class FieldWatch:
    """Tells whether bytes can be an event stream, by their lines.

    The standard knows no errors of syntax: every text is an event stream, of lines that are
    ignored. So bytes are refused only if they have such lines and not a single line of a field
    (data, event, id, retry). An empty stream, comments and blank lines pass.
    """

    def __init__(self) -> None:
        self._has_field = False
        self._has_other = False
        self._rest = b""
        self._is_first = True

    def see(self, chunk: bytes) -> None:
        """Look at the next bytes."""
        if self._has_field:
            return
        *lines, rest = _END_OF_LINE.split(self._rest + chunk)
        for line in lines:
            self._see_line(line)
        # The line is judged by its first bytes, but not before a BOM is whole.
        self._rest = rest[:_LONGEST]

    def _see_line(self, line: bytes) -> None:
        if self._is_first:
            line = line.removeprefix(_BOM)
            self._is_first = False
        if _FIELD.match(line):
            self._has_field = True
        elif line and not line.startswith(b":"):
            self._has_other = True

    @property
    def is_stream(self) -> bool:
        """Whether the bytes so far can be an event stream."""
        if self._has_field:
            return True
        rest = self._rest.removeprefix(_BOM) if self._is_first else self._rest
        if _FIELD.match(rest):
            return True
        # A stream may be cut off within the name of its first field.
        begins = any(name.startswith(rest) for name in (b"data", b"event", b"id", b"retry", _BOM))
        return (begins or rest.startswith(b":")) and not self._has_other

    def check(self, name: str) -> None:
        """Refuse bytes that cannot be an event stream, once all of them were seen.

        Raises:
            SSEError: they cannot.
        """
        if not self.is_stream:
            raise SSEError(
                f"{name} is not an event stream: none of its lines has a field (data, event, id or "
                "retry)"
            )


class Clock:
    """The time at which the latest bytes arrived: seconds since the epoch; None if unknown."""

    def __init__(self) -> None:
        self.now: float | None = None

    def tick(self, chunk: bytes) -> None:
        """Note that bytes have arrived now."""
        self.now = time.time()


def chunks_of(file: Any, path: Path | None, clock: Clock) -> Iterator[bytes]:
    """Yield the bytes of a capture, which is decompressed if it begins as gzip or zstd does.

    The clock shows when each chunk arrived: by the index beside the capture, or else now.

    Args:
        file: a binary file.
        path: its path; None: standard input.
        clock: the clock to set.

    Raises:
        SSEError: the index is invalid, or belongs to another capture.
        TransportError: compressed data is damaged or truncated, or no library decompresses it.
    """
    read = getattr(file, "read1", file.read)
    chunks: Iterator[bytes] = iter(lambda: read(READ_SIZE), b"")
    start = b""
    for chunk in chunks:
        start += chunk
        if not any(magic.startswith(start) for magic in MAGIC):
            break
    if start.startswith(MAGIC):
        from sse_fast.columns._captures import Decompressed

        name = None if path is None else str(path)
        return _ticking(Decompressed(chain([start], chunks), name), clock)
    chunks = chain([start] if start else [], chunks)
    index = None if path is None else _timing_index.path_beside(path)
    if path is None or index is None or not index.is_file():
        return _ticking(chunks, clock)
    return _as_recorded(chunks, _timing_index.read(index, path), clock)


def _ticking(chunks: Iterable[bytes], clock: Clock) -> Iterator[bytes]:
    for chunk in chunks:
        clock.tick(chunk)
        yield chunk


def _as_recorded(
    chunks: Iterator[bytes], timing: _timing_index.Timing, clock: Clock
) -> Iterator[bytes]:
    """Cut a capture into the chunks of its index."""
    rest = b""
    for seconds, length in zip(timing.seconds, timing.lengths, strict=True):
        clock.now = None if timing.began is None else timing.began + seconds
        while length:
            rest = rest or next(chunks, b"")
            if not rest:
                return
            yield rest[:length]
            length, rest = max(0, length - len(rest)), rest[length:]
    # The recording was killed, or is still running.
    clock.now = None
    if rest:
        yield rest
    yield from chunks
