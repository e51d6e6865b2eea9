"""The index of a capture, which says when each chunk arrived.

It is a text file beside the capture, named after it with `.timing` added. Its lines end with LF:

    # sse-fast timing 1, 2026-11-28T09:30:00.125+00:00, https://example.com/events
    0.000214	161
    0.250871	322
    30.004122	0

The first line has the format version, the time at which the response head arrived, and the URL
without its query. Other lines that begin with # are comments. Every other line is a chunk: the
seconds from the response head to its arrival (monotonic clock), a TAB, and its length in bytes. A
final line of length 0 gives the end of the recording; it is missing if the recorder was killed.
"""

from __future__ import annotations

import math
from array import array
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from sse_fast import SSEError
from sse_fast._source import redact_url

_FIRST = "# sse-fast timing 1"


class Timing(NamedTuple):
    """The arrival time (s after the response head) and length (bytes) of each chunk."""

    seconds: array[float]
    lengths: array[int]
    began: float | None = None
    """When the response head arrived: seconds since the epoch; None if the first line is other."""


def path_beside(capture: Path) -> Path:
    """Return the path of a capture's index."""
    return Path(f"{capture}.timing")


def first_line(url: str) -> bytes:
    """Return the first line of an index that begins now."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return f"{_FIRST}, {now}, {redact_url(url)}\n".encode()


def line(seconds: float, length: int) -> bytes:
    """Return the line of one chunk."""
    return b"%.6f\t%d\n" % (seconds, length)


def read(path: Path, capture: Path) -> Timing:
    """Read the index of a capture.

    A final line without a line end was cut off with the recording and is ignored.

    Raises:
        OSError: a file cannot be read.
        SSEError: the file is not an index, or belongs to another capture.
    """
    timing = Timing(array("d"), array("q"))
    latest, total, size = 0.0, 0, 0
    with path.open("rb") as file:
        text = _text(file.readline())
        if text.rstrip().partition(",")[0] != _FIRST:
            raise SSEError(f"{path}, line 1: expected {_FIRST!r}, got {text.rstrip()[:80]!r}")
        timing = timing._replace(began=_time_of(text))
        for number, text in enumerate(map(_text, file), 2):
            if text.startswith("#") or not text.endswith("\n"):
                continue
            where = f"{path}, line {number}: expected"
            got = repr(text.rstrip("\r\n")[:80])
            fields = text.split("\t")
            try:
                seconds, length = float(fields[0]), int(fields[1])
                if len(fields) != 2 or length < 0 or not 0 <= seconds < math.inf:
                    raise ValueError
            except (IndexError, ValueError):
                raise SSEError(f"{where} seconds, a TAB and a length, got {got}") from None
            if seconds < latest:
                raise SSEError(
                    f"{where} a time of at least {latest:f}, as in the line before, got {got}"
                )
            latest, total = seconds, total + length
            if total > size:
                # Looked up again, as both files may still be growing, the capture first.
                size = capture.stat().st_size
            if total > size:
                raise SSEError(
                    f"{where} chunks within the {size} bytes of the capture, got {got}, which ends "
                    f"at {total}: the index belongs to another capture"
                )
            timing.seconds.append(seconds)
            timing.lengths.append(length)
    return timing


def time_text(seconds: float) -> str:
    """Return a time since the epoch as text: ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")


def _time_of(first: str) -> float | None:
    fields = first.split(", ")
    with suppress(IndexError, ValueError):
        when = datetime.fromisoformat(fields[1])
        # A time without a zone could be any.
        return None if when.tzinfo is None else when.timestamp()
    return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
