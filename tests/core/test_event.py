"""Event: an immutable value that can be encoded."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from tests.support.commands import run_python


def test_event_without_arguments_has_defaults(core: Any) -> None:
    event = core.Event()
    assert (event.event, event.data, event.id, event.retry) == ("message", "", "", None)
    assert core.Event("a", "b", "c", 1) == core.Event(event="a", data="b", id="c", retry=1)


def test_events_equal_and_hash_by_value(core: Any) -> None:
    event = core.Event("a", "b", "c", 1)
    assert hash(event) == hash(core.Event("a", "b", "c", 1))
    for other in [
        core.Event("x", "b", "c", 1),
        core.Event("a", "x", "c", 1),
        core.Event("a", "b", "x", 1),
        core.Event("a", "b", "c", 2),
        ("a", "b", "c", 1),
        "a",
        None,
    ]:
        assert event != other
    with pytest.raises(TypeError, match="unhashable"):
        hash(core.Event("a", {}))


def test_repr_shows_all_fields(core: Any) -> None:
    event = core.Event("a", {"b": 1}, "c", 1)
    assert repr(event) == "Event(event='a', data={'b': 1}, id='c', retry=1)"


@pytest.mark.parametrize("name", ["event", "data", "id", "retry", "other"])
def test_event_is_immutable(core: Any, name: str) -> None:
    event = core.Event("a", "b", "c", 1)
    with pytest.raises(AttributeError):
        setattr(event, name, "x")
    with pytest.raises(AttributeError):
        delattr(event, name)
    with pytest.raises(AttributeError):
        event.__init__("x")
    assert event == core.Event("a", "b", "c", 1)


def test_event_cannot_be_subclassed(core: Any) -> None:
    with pytest.raises(TypeError):
        type("Sub", (core.Event,), {})


def test_event_with_wrong_arguments_raises(core: Any) -> None:
    with pytest.raises(TypeError, match="Expected event to be a str, got int"):
        core.Event(1)
    with pytest.raises(TypeError, match="Expected id to be a str, got NoneType"):
        core.Event(id=None)
    with pytest.raises(TypeError):
        core.Event("a", "b", "c", 1, 2)


def test_str_subclass_becomes_str(core: Any) -> None:
    class Kind(str, enum.Enum):
        TICK = "tick"

    event = core.Event(Kind.TICK, "")
    assert type(event.event) is str
    assert event.encode() == b"event: tick\ndata: \n\n"


def test_event_matches_by_position(core: Any) -> None:
    match core.Event("a", "b", "c", 1):
        case core.Event("a", data, id="c", retry=int(retry)):
            assert (data, retry) == ("b", 1)
        case _:
            pytest.fail("no match")


def test_classes_take_type_arguments(core: Any) -> None:
    assert core.Event[int].__origin__ is core.Event
    assert core.Parser[int].__origin__ is core.Parser


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_event_pickle_round_trips(core: Any, protocol: int) -> None:
    event = core.Event("é", ["b"], "c", 1)
    pickled = pickle.dumps(event, protocol)
    assert b"sse_fast" in pickled
    assert b"_parser" not in pickled
    assert pickle.loads(pickled) == event


@pytest.mark.parametrize("pure", ["0", "1"])
def test_pickle_is_read_by_the_other_core(core: Any, pure: str, tmp_path: Path) -> None:
    event = core.Event("é", "b", "c", 1)
    script = (
        "import pickle, sys, sse_fast\n"
        "event = pickle.loads(sys.stdin.buffer.read())\n"
        "assert type(event) is sse_fast.Event\n"
        f"assert not ({pure} and sse_fast.ACCELERATED)\n"
        "sys.stdout.buffer.write(pickle.dumps(event))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,  # away from the source tree
        input=pickle.dumps(event),
        env={"SSE_FAST_PURE": pure},
        capture_output=True,
        check=True,
    )
    assert pickle.loads(done.stdout) == event


def test_event_copies_are_equal(core: Any) -> None:
    event = core.Event("a", ["b"], "c", 1)
    assert copy.copy(event) == event
    assert copy.copy(event).data is event.data
    assert copy.deepcopy(event) == event
    assert copy.deepcopy(event).data is not event.data


def test_many_nested_events_are_freed(core: Any, tmp_path: Path) -> None:
    """Freeing nested events must not recurse without bound."""
    # A stack of 8 MB has less than 30 bytes for each of these levels.
    script = f"""
from {core.__name__} import Event
for attribute in ("data", "retry"):
    event = None
    for _ in range(300_000):
        event = Event(**{{attribute: event}})
    del event
    print(attribute)
