"""Parser: `on_comment`, `decode`, `until`, `until_event`, and what happens when they raise."""

from __future__ import annotations

import enum
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


# -- until_event --------------------------------------------------------------------------------


class _Kind(str, enum.Enum):
    END = "end"


@pytest.mark.parametrize("until_event", ["end", ("end",), ["x", "end"], {"end": 1}, _Kind.END])
@pytest.mark.parametrize("end_of_line", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_until_event_with_data_is_the_last(core: Any, until_event: Any, end_of_line: bytes) -> None:
    stream = (
        b"data: a\n\nevent: ended\ndata\n\nevent: end\nid: 1\ndata: b\n\nid: 2\ndata: c\n\ndata"
    )
    expected = [("message", "a", ""), ("ended", "", ""), ("end", "b", "1")]
    for chunks in chunkings(stream.replace(b"\n", end_of_line)):
        parser = core.Parser(until_event=until_event)
        events = feed_all(parser, chunks)
        assert [(event.event, event.data, event.id) for event in events] == expected
        assert parser.done
        assert (parser.last_event_id, parser.pending) == ("1", False)
        assert parser.feed(b"data: d\n\n") == []


@pytest.mark.parametrize("end_of_line", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_until_event_without_data_commits_id(core: Any, end_of_line: bytes) -> None:
    stream = b"id: 1\ndata: a\n\n: c\nid: 2\nretry: 9\nevent: end\n\nid: 3\nretry: 8\ndata: b\n\n"
    for chunks in chunkings(stream.replace(b"\n", end_of_line)):
        parser = core.Parser(until_event="end")
        events = feed_all(parser, chunks)
        assert events == [core.Event("message", "a", "1")]
        assert parser.done
        assert (parser.last_event_id, parser.retry, parser.pending) == ("2", 9, False)
    # The streams read the id from here.
    parser = core.Parser(until_event="end")
    parser.feed(stream)
    assert parser._lone_ids == {1: "2"}
    parser.reset()
    assert not parser.done
    assert parser.feed(b"event: end\n\ndata: a\n\n") == []
    assert (parser.done, parser.last_event_id, parser._lone_ids) == (True, "2", None)


@pytest.mark.parametrize(
    ("block", "is_met"),
    [
        (b"data: a\n\n", True),
        (b"event:\ndata: a\n\n", True),
        (b"event: x\nevent\ndata: a\n\n", True),
        (b"event: message\n\n", True),
        (b"event:\n\n", True),
        (b"event: x\ndata: a\n\n", False),
        # These blocks have no event, and name no type.
        (b"\n\n", False),
        (b": ping\n\n", False),
        (b"id: 1\n\n", False),
        (b"retry: 1\n\n", False),
    ],
)
def test_until_event_message_is_the_default_type(core: Any, block: bytes, is_met: bool) -> None:
    for chunks in chunkings(block):
        parser = core.Parser(until_event="message")
        feed_all(parser, chunks)
        assert parser.done is is_met


def test_until_event_compares_decoded_type(core: Any) -> None:
    for until_event, raw in [("é", "é".encode()), ("\ufffd", b"\xff"), (" x", b" x")]:
        parser = core.Parser(until_event=until_event)
        assert len(parser.feed(b"event: e\xc3\xa9\ndata\n\nevent: %b\ndata\n\n" % raw)) == 2
        assert parser.done
    parser = core.Parser(until_event="x" * 100)
    parser.feed(b"event: " + b"x" * 100 + b"\n\n")
    assert parser.done


def test_until_event_works_with_until(core: Any) -> None:
    """Whichever comes first ends the stream; a text in `until` hides its event."""
    options = {"until": "[DONE]", "until_event": ("end", "error")}
    for stream, count in [
        (b"data: a\n\ndata: [DONE]\n\nevent: end\ndata: b\n\n", 1),
        (b"data: a\n\nevent: end\ndata: b\n\ndata: [DONE]\n\n", 2),
        (b"data: a\n\nevent: end\ndata: [DONE]\n\ndata: b\n\n", 1),
        (b"data: a\n\nevent: error\n\ndata: [DONE]\n\n", 1),
    ]:
        for chunks in chunkings(stream):
            parser = core.Parser(**options)
            assert len(feed_all(parser, chunks)) == count
            assert parser.done
    seen: list[str] = []
    parser = core.Parser(until=lambda event: seen.append(event.data), until_event="end")
    assert len(parser.feed(b"data: a\n\nevent: end\ndata: b\n\n")) == 2
    # The type decides before the predicate is asked.
    assert (parser.done, seen) == (True, ["a"])


@pytest.mark.parametrize("decode", [json.loads, {"end": json.loads}], ids=["all", "by type"])
def test_until_event_works_with_decode(core: Any, decode: Any) -> None:
    parser = core.Parser(until_event="end", decode=decode)
    events = parser.feed(b'data: 1\n\nevent: end\ndata: {"a": 1}\n\ndata: 2\n\n')
    assert events[-1] == core.Event("end", {"a": 1})
    assert parser.done


def test_until_event_that_cannot_be_decoded_ends(core: Any) -> None:
    parser = core.Parser(until_event="end", decode=json.loads)
    with pytest.raises(DecodeError) as caught:
        parser.feed(b"data: 1\n\nid: 2\nevent: end\ndata: bye\n\ndata: 3\n\n")
    assert caught.value.event == core.Event("end", "bye", "2")
    assert [event.data for event in caught.value.events] == [1]
    assert parser.done
    assert parser.feed(b"") == []


def test_until_event_keeps_blocks_without_data_apart(core: Any) -> None:
    """Without `until_event`, and for other types, such a block gives nothing."""
    stream = b"event: end\n\ndata: a\n\n"
    for options in ({}, {"until_event": "message"}, {"until_event": ("x", "y")}):
        for chunks in chunkings(stream):
            assert len(feed_all(core.Parser(**options), chunks)) == 1
