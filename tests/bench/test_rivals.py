"""Other parsers: each returns the events of the streams, or is reported to return others."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from itertools import zip_longest
from typing import Any

import pytest

import sse_fast
from sse_fast._bench.measure import measure
from sse_fast._bench.rivals import RIVALS, Events, Parse, Rival
from sse_fast._bench.streams import make
from tests.support import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
OTHERS = [rival for rival in RIVALS.values() if rival.requirement]


def loaded(name: str) -> Parse:
    try:
        return RIVALS[name].load()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.bench
@pytest.mark.parametrize("chunking", ["one event", "4 KiB", "16 bytes"])
@pytest.mark.parametrize("stream", ["a", "b", "c", "d"])
@pytest.mark.parametrize("name", RIVALS)
def test_rival_gives_events_or_is_reported(name: str, stream: str, chunking: str) -> None:
    parse = loaded(name)
    sent = make(stream, 20)
    chunks = sent.chunks(chunking)
    right = parse(chunks, True) == sent.events
    # Without `keep` the same chunks are read, and earlier parsers leave no state.
    assert parse(chunks, False) == []
    assert (parse(chunks, True) == sent.events) == right
    cell = measure(sent, chunking, [name], 0.0001)
    assert (name in cell.times, name in cell.wrong) == (right, not right)
    if name.startswith("sse_fast"):
        assert right


def test_rivals_agree_on_ordinary_streams() -> None:
    names = [rival.name for rival in OTHERS if _is_there(rival)]
    for stream in ("a", "b", "c", "d"):
        cell = measure(make(stream, 20), "one event", names, 0.0001)
        assert set(cell.times) == set(names), cell.wrong


def _is_there(rival: Rival) -> bool:
    try:
        rival.load()
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", RIVALS)
def test_rival_reads_every_chunk(name: str) -> None:
    """A rival that parses on demand would seem fast if its events were dropped unread."""
    parse = loaded(name)
    chunks = make("b", 5).chunks("one event")
    taken: list[bytes] = []

    def counted() -> Any:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk

    assert parse(counted(), False) == []
    assert taken == chunks


@pytest.mark.parametrize("rival", OTHERS, ids=lambda rival: rival.name)
def test_missing_library_names_the_extra(rival: Rival, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "launchdarkly-eventsource": "ld_eventsource",
        "httpx-sse": "httpx_sse",
        "sseclient-py": "sseclient",
    }
    module = modules.get(rival.name, rival.name)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    package = re.escape(rival.requirement.partition(";")[0])
    with pytest.raises(ImportError, match=f"^{package}.* is not available \\(.*\\): pip install"):
        rival.load()
    cell = measure(make("d", 5), "one event", [rival.name], 0.0001)
    assert "pip install 'sse-fast[bench]'" in cell.missing[rival.name]
    assert not cell.times
    assert not cell.wrong


def test_unsupported_version_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx_sse")
    monkeypatch.delattr("httpx_sse._decoders.SSELineDecoder")
    with pytest.raises(ImportError, match=r"'httpx_sse\._decoders' has no 'SSELineDecoder'"):
        RIVALS["httpx-sse"].load()


def test_extension_missing_plain_python_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sse_fast._core.parser_c", None)
    with pytest.raises(ImportError, match=r"^sse_fast is not available .*not built"):
        RIVALS["sse_fast"].load()
    RIVALS["sse_fast, plain Python"].load()


@pytest.mark.parametrize("rival", OTHERS, ids=lambda rival: rival.name)
def test_requirement_matches_extra(rival: Rival) -> None:
    assert f'"{rival.requirement}"' in PYPROJECT


@pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS)
def test_version_is_the_installed_one(rival: Rival) -> None:
    if not rival.requirement:
        assert rival.version() == sse_fast.__version__
        return
    if not _is_there(rival):
        pytest.skip(f"{rival.name} is not installed")
    assert rival.version() == metadata.version(rival.name)


def test_different_events_are_reported() -> None:
    events: Events = make("c", 3).events
    for name in RIVALS:
        given = loaded(name)(make("c", 4).chunks("one event"), True)
        assert given != events
        assert [pair for pair in zip_longest(given, events) if pair[0] != pair[1]]
