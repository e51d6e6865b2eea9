"""Content codings, decoded slice by slice."""

from __future__ import annotations

import asyncio
import gzip
import sys
import threading
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import brotli
import pytest
import zstandard

from sse_fast import (
    EventSource,
    ReconnectPolicy,
    ResponseError,
    TransportError,
    aopen_stream,
    open_stream,
)
from sse_fast._http1.decoding import make_decoder
from sse_fast._source import READ_SIZE
from tests.support.faults import FaultServer, chunk, framed, head, packed

GZIPPED = gzip.compress(b"no", mtime=0)
STREAM = b"data: a\n\ndata: b\n\n"
DATA = ["a", "b"]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def gzip_byte(byte: int) -> bytes:
    return gzip.compress(bytes([byte]))


PACK: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "gzip, a member for each byte": ("gzip", lambda data: b"".join(map(gzip_byte, data))),
    "deflate": ("deflate", zlib.compress),
    "deflate, raw": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "two": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "three": ("gzip,br ,\tgzip", lambda data: gzip.compress(brotli.compress(gzip.compress(data)))),
    "with unknown ones": ("none, gzip, , identity, utf-8", gzip.compress),
}
# The libraries of a coding, best first; the tests of the last hide those before it.
LIBRARIES = {
    "br": ["brotli", "brotlicffi"],
    "zstd": ["compression.zstd", "backports.zstd", "zstandard"],
}


def decode(coding: str, parts: Iterable[bytes], *, whole: bool = True) -> list[bytes]:
    decoder = make_decoder(coding)
    assert decoder is not None
    pieces = [piece for part in parts for piece in decoder.decode(part)]
    if whole:
        decoder.check_end()
    return pieces


@pytest.fixture(params=["gzip", "deflate", "deflate, raw", "br", "zstd", "zstandard"])
def pack(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Callable[[bytes], bytes]]:
    if request.param == "zstandard":
        for module in ("compression", "compression.zstd", "backports.zstd"):
            monkeypatch.setitem(sys.modules, module, None)
    return PACK["zstd" if request.param == "zstandard" else request.param]


@pytest.mark.parametrize("name", PACK)
def test_codings_are_decoded_however_they_are_cut(name: str) -> None:
    coding, compress = PACK[name]
    body = compress(STREAM)
    for size in (1, 2, 5, len(body)):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(decode(coding, parts)) == STREAM


@pytest.mark.parametrize(
    "coding", ["", "identity", "none", "UTF-8", "Identity, none", ",", "aws-chunked", "compress"]
)
def test_unknown_codings_are_no_coding(coding: str) -> None:
    assert make_decoder(coding) is None


def test_bomb_is_decoded_in_slices(pack: Any) -> None:
    coding, compress = pack
    size = 10_000_000
    bomb = compress(bytes(size))
    assert len(bomb) < size / 500
    decoder = make_decoder(coding)
    assert decoder is not None
    sizes = [len(piece) for piece in decoder.decode(bomb)]
    assert max(sizes) <= READ_SIZE
    assert sum(sizes) == size
    # The first slice does not wait for the others.
    decoder = make_decoder(coding)
    assert decoder is not None
    assert next(piece for piece in decoder.decode(bomb) if piece)


def test_events_come_out_as_soon_as_their_bytes_came(pack: Any) -> None:
    coding, compress = pack
    if coding == "deflate":
        wbits = 15 if compress is zlib.compress else -15
        packer = zlib.compressobj(wbits=wbits)
        parts = [packer.compress(each) + packer.flush(zlib.Z_SYNC_FLUSH) for each in (b"a", b"b")]
    else:
        parts = list(packed(coding, [b"a", b"b"]))
    decoder = make_decoder(coding)
    assert decoder is not None
    assert [b"".join(decoder.decode(part)) for part in parts][:2] == [b"a", b"b"]


