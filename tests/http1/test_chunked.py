"""The compiled decoder of ordinary chunks, and what httptools continues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

import pytest

from fuzz import chunked
from sse_fast._core.parser import ACCELERATED
from sse_fast._http1.chunked import MAX_FRAMING, ChunkedBody

pytestmark = pytest.mark.skipif(not ACCELERATED, reason="the decoder is compiled")

ORDINARY = b"5\r\nhello\r\n00a\r\n0123456789\r\n1\r\n\n\r\nF\r\n012345678901234\r\n"
BODY = b"hello0123456789\n012345678901234"
UNUSUAL = {
    "last": b"0\r\n\r\n",
    "last, zeros": b"0000\r\n\r\n",
    "last, extension": b"0;a=b\r\n\r\n",
    "trailer": b"0\r\nX: y\r\n\r\n",
    "trailer, invalid": b"0\r\nX\r\n\r\n",
    "extension": b"5;a=b\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    "space": b"5 \r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    "leading space": b" 5\r\nhello\r\n0\r\n\r\n",
    "LF": b"5\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
    "LF after data": b"5\r\nhello\n5\r\nworld\r\n0\r\n\r\n",
    "CR CR LF": b"5\r\r\nhello\r\n0\r\n\r\n",
    "CR only": b"5\rhello\r\n0\r\n\r\n",
    "CR only after data": b"5\r\nhello\r5\r\nworld\r\n",
    "nothing after data": b"5\r\nhello5\r\nworld\r\n",
    "15 digits": b"000000000000005\r\nhello\r\n0\r\n\r\n",
    "16 digits": b"0000000000000005\r\nhello\r\n0\r\n\r\n",
    "huge": b"fffffffffffffff\r\nhello",
    "overflow": b"10000000000000000\r\nhello",
    "sign": b"-5\r\nhello\r\n0\r\n\r\n",
    "NUL": b"5\0\r\nhello\r\n0\r\n\r\n",
    "empty line": b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "text": b"xyz",
    "after the end": b"0\r\n\r\n5\r\nhello\r\n",
    "unfinished size": b"5",
    "unfinished size line": b"5\r",
    "unfinished data": b"5\r\nhel",
    "unfinished chunk": b"5\r\nhello\r",
    "unfinished last": b"0",
    "last without empty line": b"0\r\n",
    "nothing": b"",
}


def pieces_of(data: bytes, cuts: tuple[int, ...]) -> Iterator[bytes]:
    ends = (0, *cuts, len(data))
    return (data[start:end] for start, end in pairwise(ends) if start < end)


def read(body: ChunkedBody, pieces: Iterator[bytes], in_place: bool = False) -> Any:
    """Return the body, and all that tells how it ended, but not whether httptools was needed."""
    return chunked.read(body, list(pieces), in_place)[:-1]


def assert_same(data: bytes, *cuts: int) -> None:
    expected = read(ChunkedBody(compiled=False), pieces_of(data, cuts))
    assert read(ChunkedBody(), pieces_of(data, cuts)) == expected, cuts
    assert read(ChunkedBody(), pieces_of(data, cuts), in_place=True) == expected, cuts


@pytest.mark.parametrize("begin", [ORDINARY, b""], ids=["later", "first"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_httptools_continues_as_if_it_had_begun(name: str, begin: bytes) -> None:
    data = begin + UNUSUAL[name]
    assert_same(data)
    for first in range(1, len(data)):
        assert_same(data, first)
        for second in range(first + 1, min(first + 4, len(data))):
            assert_same(data, first, second)
    assert_same(data, *range(1, len(data)))


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_ordinary_chunks_need_no_httptools(size: int) -> None:
    body = ChunkedBody()
    cuts = tuple(range(size, len(ORDINARY), size))
    assert b"".join(map(body.feed, pieces_of(ORDINARY, cuts))) == BODY
    assert body.ordinary is not None
    assert body.ordinary.rest == -1
    assert body.feed(b"0\r\n\r\n") == b""
    assert body.ordinary is None
    assert body.is_complete


def test_large_chunks_are_returned_in_place() -> None:
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    buffer = memoryview(bytearray(chunk + chunk + b"5\r\nhel"))
    body = ChunkedBody()
    assert body.ordinary is not None
    found = body.ordinary.take(buffer, len(buffer))
    assert isinstance(found, memoryview)
    assert found.obj is buffer.obj
    assert found == b"x" * 20_000 + b"hel"
    assert body.ordinary.take(memoryview(bytearray(b"lo\r\n")), 4) == b"lo"


def test_chunks_of_any_sizes_are_moved_together() -> None:
    """The body is whole, and what follows the chunks is left as it was, whatever is moved."""
    rest = b"0\r\nTrailer: 1\r\n\r\n"
    for sizes in permutations((3, 40, 600, 9000, 20_000)):
        parts = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
        received = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + rest
        buffer = memoryview(bytearray(received))
        ordinary = ChunkedBody().ordinary
        assert ordinary is not None
        assert ordinary.take(buffer, len(buffer)) == b"".join(parts)
        assert buffer[ordinary.rest :] == rest[1:]


def test_read_only_buffer_is_refused() -> None:
    ordinary = ChunkedBody().ordinary
    assert ordinary is not None
    with pytest.raises(BufferError):
        ordinary.take(memoryview(b"5\r\nhello\r\n"), 10)


def test_framing_before_httptools_counts() -> None:
    """The limit of framing in a row is the same, whoever has decoded it."""
    for compiled in (True, False):
        body = ChunkedBody(compiled=compiled)
        assert body.feed(ORDINARY) == BODY
        for piece in (b"0000", b"1", b";", b"a" * (MAX_FRAMING - 6)):
            assert body.feed(piece) == b""
        assert body.error is None
        body.feed(b"a")
        assert "extensions" in str(body.error)


# -- Fuzzing ---------------------------------------------------------------------------------------


def fuzz(seed: int, executions: int) -> None:
    done, continued = chunked.run(seed, executions)
    assert done >= executions
    assert 0 < continued < done


def test_decoders_agree_on_random_bodies() -> None:
    fuzz(17, 10_000)


@pytest.mark.soak
def test_decoders_agree_on_many_random_bodies() -> None:
    for seed in range(20):
        fuzz(seed, 200_000)
