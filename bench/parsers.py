"""The parsers under comparison, each as a function that takes chunks and makes every event.

`parse(chunks, keep)` drives the parser as its documentation does, over the whole of the chunks;
with `keep` it returns the events as (type, data, id), else it drops each of them.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any

from httpx_sse._decoders import SSEDecoder, SSELineDecoder

from sse_fast import _parser_c, _parser_py

Parse = Callable[[Iterable[bytes], bool], list[Any]]


def _ours(core: Any) -> Parse:
    def parse(chunks: Iterable[bytes], keep: bool) -> list[Any]:
        feed = core.Parser().feed
        kept = []
        for chunk in chunks:
            events = feed(chunk)
            if keep:
                kept += [(event.event, event.data, event.id) for event in events]
        return kept

    return parse


def _httpx_sse(chunks: Iterable[bytes], keep: bool) -> list[Any]:
    # What EventSource.iter_sse() does: httpx decodes the text, these two the lines and events.
    decode_text = codecs.getincrementaldecoder("utf-8")("replace").decode
    decode_lines = SSELineDecoder().decode
    decode = SSEDecoder().decode
    kept = []
    for chunk in chunks:
        for line in decode_lines(decode_text(chunk)):
            event = decode(line.rstrip("\n"))
            if event is not None and keep:
                kept.append((event.event, event.data, event.id))
    return kept


PARSERS: dict[str, Parse] = {
    "sse_fast": _ours(_parser_c),
    "sse_fast, plain Python": _ours(_parser_py),
    "httpx-sse": _httpx_sse,
}
