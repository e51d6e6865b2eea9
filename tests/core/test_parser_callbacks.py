"""Parser: `on_comment`, `decode` and `until`, and what becomes of events when they raise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sse_fast import DecodeError
from tests.support.reference import chunkings, feed_all


def test_on_comment_gets_each_comment(core: Any) -> None:
    comments: list[str] = []
    for chunks in chunkings(b": a\n:b\n:\n:  c\ndata: 1\n:\xff\n::d\n\n:e"):
        comments.clear()
        feed_all(core.Parser(on_comment=comments.append), chunks)
        assert comments == ["a", "b", "", " c", "\ufffd", ":d"]


def test_decode_gets_joined_data_bytes(core: Any) -> None:
    for chunks in chunkings(b'data: {"a":\ndata: "\xc3\xa9"}\n\ndata: 1\n\n'):
        seen: list[bytes] = []

        def decode(data: bytes, seen: list[bytes] = seen) -> Any:
            seen.append(data)
            return json.loads(data)

        parser = core.Parser(decode=decode)
        events = feed_all(parser, chunks)
        assert [event.data for event in events] == [{"a": "é"}, 1]
        assert seen == [b'{"a":\n"\xc3\xa9"}', b"1"]
        assert {type(data) for data in seen} == {bytes}


def test_decode_mapping_selects_by_event_type(core: Any) -> None:
    mapping = {"n": int, "message": float}
    parser = core.Parser(decode=mapping)
    mapping["other"] = int  # a copy was taken
    events = parser.feed(b"event: n\ndata: 1\n\ndata: 2\n\nevent: other\ndata: 3\n\n")
    assert [event.data for event in events] == [1, 2.0, "3"]


def test_decode_error_drops_one_event(core: Any) -> None:
    parser = core.Parser(decode=int)
    with pytest.raises(DecodeError) as caught:
        parser.feed(b"data: 1\n\nevent: e\nid: 7\nretry: 9\ndata: secret\n\ndata: 2\n\ndata: 3\n")
    error = caught.value
    assert isinstance(error.__cause__, ValueError)
    assert error.event == core.Event("e", "secret", "7", 9)
    assert error.events == [core.Event("message", 1, "", None)]
    assert "secret" not in str(error)
    assert "ValueError" in str(error)
    assert parser.feed(b"") == [core.Event("message", 2, "7", None)]
    assert parser.feed(b"\n") == [core.Event("message", 3, "7", None)]


def test_each_decode_error_is_raised(core: Any) -> None:
    """Nothing is lost, and the work stays linear, if the caller never feeds an empty chunk."""

    def decode(data: bytes) -> None:
        raise ValueError(data)

    parser = core.Parser(decode=decode)
    seen = []
    for index in range(100):
        try:
            parser.feed(b"data: %d\n\ndata: %d\n\n" % (2 * index, 2 * index + 1))
        except DecodeError as error:
            seen.append(error.event.data)
    for _ in range(100):
        with pytest.raises(DecodeError) as caught:
            parser.feed(b"")
        seen.append(caught.value.event.data)
    assert seen == [str(index) for index in range(200)]
    assert parser.feed(b"") == []


class _Fault(Exception):
    pass


def test_on_comment_error_loses_no_event(core: Any) -> None:
    def on_comment(text: str) -> None:
        raise _Fault(text)

    parser = core.Parser(on_comment=on_comment)
    with pytest.raises(_Fault, match="c"):
        parser.feed(b"data: 1\n\ndata: \xc3\xa9\nid: 5\n: c\ndata: 2\n\n: d\ndata: 3\n\n")
    with pytest.raises(_Fault, match="d"):
        parser.feed(b"")
    assert [event.data for event in parser.feed(b"data: 4\n\n")] == ["1", "é\n2", "3", "4"]
    assert parser.last_event_id == "5"


def test_rest_after_exception_is_copied_from_chunk(core: Any) -> None:
    def on_comment(text: str) -> None:
        raise _Fault

    parser = core.Parser(on_comment=on_comment)
    stream = b"event: %b\nid: %b\ndata: %b\n: c\n\n" % (b"e" * 2000, b"i" * 2000, b"d" * 2000)
    with pytest.raises(_Fault):
        # Nothing else holds this copy, so its memory can be used again.
        parser.feed(bytes(bytearray(stream)))
    others = [bytes([65 + index]) * len(stream) for index in range(20)]
    assert parser.feed(b"") == [core.Event("e" * 2000, "d" * 2000, "i" * 2000)]
    del others


@pytest.mark.parametrize("callback", ["on_comment", "until"])
def test_reset_drops_undelivered_events(core: Any, callback: str) -> None:
    def fault(_: Any) -> None:
        raise _Fault

    parser = core.Parser(**{callback: fault})
    with pytest.raises(_Fault):
        parser.feed(b"data: 1\n\n: c\n\n")
    parser.reset()
    assert parser.feed(b"") == []


def test_event_type_is_reused_only_if_equal(core: Any) -> None:
    """The latest event type is reused only for the same bytes."""
    types = b"ab ab ac \xc3\xa9 \xe9 \xc3\xa9 a ab abc ab \xe9".split()
    events = core.Parser().feed(b"".join(b"event: %b\ndata\n\n" % name for name in types))
    assert [event.event for event in events] == [name.decode("utf-8", "replace") for name in types]


def test_keyboard_interrupt_loses_no_other_event(core: Any) -> None:
    def decode(data: bytes) -> bytes:
        if data == b"2":
            raise KeyboardInterrupt
        return data

    parser = core.Parser(decode=decode)
    with pytest.raises(KeyboardInterrupt):
        parser.feed(b"data: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert [event.data for event in parser.feed(b"")] == [b"1", b"3"]


def test_reset_drops_rest_of_interrupted_chunk(core: Any) -> None:
    parser = core.Parser(decode=int)
    with pytest.raises(DecodeError):
        parser.feed(b"data: x\n\ndata: 2\n\n")
    parser.reset()
    assert parser.feed(b"") == []


def test_until_text_ends_without_its_event(core: Any) -> None:
    stream = b"data: a\n\ndata: [DONE]\n\nid: 9\nretry: 1\ndata: b\n\ndata"
    for chunks in chunkings(stream):
        parser = core.Parser(until="[DONE]", decode=bytes.decode)
        events = feed_all(parser, chunks)
        assert [event.data for event in events] == ["a"]
        assert parser.done
        assert (parser.last_event_id, parser.retry, parser.pending) == ("", None, False)
        assert parser.feed(b"data: c\n\n") == []


def test_until_text_matches_whole_data_only(core: Any) -> None:
    parser = core.Parser(until="a\nb")
    assert len(parser.feed(b"data: a\n\ndata: a\ndata: b\ndata: c\n\n")) == 2
    assert parser.feed(b"data: a\ndata: b\n\n") == []
    assert parser.done


def test_until_predicate_ends_with_its_event(core: Any) -> None:
    parser = core.Parser(until=lambda event: event.data["last"], decode=json.loads)
    stream = b'data: {"last": false}\n\nid: 3\ndata: {"last": true}\n\ndata: {"last": false}\n\n'
    events = parser.feed(stream)
    assert [event.data["last"] for event in events] == [False, True]
    assert parser.done
    assert parser.last_event_id == "3"


def test_until_error_loses_no_event(core: Any) -> None:
    def until(event: Any) -> bool:
        if event.data == "2":
            raise _Fault
        return False

    parser = core.Parser(until=until)
    with pytest.raises(_Fault):
        parser.feed(b"data: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert not parser.done
    assert [event.data for event in parser.feed(b"")] == ["1", "2", "3"]
