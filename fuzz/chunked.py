"""Fuzzes the compiled decoder of the chunked coding beside httptools alone.

    python -m fuzz.chunked [--executions 1000000] [--seed 0]

Both decode the same random bytes, cut anywhere: ordinary chunks, unusual ones, damaged and
truncated bodies. They have to return the same body, and refuse the same for the same reason. An
execution is one body in one cutting that the compiled decoder has read. Of 16 cuttings of a body, 4
are decoded to the end and compared with httptools alone. For the others, what httptools would be
fed after the compiled decoder has stopped has to be the same. The program prints the executions,
their rate, and how many of them httptools has continued.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from sse_fast._http1.chunked import ChunkedBody

BATCH = 50_000
"""Executions of one seed."""

# Members that are to come more often are there several times.
NOISE = b"\r\n\r\n\r\n0019aF;= \t\0gx:-\x7f\xff"
LINE_ENDS = (
    *(b"\n", b"\r", b" \r\n", b"\t\r\n", b"\r\r\n", b"\n\r\n", b";\r\n", b";a=b\r\n", b";a\n"),
    *(b' ; a="x;y"\r\n', b";\x01\xff\r\n", b"\0\r\n", b"\r\n\r\n", b"g\r\n", b"", b"x0\r\n"),
)
SIZES = (
    *(b"f" * 16, b"1" + b"0" * 16, b"f" * 15, b"F" * 15 + b"0", b"0" * 27 + b"1", b"0" * 14 + b"1"),
    *(b"0" * 15 + b"1", b"7" + b"f" * 15, b"8" + b"0" * 15, b"-1", b"+1", b"0x1", b"", b" 1"),
    *(b"1_0", b"\t2", b"\r\n1", b"\n1", b"1 2"),
)
DATA_ENDS = (b"", b"\n", b"\r", b"\r\r\n", b" \r\n", b"x\r\n", b"\n\n", b"\0", b"\r\n\r\n")
LASTS = (
    *(b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\n", b"0", b"", b"", b"000\r\n\r\n", b"0\n\n"),
    *(b"0\r\n\n", b"0;a=b\r\n\r\n", b"0 \r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nX: y\n\n", b"\r\n"),
    *(b"0\r\nX: y\r\nZ:", b"0\r\n: x\r\n\r\n", b"0" * 19 + b"\r\n\r\n", b"0\r\nX\r\n\r\n"),
    *(b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n5\r\nabcde\r\n", b"0\r\nX: \0\r\n\r\n"),
    *(b"0\r\r\n\r\n", b"0\r\n X\r\n\r\n", b"-0\r\n\r\n"),
)
_TO_NOISE = bytes(NOISE[byte % len(NOISE)] for byte in range(256))
_WHOLE, _IN_TWO, _ANYWHERE, _BYTES = range(4)


def make_draw(random: Random) -> Callable[[int], int]:
    """Return a function that draws a number below a limit of at most 65536, fast."""
    numbers = iter(())

    def draw(limit: int) -> int:
        nonlocal numbers
        for number in numbers:
            return number % limit
        numbers = iter(memoryview(random.randbytes(8192)).cast("H"))
        return draw(limit)

    return draw


def make_body(random: Random, draw: Callable[[int], int]) -> bytes:
    """Make chunks, most of them ordinary; damage some bodies."""
    parts = []
    for _ in range(draw(6)):
        kind = draw(24)
        size = draw(14) if kind > 1 else 250 + draw(12) if kind else draw(3000)
        line = b"%X" % size if kind & 1 else b"%x" % size
        unusual = draw(64)
        if unusual < 8:
            line = b"0" * draw(18) + line
        elif unusual < 11:
            line = SIZES[draw(len(SIZES))]
        parts += (
            line,
            LINE_ENDS[draw(len(LINE_ENDS))] if 11 <= unusual < 15 else b"\r\n",
            random.randbytes(size).translate(_TO_NOISE),
            DATA_ENDS[draw(len(DATA_ENDS))] if 15 <= unusual < 18 else b"\r\n",
        )
    parts.append(LASTS[draw(len(LASTS))])
    body = b"".join(parts)
    if body and draw(3) == 0:
        damaged = bytearray(body)
        for _ in range(1 + draw(3)):
            # Near the beginning as often as anywhere.
            at = draw(1 + len(damaged) if draw(2) else min(len(damaged), 8) + 1)
            byte = NOISE[draw(len(NOISE))] if draw(4) else draw(256)
            # Inserts, replaces or removes a byte.
            damaged[at : at + draw(2)] = bytes((byte,)) if draw(3) else b""
        body = bytes(damaged)
    return body[: draw(len(body))] if body and draw(5) == 0 else body


def cut(draw: Callable[[int], int], data: bytes, cutting: int) -> list[bytes]:
    if cutting == _WHOLE or len(data) < 2:
        return [data]
    if cutting == _IN_TWO:
        at = 1 + draw(len(data) - 1)
        return [data[:at], data[at:]]
    pieces = []
    at = 0
    while at < len(data):
        end = at + 1 + (draw(len(data)) if cutting == _ANYWHERE else 0)
        pieces.append(data[at:end])
        at = end
    return pieces


def read(body: ChunkedBody, pieces: list[bytes], in_place: bool = False) -> tuple[Any, ...]:
    """Decode a body; return everything that its reader can see, and whether httptools was needed.

    Args:
        body: the decoder.
        pieces: the bytes of the connection.
        in_place: whether to let the compiled decoder move the bytes in a buffer.
    """
    found = b""
    for piece in pieces:
        ordinary = body.ordinary
        if in_place and ordinary is not None:
            ordinary.few = 0
            # A buffer is usually longer than what was received.
            buffer = memoryview(bytearray(piece + b"5\r\nother\r\n"))
            part = ordinary.take(buffer, len(piece))
            if ordinary.rest >= 0:
                part = body.feed_rest(part, buffer[: len(piece)])
            found += part
        else:
            found += body.feed(piece)
        if body.error is not None or body.is_complete:
            break
    error = body.error
    needed = body.ordinary is None
    is_complete = body.is_complete or (error is None and body.end())
    return found, is_complete, error is None, type(error), str(error), body.unframed, needed


def read_ordinary(pieces: list[bytes], in_place: bool) -> tuple[bytes, bytes, bool]:
    """Decode ordinary chunks only.

    Returns:
        Their data, what httptools would be fed next, and whether a byte of the body was returned.
    """
    ordinary = ChunkedBody().ordinary
    assert ordinary is not None
    ordinary.few = 0
    found = b""
    for at, piece in enumerate(pieces):
        if in_place:
            found += ordinary.take(memoryview(bytearray(piece)), len(piece))
        else:
            found += ordinary.copy(piece, len(piece))
        if ordinary.rest >= 0:
            left = b"".join((piece[ordinary.rest :], *pieces[at + 1 :]))
            return found, ordinary.stop() + left, ordinary.has_body
    return found, ordinary.stop(), ordinary.has_body


def run(seed: int, executions: int) -> tuple[int, int]:
    """Compare the decoders; return the executions, and how many of them httptools has continued.

    Raises:
        AssertionError: the decoders differ; it holds the bytes.
    """
    random = Random(seed)
    draw = make_draw(random)
    done = continued = 0
    while done < executions:
        data = make_body(random, draw)
        expected = None
        is_short = len(data) < 32
        for _ in range(4):
            pieces = cut(draw, data, draw(4 if is_short else 3))
            if expected is None:
                expected = read(ChunkedBody(compiled=False), pieces)
                compared = 6
            in_place = draw(2) == 1
            found = read(ChunkedBody(), pieces, in_place)
            assert found[:compared] == expected[:compared], (pieces, in_place, found, expected)
            continued += found[6]
            # Other cuts may lead to another explanation of the same error.
            compared = 3
        ordinary = read_ordinary([data], in_place=False)
        for _ in range(12):
            pieces = cut(draw, data, draw(4 if is_short else 3))
            in_place = draw(2) == 1
            assert read_ordinary(pieces, in_place) == ordinary, (pieces, in_place, ordinary)
        done += 16
    return done, continued


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the decoder of the chunked coding.")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if ChunkedBody().ordinary is None:
        sys.exit("The decoder of ordinary chunks is not compiled: see CONTRIBUTING.md")
    done = continued = 0
    began = shown = time.monotonic()
    seeds = Random(arguments.seed)
    while done < arguments.executions:
        seed = seeds.getrandbits(63)
        try:
            counts = run(seed, min(BATCH, arguments.executions - done))
        except AssertionError as error:
            sys.exit(f"seed {seed}: {error}")
        done, continued = done + counts[0], continued + counts[1]
        now = time.monotonic()
        if now - shown > 10 or done >= arguments.executions:
            shown = now
            rate = done / (now - began)
            print(f"{done:,} executions, {rate:,.0f}/s; {continued:,} by httptools too", flush=True)


if __name__ == "__main__":
    main()