def test_truncated_body_raises_and_is_not_permanent(pack: Any) -> None:
    coding, compress = pack
    body = compress(STREAM)
    for end in range(1, len(body)):
        with pytest.raises(TransportError, match="truncated") as caught:
            decode(coding, [body[:end]])
        assert not caught.value.permanent
    assert decode(coding, []) == []


def test_everything_before_damage_is_decoded(pack: Any) -> None:
    coding, compress = pack
    # Incompressible lines, in blocks of their own, so that damage is found where it is.
    lines = [bytes(range(at, at + 40)) * 3 for at in range(50)]
    if coding == "deflate":
        packer = zlib.compressobj(wbits=15 if compress is zlib.compress else -15)
        parts = [packer.compress(line) + packer.flush(zlib.Z_FULL_FLUSH) for line in lines]
    else:
        parts = list(packed(coding, lines))
    good = b"".join(parts[:30])
    for damaged in (good + b"\xff" * 100, good + b"\x07\xff\xff\xff" * 30):
        for size in (1, len(damaged)):
            decoder = make_decoder(coding)
            assert decoder is not None
            parts = [damaged[at : at + size] for at in range(0, len(damaged), size)]
            found: list[bytes] = []
            with pytest.raises(TransportError, match="not valid") as caught:
                found.extend(piece for part in parts for piece in decoder.decode(part))
            assert b"".join(found).startswith(b"".join(lines[:30]))
            assert caught.value.permanent
            assert caught.value.__cause__ is not None


def test_bytes_after_the_end_are_ignored(pack: Any) -> None:
    coding, compress = pack
    if coding == "zstd":
        # A stream may have several frames (RFC 8878, 3).
        frames = compress(STREAM[:9]) + compress(STREAM[9:])
        for size in (1, len(frames)):
            parts = [frames[at : at + size] for at in range(0, len(frames), size)]
            assert b"".join(decode(coding, parts)) == STREAM
    else:
        assert b"".join(decode(coding, [compress(STREAM) + b"more", b"more"])) == STREAM


@pytest.mark.parametrize(
    "rest",
    [b"more", bytes(8), b"\x1f", b"\x1f\x8b", b"\x1f\x8b\0", bytes(8) + GZIPPED],
    ids=repr,
)
def test_bytes_after_gzip_that_are_no_member_are_ignored(rest: bytes) -> None:
    body = gzip.compress(STREAM[:5]) + gzip.compress(b"") + gzip.compress(STREAM[5:]) + rest
    for size in (1, 2, 3, len(body)):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(decode("gzip", parts)) == STREAM


def test_only_first_member_is_decoded_if_asked() -> None:
    body = gzip.compress(b"one") + gzip.compress(b"two")
    for size in (1, len(body)):
        decoder = make_decoder("gzip", one_member=True)
        assert decoder is not None
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(piece for part in parts for piece in decoder.decode(part)) == b"one"
        decoder.check_end()


def test_second_member_truncated_or_damaged_raises() -> None:
    first, second = gzip.compress(b"one"), gzip.compress(b"two")
    for end in range(3, len(second)):
        with pytest.raises(TransportError, match="truncated") as caught:
            decode("gzip", [first, second[:end]])
        assert not caught.value.permanent
    with pytest.raises(TransportError, match="not valid") as caught:
        decode("gzip", [first + second[:10] + b"\xff" * 20])
    assert caught.value.permanent


def test_event_of_second_member_does_not_wait(faults: FaultServer) -> None:
    hold = threading.Event()
    parts = [gzip.compress(b"data: a\n\n"), hold, gzip.compress(b"data: b\n\n")]
    faults.scripts["/"] = framed("chunked", parts, "Content-Encoding: gzip")
    with open_stream(faults.url + "/") as stream:
        assert next(stream).data == "a"
        hold.set()
        assert [event.data for event in stream] == ["b"]


def test_too_many_codings_are_refused() -> None:
    with pytest.raises(TransportError, match="6 content codings") as caught:
        make_decoder("gzip, " * 6)
    assert caught.value.permanent


