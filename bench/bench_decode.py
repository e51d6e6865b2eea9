"""Parsing and decoding: the JSON of every event, with `decode=` and without.

    pytest bench/bench_decode.py

The chunks are in the cache, as in bench_feed.py; the program reads each value and drops it. A wrong
value means no number, and for sse_fast a failure.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import orjson
import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder

from sse_fast._bench import streams
from sse_fast._bench.measure import difference
from sse_fast._core import parser_c

Loads = Callable[[Any], Any]
Read = Callable[[Iterable[bytes], bool], list[Any]]
"""`read(chunks, keep)` decodes the value of every event, and with `keep` returns all of them."""


class Delta(msgspec.Struct):
    content: str


class Choice(msgspec.Struct):
    index: int
    delta: Delta
    logprobs: None
    finish_reason: str | None


class ChatChunk(msgspec.Struct):
    """A chunk of a chat completion, every field of it."""

    id: str
    object: str
    created: int
    model: str
    service_tier: str
    system_fingerprint: str
    choices: list[Choice]
    usage: None
    obfuscation: str


def _decode(loads: Loads) -> Read:
    """Return a reader whose parser decodes; the data is never made into text."""

    def read(chunks: Iterable[bytes], keep: bool) -> list[Any]:
        feed = parser_c.Parser(decode=loads).feed
        if keep:
            return [event.data for chunk in chunks for event in feed(chunk)]
        for chunk in chunks:
            for event in feed(chunk):
                event.data  # noqa: B018
        return []

    return read


def _then(loads: Loads) -> Read:
    """Return a reader that decodes the text of each event."""

    def read(chunks: Iterable[bytes], keep: bool) -> list[Any]:
        feed = parser_c.Parser().feed
        if keep:
            return [loads(event.data) for chunk in chunks for event in feed(chunk)]
        for chunk in chunks:
            for event in feed(chunk):
                loads(event.data)
        return []

    return read


def _httpx_sse(loads: Loads) -> Read:
    def read(chunks: Iterable[bytes], keep: bool) -> list[Any]:
        # As EventSource.iter_sse() does: httpx decodes text, these two lines and events.
        decode_text = codecs.getincrementaldecoder("utf-8")("replace").decode
        decode_lines = SSELineDecoder().decode
        decode = SSEDecoder().decode
        values = []
        for chunk in chunks:
            for line in decode_lines(decode_text(chunk)):
                event = decode(line.rstrip("\n"))
                if event is not None:
                    value = loads(event.data)
                    if keep:
                        values.append(value)
        return values

    return read


WAYS: dict[str, Read] = {
    "sse_fast, decode=msgspec Struct": _decode(msgspec.json.Decoder(ChatChunk).decode),
    "sse_fast, decode=msgspec": _decode(msgspec.json.decode),
    "sse_fast, decode=orjson": _decode(orjson.loads),
    "sse_fast, decode=json": _decode(json.loads),
    "sse_fast, then orjson": _then(orjson.loads),
    "sse_fast, then json": _then(json.loads),
    "httpx-sse, then orjson": _httpx_sse(orjson.loads),
    "httpx-sse, then json": _httpx_sse(json.loads),
}


@pytest.mark.benchmark(max_time=0.5)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunking", ["one event", "64 KiB"])
@pytest.mark.parametrize("stream", ["a", "au"])
def test_decode(
    timed: Callable[..., float | None],
    measuring: bool,
    speeds: dict[str, dict[tuple[str, str], str]],
    no_number: list[str],
    stream: str,
    chunking: str,
    way: str,
) -> None:
    made = streams.make(stream, None if measuring else 20)
    chunks = made.chunks(chunking)
    read = WAYS[way]
    # A Struct becomes a dict, which must have all the fields.
    given = msgspec.to_builtins(read(chunks, True))
    expected = [json.loads(data) for _, data, _ in made.events]
    if given != expected:
        wrong = f"{way}, stream {stream}, {chunking} per chunk: {difference(expected, given)}"
        no_number.append(wrong)
        end = pytest.fail if way.startswith("sse_fast") else pytest.xfail
        end(f"no number: {wrong}")

    group = f"decode: stream {stream}, {chunking} per chunk"
    seconds = timed(group, len(made.events), chunks, partial(read, chunks, False))
    if seconds is not None:
        cells = speeds.setdefault(f"decode: us per event, {chunking} per chunk", {})
        cells[way, stream] = f"{seconds / len(made.events) * 1e6:.2f}"
