"""The index of a capture: when each of its chunks arrived.

It is a text beside the capture, by the name of that and `.timing`, of lines that end with LF:

    # sse-fast timing 1, 2026-11-28T09:30:00.125+00:00, https://example.com/events
    0.000214	161
    0.250871	322
    30.004122	0

The first says what it is, when the head of the response arrived, and whose response it was, without
the query. Others that begin with # say nothing. Each of the rest is a chunk: the seconds from that
head to its arrival, by a clock that is never set, a TAB, and its length in bytes. A last one of
length 0 says when the recording came to its end, if it was not killed.
"""

from __future__ import annotations

import math
from array import array
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from sse_fast import SSEError
from sse_fast._source import redact_url

_FIRST = "# sse-fast timing 1"


class Timing(NamedTuple):
    """Of each chunk, when it arrived, and how long it is."""

    seconds: array[float]
    lengths: array[int]


def path_beside(capture: Path) -> Path:
    return Path(f"{capture}.timing")


def first_line(url: str) -> bytes:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return f"{_FIRST}, {now}, {redact_url(url)}\n".encode()


def line(seconds: float, length: int) -> bytes:
    return b"%.6f\t%d\n" % (seconds, length)


def read(path: Path, capture: Path) -> Timing:
    """The index at that path, of that capture.

    A last line without its end was cut off with the recording, and is not looked at.

    Raises:
        OSError: it cannot be read.
        SSEError: it is none, or one of another capture.
    """
    timing = Timing(array("d"), array("q"))
    latest, total, size = 0.0, 0, 0
    with path.open("rb") as file:
        text = _text(file.readline())
        if text.rstrip().partition(",")[0] != _FIRST:
            raise SSEError(f"{path}, line 1: expected {_FIRST!r}, got {text.rstrip()[:80]!r}")
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
                    f"{where} a time not before {latest:f}, that of a line above, got {got}"
                )
            latest, total = seconds, total + length
            if total > size:
                # Not once for all: both may still be growing, the capture first.
                size = capture.stat().st_size
            if total > size:
                raise SSEError(
                    f"{where} chunks within the {size} bytes of the capture, got {got}, which ends "
                    f"at {total}: it is the index of another one"
                )
            timing.seconds.append(seconds)
            timing.lengths.append(length)
    return timing


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
