"""Content codings that a library misreads, or leaves in place as `auto_decompress=False` has it."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import aiohttp
import brotli
import pytest
import zstandard

from sse_fast import TransportError, aiter_events
from sse_fast._source import Headers
from sse_fast.adapters.aiohttp import _looks_encoded
from tests.support.clients import READERS
from tests.support.faults import FaultServer, framed, head

STREAM = b"data: a\n\ndata: b\n\n"


def raw_deflate(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, wbits=-15)
    return packer.compress(data) + packer.flush()


def dynamic(data: bytes) -> bytes:
    """Return a raw deflate body with Huffman codes of its own, after which the text begins."""
    noise = bytes(random.Random(1).choices(b"abcdefghijklmnop :\n", k=4000))
    return raw_deflate(data + b":" + noise + b"\n\n", 9)


PACK: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip, stored": ("gzip", lambda data: gzip.compress(data, 0)),
    "deflate": ("deflate", zlib.compress),
    "deflate, fast": ("deflate", lambda data: zlib.compress(data, 1)),
    "deflate, stored": ("deflate", lambda data: zlib.compress(data, 0)),
    "deflate, raw": ("deflate", raw_deflate),
    "deflate, raw, stored": ("deflate", lambda data: raw_deflate(data, 0)),
    "deflate, dynamic": ("deflate", dynamic),
    "br": ("br", brotli.compress),
    "br, fast": ("br", lambda data: brotli.compress(data, quality=0)),
    "zstd": ("zstd", zstandard.compress),
}


def read(faults: FaultServer, coding: str, steps: list[Any], auto_decompress: bool) -> list[str]:
    faults.scripts["/"] = [head(f"Content-Encoding: {coding}"), *steps]

    async def run() -> list[str]:
        async with aiohttp.ClientSession(auto_decompress=auto_decompress) as session:
            response = await session.get(f"{faults.url}/")
            async with aiter_events(response) as events:
                return [event.data async for event in events]

    return asyncio.run(run())


@pytest.mark.parametrize("by_bytes", [False, pytest.param(True, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("name", PACK)
def test_body_left_encoded_raises(faults: FaultServer, name: str, by_bytes: bool) -> None:
    coding, compress = PACK[name]
    body = compress(STREAM)
    steps: list[Any] = [body]
    if by_bytes:
        steps = [step for byte in body[:400] for step in (bytes([byte]), 0.0003)]
    with pytest.raises(TransportError, match=f"'{coding}' of the body is not decoded") as caught:
        read(faults, coding, steps, auto_decompress=False)
    assert caught.value.permanent
    if not by_bytes:
        events = read(faults, coding, steps, auto_decompress=True)
        assert events[:2] == ["a", "b"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_decoded_text_is_not_taken_for_encoded(coding: str) -> None:
    """Control characters and invalid UTF-8 are allowed in a stream that was decoded."""
    fields = Headers([("content-encoding", coding)])
    generator = random.Random(7)
    for beginning in (b"data: ", b"event: ", b"id: ", b": ", b"\n", b"x^y: ", b"hb: ", b"retry:"):
        for _ in range(100):
            noise = bytes(generator.choices(b"\x1b\x00\xff\x9c[0m abc", k=60))
            for end in (1, 8, 30, 66):
                assert not _looks_encoded((beginning + noise)[:end], fields)


def test_text_after_coding_that_was_not_applied_is_read(faults: FaultServer) -> None:
    assert read(faults, "br", [STREAM], auto_decompress=False) == ["a", "b"]


@pytest.mark.parametrize("coding", ["gzip, identity", "none, gzip", "GZip , ", "gzip, utf-8, gzip"])
@pytest.mark.parametrize("name", [name for name in READERS if name != "aiohttp"])
def test_meaningless_coding_in_list_is_identity(
    name: str, faults: FaultServer, coding: str
) -> None:
    body = gzip.compress(STREAM)
    for _ in range(coding.count("gzip") - 1):
        body = gzip.compress(body)
    faults.scripts["/"] = framed("chunked", [body], f"Content-Encoding: {coding}")
    assert [event.data for event in READERS[name].read(faults.url + "/").events] == ["a", "b"]
