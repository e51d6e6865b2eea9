"""The originals and sse_fast deliver the same events, except for the listed differences.

Each library that `compat` can replace reads the same streams by its own code and by sse_fast:
streams that Hypothesis makes of everything the libraries differ in, and those recorded from
browsers. `concerns_a_row` leaves out the streams that a row of "What is not kept" is about.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import nullcontext
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sse_fast
from tests.compat.test_differences import BLOCKWISE, BOM, lines
from tests.support import DATA
from tests.support.examples import examples
from tests.support.libraries import ASYNC, INSTALLED, ORIGINALS, Original, mistralai
from tests.support.reference import cut


@pytest.fixture(params=ORIGINALS.values(), ids=list(ORIGINALS), scope="session")
def original(request: pytest.FixtureRequest) -> Original:
    library: Original = request.param
    return library


LINES = [
    *(b"data: a", b"data:b", b"data", b"data:  c ", b'data: {"a": 1}', b"data: [DONE]"),
    *(b"event: e", b"event:", b"event", b"event: \xc3\xa9"),
    *(b"id: 1", b"id:", b"id", b"id: \xe2\x80\xa8", b"id: a\0b"),
    *(b"retry: 5", b"retry: +7", b"retry: -1", b"retry: 1_0", b"retry:  6 ", b"retry", b"retry: x"),
    *(b"retry: \xd9\xa3", b"retry: " + b"9" * 30, b"retry: 0x1"),
    *(b": c", b":", b"unknown: x", b"data : z", b"DATA: z", b" data: z", b"\x00", b"\x85", b" "),
    *(b"data: \xff", b": \xe2\x80", b"data: \xed\xa0\x80", b"data: \xf0\x9f\x9a\x80"),
    *(BOM + b"data: a", b"data: \xe2\x80\xa8\x0b\x0c\x1c\x1d\x1e\xc2\x85"),
]
ENDS = [b"\n", b"\r\n", b"\r"]


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """Draw lines, half of them blank, with one kind of line end or mixed ones, and cut them."""
    ends = draw(st.sampled_from([[end] for end in ENDS] + [ENDS]))
    line = st.one_of(st.just(b""), st.sampled_from(LINES))
    pairs = draw(st.lists(st.tuples(line, st.sampled_from(ends)), max_size=16))
    stream = b"".join(line + end for line, end in pairs) + draw(st.one_of(st.just(b""), line))
    return cut(stream, sorted(draw(st.sets(st.integers(0, len(stream)), max_size=6))))


def concerns_a_row(original: Original, chunks: list[bytes]) -> bool:
    """Whether a row of "What is not kept" is about this stream."""
    name, stream = original.name, b"".join(chunks)
    found = re.findall(rb"([^\r\n]*)(\r\n|\r|\n|$)", stream)
    texts = [text for text, _ in found]
    if stream.startswith(BOM) or (name == "mistralai" and BOM in stream):
        return True
    if name in BLOCKWISE:
        ends = accumulate(chunks)
        if any(stream[: len(a)].endswith(b"\r\r") and stream[len(a) :][:1] == b"\n" for a in ends):
            return True
    if name == "compat.sseclient":
        same = {(end, end) for end in ENDS} | {(b"\r\n", b"\n")}
        pairs = pairwise(found)
        if any(
            not text and end and (before, end) not in same for (_, before), (text, end) in pairs
        ):
            return True
        return any(b"\0" in text for text in texts if text.startswith(b"id:"))
    if name == "mistralai":
        return any(
            text in (b"event", b"event:", b"event: ")
            or (text.startswith(b"id:") and b"\0" in text)
            or (text.startswith(b"retry") and not re.fullmatch(rb"retry: ?\d+", text))
            for text in texts
        )
    return False


def assert_same(original: Original, *streams: list[bytes]) -> None:
    theirs = original.read_all(streams, ours=False)
    assert original.read_all(streams, ours=True) == theirs
    if original.name in ASYNC:
        assert original.aread_all(streams, ours=False) == theirs
        assert original.aread_all(streams, ours=True) == theirs


@examples(150)
@given(data=st.data())
def test_made_streams_give_the_same_events(original: Original, data: st.DataObject) -> None:
    chunks = data.draw(cut_streams().filter(lambda chunks: not concerns_a_row(original, chunks)))
    assert_same(original, chunks)


@pytest.mark.parametrize(
    "chunking",
    [
        "recorded",
        *(pytest.param(name, marks=pytest.mark.matrix) for name in ("whole", "in threes")),
    ],
)
def test_recorded_streams_give_the_same_events(original: Original, chunking: str) -> None:
    streams = []
    for vector in json.loads((DATA / "vectors.json").read_bytes()):
        chunks = [base64.b64decode(chunk) for chunk in vector["chunks"]]
        stream = b"".join(chunks)
        if len(stream) > 20_000:
            # Some originals need a minute for such a stream.
            continue
        if chunking == "whole":
            chunks = [stream]
        elif chunking == "in threes":
            chunks = cut(stream, range(3, len(stream), 3))
        if not concerns_a_row(original, chunks):
            streams.append(chunks)
    assert len(streams) > 250
    assert_same(original, *streams)


@examples(100)
@given(data=st.data())
def test_mistralai_sentinel_gives_the_same_events(data: st.DataObject) -> None:
    """These are the arguments that most methods of mistralai pass."""
    reader = mistralai(True, "[DONE]")
    original = Original("mistralai", reader, reader, True)
    chunks = data.draw(cut_streams().filter(lambda chunks: not concerns_a_row(original, chunks)))
    assert_same(original, chunks)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "mistralai"])
def test_installed_events_have_the_original_class(name: str) -> None:
    original = ORIGINALS[name]
    for ours in (False, True):
        with sse_fast.install(name) if ours else nullcontext():
            (event,) = original.theirs().read([lines(b"data: 1", b"")])
        assert type(event).__module__.partition(".")[0] == name
