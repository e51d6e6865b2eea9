"""The streams of the benchmarks: their bytes never change, and their events are right."""

from __future__ import annotations

import hashlib

import pytest

from sse_fast._bench.streams import CHUNKINGS, STREAMS, Stream, make
from tests.support.reference import interpret

# Numbers of different machines and versions are compared, so these hashes never change.
RECORD = {
    "a": ("391d1bdbc13d9025", 800, 265_614),
    "au": ("d66f13aa899fcb56", 800, 266_092),
    "b": ("968a252eb71803b7", 2000, 259_800),
    "c": ("0792e813fb681543", 180, 265_011),
    "d": ("deee68e64679814b", 20_000, 260_000),
    "e1": ("dcb4d16d90f5d7b6", 1, 1_048_584),
    "e2": ("1f07843dc1ab151a", 1, 1_118_577),
}


@pytest.fixture(scope="module", params=STREAMS)
def stream(request: pytest.FixtureRequest) -> Stream:
    return make(request.param)


def test_stream_bytes_never_change(stream: Stream) -> None:
    whole = b"".join(stream.blocks)
    digest = hashlib.sha256(whole).hexdigest()[:16]
    assert (digest, len(stream.events), len(whole)) == RECORD[stream.name]
    assert make(stream.name) == stream


def test_stream_events_match_reference(stream: Stream) -> None:
    outcome = interpret(b"".join(stream.blocks))
    assert [event[:3] for event in outcome.events] == stream.events
    assert not outcome.pending


def test_each_block_is_one_event(stream: Stream) -> None:
    assert len(stream.blocks) == len(stream.events)
    for block, (_, data, _) in list(zip(stream.blocks, stream.events, strict=True))[:50]:
        assert [event[1] for event in interpret(block).events] == [data]


@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_chunkings_have_same_bytes(stream: Stream, chunking: str) -> None:
    chunks = stream.chunks(chunking)
    assert b"".join(chunks) == b"".join(stream.blocks)
    assert all(chunks)
    sizes = {"64 KiB": 65536, "4 KiB": 4096, "16 bytes": 16, "1 byte": 1}
    if chunking in sizes:
        assert {len(chunk) for chunk in chunks[:-1]} <= {sizes[chunking]}
        assert len(chunks[-1]) <= sizes[chunking]
    else:
        assert len(chunks) == (1 if chunking == "whole" else len(stream.events))


@pytest.mark.parametrize(
    ("name", "size"), [("a", 330), ("au", 330), ("b", 130), ("c", 1470), ("d", 13)]
)
def test_event_sizes_match_description(name: str, size: int) -> None:
    blocks = make(name).blocks
    assert sum(map(len, blocks)) / len(blocks) == pytest.approx(size, rel=0.02)


def test_stream_c_field_sizes_match_description() -> None:
    events = make("c").events
    for part, size in ((1, 1200), (2, 150)):
        mean = sum(len(event[part]) for event in events) / len(events)
        assert mean == pytest.approx(size, rel=0.1)


def test_stream_au_is_30_percent_non_ascii() -> None:
    texts = [data for _, data, _ in make("au").events if not data.isascii()]
    assert len(texts) == 240
    # All widths that Python stores characters in occur.
    for most in (0xFF, 0xFFFF, 0x10FFFF):
        assert any(most >> 8 < ord(max(text)) <= most for text in texts)
    assert all(data.isascii() for _, data, _ in make("a").events)


@pytest.mark.parametrize("name", ["e1", "e2"])
def test_streams_e_have_one_event_of_1_mib(name: str) -> None:
    ((_, data, _),) = make(name).events
    lines = data.split("\n")
    assert sum(map(len, lines)) == 2**20
    assert len(lines) == {"e1": 1, "e2": 10_000}[name]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 7])
def test_make_takes_size(name: str, size: int) -> None:
    stream = make(name, size)
    assert len(stream.events) == (1 if name in ("e1", "e2") else size)
    if name in ("e1", "e2"):
        assert len(stream.events[0][1].replace("\n", "")) == size


def test_make_rejects_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"^Expected a stream of 'a', .*'e2', got 'z'$"):
        make("z")
    with pytest.raises(ValueError, match=r"^Expected a size of at least 1, got 0$"):
        make("a", 0)
    with pytest.raises(ValueError, match=r"^Expected a chunking of 'whole', .*, got '2 bytes'$"):
        make("a", 1).chunks("2 bytes")
