"""The Python parsers under comparison, each as a function that takes chunks and makes every event.

Each is driven as its own client drives it, but that the generators, checks and exceptions which a
client puts around its parser are left out, where they can be. Of a parser that takes text, the
decoding belongs to it, once. Names that begin with an underscore are those of the pinned versions.

The streams end with a blank line, so what a parser does at the end of one is left out too, unless
it does so by itself.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module, metadata
from typing import Any, NamedTuple

from sse_fast import __version__

Event = tuple[str, str, str]
"""(type or "message", data, id or "")"""
Events = list[Event]
Parse = Callable[[Iterable[bytes], bool], Events]
"""`parse(chunks, keep)`: a new parser, over all of the chunks. With `keep` it returns the events;
else it drops each at once and returns []."""


class Rival(NamedTuple):
    name: str
    requirement: str
    """What pip installs, as the extra [bench] has it; "" for our own."""
    make: Callable[[], Parse]
    """Import it; raises ImportError."""

    def load(self) -> Parse:
        """Import it.

        Raises:
            ImportError: it is not installed, or in a version that is not known here.
        """
        try:
            return self.make()
        except ImportError as error:
            if not self.requirement:
                remedy = "SSE_FAST_REQUIRE_EXTENSIONS=1 pip install tells why it was not built"
            else:
                remedy = "pip install 'sse-fast[bench]'"
            package, _, condition = (self.requirement or self.name).partition("; ")
            wanted = f"{package} (where {condition})" if condition else package
            raise ImportError(f"Expected {wanted}, got none ({error}): {remedy}") from error

    def version(self) -> str:
        """The installed version, which need not be the one of `requirement`.

        Raises:
            ImportError: it is not installed.
        """
        return _version(self.requirement) if self.requirement else __version__


def _version(requirement: str) -> str:
    return metadata.version(re.split(r"[^\w.-]", requirement)[0])


def _part(module: str, name: str) -> Any:
    """A class of a library."""
    found = getattr(import_module(module), name, None)
    if found is None:
        raise ImportError(f"{module!r} has no {name!r}")
    return found


def _text_decoder() -> Callable[[bytes], str]:
    """As those of httpx and httpx2 are made."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode


def _finish(events: Iterable[Any], keep: bool, id: str = "id") -> Events:
    """Take what a generator of events yields."""
    if keep:
        return [(it.event or "message", it.data, getattr(it, id) or "") for it in events]
    for _ in events:
        pass
    return []


def _ours(module: str) -> Parse:
    parser = _part(module, "Parser")

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        feed = parser().feed
        if keep:
            return [(it.event, it.data, it.id) for chunk in chunks for it in feed(chunk)]
        for chunk in chunks:
            feed(chunk)
        return []

    return parse


def _launchdarkly() -> Parse:
    # What SSEClient reads a connection by.
    reader = _part("ld_eventsource.reader", "_SSEReader")
    lines_from = _part("ld_eventsource.reader", "_BufferedLineReader").lines_from

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        # An event has its own id too, which is None where the one before stays in force.
        return _finish(reader(lines_from(chunks)).events_and_comments(), keep, "last_event_id")

    return parse


def _httpx_sse() -> Parse:
    # What EventSource.iter_sse() does: httpx decodes the text, these two the lines and events.
    line_decoder = _part("httpx_sse._decoders", "SSELineDecoder")
    event_decoder = _part("httpx_sse._decoders", "SSEDecoder")

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        decode_text = _text_decoder()
        decode_lines = line_decoder().decode
        decode = event_decoder().decode
        kept = []
        for chunk in chunks:
            for line in decode_lines(decode_text(chunk)):
                event = decode(line.rstrip("\n"))
                if event is not None and keep:
                    kept.append((event.event, event.data, event.id))
        return kept

    return parse


def _anthropic() -> Parse:
    # The decoder of a client is a new one for each response.
    decoder = _part("anthropic._streaming", "SSEDecoder")
    return lambda chunks, keep: _finish(decoder().iter_bytes(iter(chunks)), keep)


def _openai() -> Parse:
    decoder = _part("openai._streaming", "SSEDecoder")
    return lambda chunks, keep: _finish(decoder().iter_bytes(iter(chunks)), keep)


def _sseclient() -> Parse:
    # Another distribution, sseclient, has a module of that name.
    _version("sseclient-py")
    client = _part("sseclient", "SSEClient")
    return lambda chunks, keep: _finish(client(chunks).events(), keep)


def _httpx2() -> Parse:
    # What EventSource.__iter__() does with the text that a response decodes.
    parser = _part("httpx2._sse", "_SSEParser")

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        decode_text = _text_decoder()
        # With a limit, as it has by default, but one that the long events are below.
        decode = parser(16 * 2**20).decode
        kept = []
        for chunk in chunks:
            for event in decode(decode_text(chunk)):
                if keep:
                    kept.append((event.event, event.data, event.id))
        return kept

    return parse


def _assel() -> Parse:
    parser = _part("assel", "Parser")

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        receive = parser().receive_bytes
        if keep:
            events = [it for chunk in chunks for it in receive(chunk)]
            return [(it.event, it.data, it.id or "") for it in events]
        for chunk in chunks:
            receive(chunk)
        return []

    return parse


RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival("sse_fast", "", partial(_ours, "sse_fast._core.parser_c")),
        Rival("sse_fast, plain Python", "", partial(_ours, "sse_fast._core.parser_py")),
        Rival("launchdarkly-eventsource", "launchdarkly-eventsource==1.7.4", _launchdarkly),
        Rival("httpx-sse", "httpx-sse==0.4.3", _httpx_sse),
        Rival("anthropic", "anthropic==2.12.0; python_version >= '3.11'", _anthropic),
        Rival("sseclient-py", "sseclient-py==1.9.0", _sseclient),
        Rival("httpx2", "httpx2==2.16.2; python_version >= '3.11'", _httpx2),
        Rival("assel", "assel==1.0.0; python_version >= '3.11'", _assel),
        Rival("openai", "openai==3.54.0; python_version >= '3.11'", _openai),
    )
}
"""Our own two, then the others by speed on stream a."""
