"""The two cores have the same public names, signatures, docstrings, messages and stages."""

from __future__ import annotations

import copy
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from tests.support import PACKAGE

STAGES = ("_split_lines", "_process_field", "_end_block", "_dispatch")


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters if p.name != "self"]


def _public_names(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["Event", "Parser"])
def test_class_is_the_same_in_both_cores(both_cores: Any, name: str) -> None:
    cython, python = (getattr(core, name) for core in both_cores)
    assert cython.__module__ == python.__module__ == "sse_fast"
    assert cython.__qualname__ == python.__qualname__ == name
    assert inspect.getdoc(cython) == inspect.getdoc(python)
    assert _parameters(cython) == _parameters(python)
    assert _public_names(cython) == _public_names(python)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *(("Event", name) for name in sorted(_public_names(sse_fast.Event))),
        *(("Parser", name) for name in sorted(_public_names(sse_fast.Parser))),
    ],
)
def test_member_is_the_same_in_both_cores(both_cores: Any, cls: str, name: str) -> None:
    cython, python = (getattr(getattr(core, cls), name) for core in both_cores)
    # Fields of Event have no docstring: the class documents them.
    if cls == "Parser" or callable(python):
        assert inspect.getdoc(cython)
        assert inspect.getdoc(cython) == inspect.getdoc(python)
    assert callable(cython) == callable(python)
    if callable(python):
        assert _parameters(cython) == _parameters(python)


def _functions(*paths: Path) -> set[str]:
    source = "".join(path.read_text() for path in paths)
    return set(re.findall(r"^ *(?:cdef|def) [^\n=]*?(\w+)\(", source, re.MULTILINE))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_the_same_name_in_both_cores(stage: str) -> None:
    core = PACKAGE / "_core"
    assert stage in _functions(core / "lines.pxd", core / "parser_c.pyx")
    assert stage in _functions(core / "parser_py.py")


REFUSED = {
    "event type": lambda core: core.Event(1),
    "id": lambda core: core.Event(id=1),
    "no event type to encode": lambda core: core.Event("").encode(),
    "LF to encode": lambda core: core.Event("a\n").encode(),
    "NUL to encode": lambda core: core.Event(id="\0").encode(),
    "retry to encode": lambda core: core.Event(retry=-1).encode(),
    "data to encode": lambda core: core.Event(data=1).encode(),
    "json of decoded data": lambda core: core.Event(data=1).json(),
    "second init of an event": lambda core: core.Event().__init__(),
    "text": lambda core: core.Parser().feed(""),
    "no buffer": lambda core: core.Parser().feed(1),
    "buffer with gaps": lambda core: core.Parser().feed(memoryview(b"abc")[::2]),
    "type of last_event_id": lambda core: core.Parser(last_event_id=1),
    "LF in last_event_id": lambda core: core.Parser(last_event_id="\n"),
    "type of max_event_size": lambda core: core.Parser(max_event_size=1.0),
    "max_event_size": lambda core: core.Parser(max_event_size=0),
    "on_comment": lambda core: core.Parser(on_comment=1),
    "decode": lambda core: core.Parser(decode=1),
    "decode of a type": lambda core: core.Parser(decode={"a": 1}),
    "until": lambda core: core.Parser(until=1),
    "until_event": lambda core: core.Parser(until_event=1),
    "type in until_event": lambda core: core.Parser(until_event=[1]),
    "empty type in until_event": lambda core: core.Parser(until_event=""),
    "LF in until_event": lambda core: core.Parser(until_event="a\n"),
    "surrogate in until_event": lambda core: core.Parser(until_event="\ud800"),
    "too large": lambda core: core.Parser(max_event_size=1).feed(b"data:"),
    "decode error": lambda core: core.Parser(decode=int).feed(b"data\n\n"),
    "copy": lambda core: copy.copy(core.Parser()),
    "second init of a parser": lambda core: core.Parser().__init__(),
    "feed in feed": lambda core: _feed_within(core, "feed", b""),
    "reset in feed": lambda core: _feed_within(core, "reset"),
}


def _feed_within(core: Any, method: str, *arguments: Any) -> None:
    parser = core.Parser(on_comment=lambda text: getattr(parser, method)(*arguments))
    parser.feed(b": x\n")


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED.keys())
def test_error_is_the_same_in_both_cores(both_cores: Any, call: Any) -> None:
    messages = []
    for core in both_cores:
        with pytest.raises(Exception) as caught:
            call(core)
        messages.append(f"{caught.type.__name__}: {caught.value}")
    assert messages[0] == messages[1]


def test_package_uses_the_core_that_it_says(both_cores: Any) -> None:
    cython, python = both_cores
    used = cython if sse_fast.ACCELERATED else python
    assert (sse_fast.Parser, sse_fast.Event) == (used.Parser, used.Event)
    if os.environ.get("SSE_FAST_REQUIRE_EXTENSIONS"):
        assert sse_fast.ACCELERATED