"""
    assert run_python(script, directory=tmp_path) == "data\nretry\n"


def test_parser_copy_and_pickle_raise(core: Any) -> None:
    for how in [copy.copy, copy.deepcopy, pickle.dumps]:
        with pytest.raises(TypeError, match=r"cannot pickle 'sse_fast\.Parser' object"):
            how(core.Parser())


def test_classes_have_public_names(core: Any) -> None:
    assert repr(core.Event) == "<class 'sse_fast.Event'>"
    assert repr(core.Parser) == "<class 'sse_fast.Parser'>"


# -- json ---------------------------------------------------------------------------------------


def test_json_decodes_text_and_bytes(core: Any) -> None:
    assert core.Event(data='{"a": [1, "é"]}').json() == {"a": [1, "é"]}
    assert core.Event(data=b"[1]").json() == [1]
    assert core.Event(data="1.5").json(loads=str.upper) == "1.5"
    with pytest.raises(json.JSONDecodeError):
        core.Event(data="").json()
    with pytest.raises(TypeError, match="Expected the data of the event as text, got dict"):
        core.Event(data={}).json()


# -- encode -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "encoded"),
    [
        (("message", "a", "", None), b"data: a\n\n"),
        (("message", "", "", None), b"data: \n\n"),
        (("x", "a", "7", 9), b"event: x\nid: 7\nretry: 9\ndata: a\n\n"),
        (("message", "a\nb", "", None), b"data: a\ndata: b\n\n"),
        (("message", "a\r\nb\rc\n", "", None), b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        (("message", "a\n\rb", "", None), b"data: a\ndata: \ndata: b\n\n"),
        (("message", "\u2028\x85\x0b\0", "", None), "data: \u2028\x85\x0b\0\n\n".encode()),
        (("message", " a", " b", 0), b"id:  b\nretry: 0\ndata:  a\n\n"),
        (("message", "a", "", 2**63 - 1), b"retry: 9223372036854775807\ndata: a\n\n"),
        (("nul\0", "a", "", None), b"event: nul\0\ndata: a\n\n"),
    ],
)
def test_encode_gives_the_lines(core: Any, event: Any, encoded: bytes) -> None:
    assert core.Event(*event).encode() == encoded


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (("x\ndata: injected", "a", "", None), "event must not contain"),
        (("x\r", "a", "", None), "event must not contain"),
        (("", "a", "", None), "event type is empty"),
        (("message", "a", "1\n", None), "id must not contain"),
        (("message", "a", "1\r", None), "id must not contain"),
        (("message", "a", "1\0", None), "id must not contain"),
        (("message", "a", "", -1), "retry to be an int from 0"),
        (("message", "a", "", 2**63), "retry to be an int from 0"),
        (("message", "a", "", 1.5), "retry to be an int from 0"),
        (("message", "a", "", True), "retry to be an int from 0"),
    ],
)
def test_encode_refuses_unsafe_fields(core: Any, event: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.Event(*event).encode()


def test_encode_refuses_data_other_than_text(core: Any) -> None:
    for data in ({}, None, b"bytes", 1):
        message = rf"data of the event to be a str, got {type(data).__name__}: encode Event\(.*"
        with pytest.raises(TypeError, match=message + r"json\.dumps.*or read without decode="):
            core.Event(data=data).encode()


def test_encoded_events_parse_to_equal_events(core: Any) -> None:
    events = [core.Event("a", "1", "1"), core.Event(data="2", id="1"), core.Event("b", "3", "2", 4)]
    assert core.Parser().feed(b"".join(event.encode() for event in events)) == events


# -- encode_comment -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", b":\n"),
        ("ping", b": ping\n"),
        (" ping", b":  ping\n"),
        ("a\nb", b": a\n: b\n"),
        ("a\r\nb\rc\n", b": a\n: b\n: c\n:\n"),
        ("a\n\rdata: x\n\n", b": a\n:\n: data: x\n:\n:\n"),
        ("é\u2028\x85\x0b\0", ": é\u2028\x85\x0b\0\n".encode()),
    ],
)
def test_encode_comment_gives_comment_lines(text: str, encoded: bytes) -> None:
    assert sse_fast.encode_comment(text) == encoded


def test_encode_comment_ends_no_block(core: Any) -> None:
    seen: list[str] = []
    parser = core.Parser(on_comment=seen.append)
    comment = sse_fast.encode_comment("a\ndata: injected\n\nid: 1\r\r")
    assert parser.feed(b"data: 1\n" + comment) == []
    assert parser.feed(b"data: 2\n\n" + comment) == [core.Event(data="1\n2")]
    assert seen == ["a", "data: injected", "", "id: 1", "", ""] * 2
    assert (parser.last_event_id, parser.pending) == ("", False)


def test_encode_comment_with_wrong_text_raises() -> None:
    with pytest.raises(ValueError, match="comment must not contain a lone surrogate"):
        sse_fast.encode_comment("\ud800")
    with pytest.raises(TypeError, match="Expected text to be a str, got bytes"):
        sse_fast.encode_comment(b"ping")  # type: ignore[arg-type]
