"""The Python parsers under comparison, each as a function from chunks to events.

Each parser is driven as its own client drives it, without the client's generators, checks and
exceptions where possible. If a parser takes text, decoding counts as part of it. Private names are
those of the pinned versions.

The streams end with a blank line, so the parsers' handling of an end is left out.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from sse_fast import __version__

Event = tuple[str, str, str]
"""(type or "message", data, id or "")"""
Events = list[Event]
Parse = Callable[[Iterable[bytes], bool], Events]
"""`parse(chunks, keep)` runs a new parser over all chunks. With `keep` it returns the events;
otherwise it drops each immediately and returns []."""


class Rival(NamedTuple):
    """A parser under comparison."""

    name: str
    requirement: str
    """The requirement in the extra [bench]; "" for the parsers of sse_fast."""
    make: Callable[[], Parse]
    """Imports the parser; raises ImportError."""

    def load(self) -> Parse:
        """Import the parser.

        Raises:
            ImportError: it is not installed, or its version is not supported.
        """
        try:
            return self.make()
        except ImportError as error:
            if not self.requirement:
                remedy = "SSE_FAST_REQUIRE_EXTENSIONS=1 pip install shows why it was not built"
            else:
                remedy = "pip install 'sse-fast[bench]'"
            package, _, condition = (self.requirement or self.name).partition("; ")
            wanted = f"{package} (where {condition})" if condition else package
            raise ImportError(f"{wanted} is not available ({error}): {remedy}") from error

    def version(self) -> str:
        """Return the installed version, which may differ from `requirement`.

        Raises:
            ImportError: it is not installed.
        """
        return _version(self.requirement) if self.requirement else __version__


def _version(requirement: str) -> str:
    return metadata.version(re.split(r"[^\w.-]", requirement)[0])


def _part(module: ModuleType, name: str) -> Any:
    """Return a class of a library."""
    found = getattr(module, name, None)
    if found is None:
        raise ImportError(f"{module.__name__!r} has no {name!r}")
    return found


def _text_decoder() -> Callable[[bytes], str]:
    """Return a decoder like those of httpx and httpx2."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode


def _finish(events: Iterable[Any], keep: bool, id: str = "id") -> Events:
    """Consume a generator of events."""
    if keep:
        return [(it.event or "message", it.data, getattr(it, id) or "") for it in events]
    for _ in events:
        pass
    return []


def _cython() -> Parse:
    import sse_fast._core.parser_c as module  # type: ignore[import-not-found]

    return _ours(module.Parser)


def _plain_python() -> Parse:
    from sse_fast._core.parser_py import Parser

    return _ours(Parser)


def _ours(parser: Any) -> Parse:

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        feed = parser().feed
        if keep:
            return [(it.event, it.data, it.id) for chunk in chunks for it in feed(chunk)]
        for chunk in chunks:
            feed(chunk)
        return []

    return parse


def _launchdarkly() -> Parse:
    # SSEClient reads a connection with these.
    from ld_eventsource import reader as module

    reader = _part(module, "_SSEReader")
    lines_from = _part(module, "_BufferedLineReader").lines_from

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        # `id` would be None where the last event ID stays in force.
        return _finish(reader(lines_from(chunks)).events_and_comments(), keep, "last_event_id")

    return parse


def _httpx_sse() -> Parse:
    # EventSource.iter_sse() does the same: httpx decodes the text, and httpx-sse lines and events.
    import httpx_sse._decoders as module

    line_decoder = _part(module, "SSELineDecoder")
    event_decoder = _part(module, "SSEDecoder")

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
    # The client makes a new decoder for each response.
    import anthropic._streaming as module

    decoder = _part(module, "SSEDecoder")
    return lambda chunks, keep: _finish(decoder().iter_bytes(iter(chunks)), keep)


def _openai() -> Parse:
    import openai._streaming as module

    decoder = _part(module, "SSEDecoder")
    return lambda chunks, keep: _finish(decoder().iter_bytes(iter(chunks)), keep)


def _sseclient() -> Parse:
    # The distribution `sseclient` has a module of the same name.
    _version("sseclient-py")
    import sseclient

    client = _part(sseclient, "SSEClient")
    return lambda chunks, keep: _finish(client(chunks).events(), keep)


def _httpx2() -> Parse:
    # EventSource.__iter__() does the same with the decoded text of a response.
    import httpx2._sse as module

    parser = _part(module, "_SSEParser")

    def parse(chunks: Iterable[bytes], keep: bool) -> Events:
        decode_text = _text_decoder()
        # The parser has a limit by default; this one fits the longest events.
        decode = parser(16 * 2**20).decode
        kept = []
        for chunk in chunks:
            for event in decode(decode_text(chunk)):
                if keep:
                    kept.append((event.event, event.data, event.id))
        return kept

    return parse


def _assel() -> Parse:
    import assel

    parser = _part(assel, "Parser")

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
        Rival("sse_fast", "", _cython),
        Rival("sse_fast, plain Python", "", _plain_python),
        Rival("launchdarkly-eventsource", "launchdarkly-eventsource==1.7.4", _launchdarkly),
        Rival("httpx-sse", "httpx-sse==0.4.3", _httpx_sse),
        Rival("anthropic", "anthropic==2.12.0; python_version >= '3.11'", _anthropic),
        Rival("sseclient-py", "sseclient-py==1.9.0", _sseclient),
        Rival("httpx2", "httpx2==2.16.2; python_version >= '3.11'", _httpx2),
        Rival("assel", "assel==1.0.0; python_version >= '3.11'", _assel),
        Rival("openai", "openai==3.54.0; python_version >= '3.11'", _openai),
    )
}
"""The two cores of sse_fast, then the others by speed on stream a."""