@pytest.mark.parametrize("coding", LIBRARIES)
def test_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, faults: FaultServer, coding: str
) -> None:
    for name in ["compression", *LIBRARIES[coding]]:
        monkeypatch.setitem(sys.modules, name, None)
    _, compress = PACK[coding]
    faults.scripts["/"] = framed("chunked", [compress(STREAM)], f"Content-Encoding: {coding}")
    with pytest.raises(TransportError, match=r"not installed: pip install '") as caught:
        list(open_stream(faults.url + "/"))
    assert coding in str(caught.value)
    assert caught.value.permanent


# -- Over sockets ----------------------------------------------------------------------------------


def by_event_source(url: str) -> list[str]:
    return [event.data for event in EventSource(url, policy=ReconnectPolicy.never())]


def by_open_stream(url: str) -> list[str]:
    return [event.data for event in open_stream(url)]


def by_aopen_stream(url: str) -> list[str]:
    async def run() -> list[str]:
        async with aopen_stream(url) as stream:
            return [event.data async for event in stream]

    return asyncio.run(run())


@pytest.fixture(params=[by_open_stream, by_aopen_stream, by_event_source])
def reading(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("field", ["none", "UTF-8", "", "identity, none"])
def test_meaningless_coding_is_read(reading: Any, faults: FaultServer, field: str) -> None:
    faults.scripts["/"] = framed("chunked", [STREAM], f"Content-Encoding: {field}")
    assert reading(faults.url + "/") == DATA


@pytest.mark.parametrize("name", ["deflate, raw", "br", "zstd", "two"])
def test_coded_stream_is_read(reading: Any, faults: FaultServer, name: str) -> None:
    coding, compress = PACK[name]
    faults.scripts["/"] = framed("length", [compress(STREAM)], f"Content-Encoding: {coding}")
    assert reading(faults.url + "/") == DATA


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_coded_event_does_not_wait_for_the_next(faults: FaultServer, coding: str) -> None:
    hold = threading.Event()
    parts = list(packed(coding, [b"data: a\n\n", hold, b"data: b\n\n"]))
    faults.scripts["/"] = framed("chunked", parts, f"Content-Encoding: {coding}")
    with open_stream(faults.url + "/") as stream:
        assert next(stream).data == "a"
        hold.set()
        assert [event.data for event in stream] == ["b"]


# -- A body that is no framing or coding -----------------------------------------------------------

ERROR = b'{"error": "no quota"}'
BARE = {
    "chunked": ["Transfer-Encoding: chunked"],
    "gzip": ["Content-Encoding: gzip"],
    "br": ["Content-Encoding: br"],
    "zstd": ["Content-Encoding: zstd"],
}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("reading", [by_open_stream, by_aopen_stream])
@pytest.mark.parametrize("parts", [1, 2])
def test_bare_body_is_shown_by_the_error(
    reading: Any, faults: FaultServer, name: str, parts: int
) -> None:
    begin = head(*BARE[name])
    faults.scripts["/"] = [begin + ERROR] if parts == 1 else [begin, 0.05, ERROR]
    with pytest.raises(TransportError, match=r"not valid|invalid framing") as caught:
        reading(faults.url + "/")
    assert caught.value.permanent
    assert caught.value.response.status == 200
    assert caught.value.response.body == ERROR
    assert caught.value.response.json() == {"error": "no quota"}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("status", ["200 OK", "429 Slow"])
def test_refused_bare_body_is_shown_by_the_error(
    reading: Any, faults: FaultServer, name: str, status: str
) -> None:
    faults.scripts["/"] = [head(*BARE[name], status=status, type="application/json"), ERROR]
    with pytest.raises(ResponseError) as caught:
        reading(faults.url + "/")
    assert caught.value.response.body == ERROR


def test_damage_after_events_shows_no_body(faults: FaultServer) -> None:
    faults.scripts["/"] = [head("Transfer-Encoding: chunked"), chunk(b"data: a\n\n"), b"noise"]
    with pytest.raises(TransportError) as caught:
        list(open_stream(faults.url + "/"))
    assert caught.value.permanent
    assert caught.value.response is None
