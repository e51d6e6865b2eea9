"""`until_event` of a stream: its end reason and its last event ID."""

from __future__ import annotations

from typing import Any

import pytest

from sse_fast import EndReason


@pytest.mark.parametrize("cut", [False, True], ids=["one chunk", "bytes"])
def test_until_event_without_data_commits_its_id(kind: Any, cut: bool) -> None:
    body = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\nretry: 9\nevent: end\n\nid: 4\ndata: c\n\n"
    chunks = [body[at : at + 1] for at in range(len(body))] if cut else [body]
    stream, source = kind.open(*chunks, until_event="end")
    assert kind.next(stream).data == "a"
    assert (stream.last_event_id, stream.taken_id) == ("1", "")
    assert kind.next(stream).data == "b"
    stream.take()
    assert kind.next(stream) is None
    assert stream.end_reason is EndReason.UNTIL
    assert (stream.last_event_id, stream.taken_id, stream.retry) == ("3", "3", 9)
    assert not stream.pending
    assert source.closed == 1


def test_until_event_with_data_is_delivered(kind: Any) -> None:
    body = b"data: a\n\nid: 5\nevent: error\ndata: b\n\ndata: c\n\n"
    stream, _ = kind.open(body, until_event=("end", "error"))
    assert kind.drain(stream) == ["a", "b"]
    assert (stream.end_reason, stream.last_event_id) == (EndReason.UNTIL, "5")


def test_until_event_that_cannot_be_decoded_ends(kind: Any) -> None:
    stream, _ = kind.open(
        b"data: 1\n\nevent: end\ndata: bye\n\ndata: 2\n\n", until_event="end", decode=int
    )
    assert kind.next(stream).data == 1
    with pytest.raises(Exception, match="decode"):
        kind.next(stream)
    assert kind.next(stream) is None
    assert stream.end_reason is EndReason.UNTIL
