"""Comments are delivered in the order of the stream, between the events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sse_fast import DecodeError, EndReason, EventTooLarge, aiter_events, iter_events

STREAM = b": a\n\ndata: 1\n\n: b\n: c\n\ndata: 2\n\ndata: 3\n\n: d\n\n"
ORDER = [":a", "1", ":b", ":c", "2", "3", ":d"]


def read(kind: Any, *chunks: bytes, **options: Any) -> list[str]:
    """Return the events and the comments in the order in which they came."""
    order: list[str] = []
    stream, _ = kind.open(*chunks, on_comment=lambda text: order.append(f":{text}"), **options)
    while (event := kind.next(stream)) is not None:
        order.append(event.data)
    return order


def test_comments_come_between_events(kind: Any) -> None:
    assert read(kind, STREAM) == ORDER
    assert read(kind, *(bytes([byte]) for byte in STREAM)) == ORDER
    for at in range(len(STREAM)):
        assert read(kind, STREAM[:at], STREAM[at:]) == ORDER


def test_comment_comes_with_request_of_next_event(kind: Any) -> None:
    order: list[str] = []
    stream, _ = kind.open(STREAM, on_comment=order.append)
    seen = []
    for number in "123":
        assert kind.next(stream).data == number
        seen.append(list(order))
    assert seen == [["a"], ["a", "b", "c"], ["a", "b", "c"]]
    assert kind.next(stream) is None
    assert order == ["a", "b", "c", "d"]


def test_heartbeat_is_delivered_as_it_arrives() -> None:
    """It does not wait for the next event."""
    heard, go = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"data: 1\n\n: beat\n\n"
        assert go.wait(10)
        yield b"data: 2\n\n"

    stream = iter_events(chunks(), on_comment=lambda _: heard.set())
    assert next(stream).data == "1"
    assert not heard.is_set()
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    assert heard.wait(5)
    go.set()
    thread.join(5)


IDS = b"id: 1\ndata: 1\n\n: a\n\nid: 2\n\n: b\n\nid: 3\ndata: 3\n\n: c\n\nid: 4\n\n: d\n\n"


def test_ids_at_comments_are_those_of_earlier_events(kind: Any) -> None:
    """The events before a comment are taken, and those after it are not."""
    seen: list[tuple[str, str, str]] = []

    def on_comment(text: str) -> None:
        seen.append((text, stream.last_event_id, stream.taken_id))

    stream, _ = kind.open(b": 0\n\n" + IDS, on_comment=on_comment, last_event_id="0")
    ids = []
    while (event := kind.next(stream)) is not None:
        ids.append((event.id, stream.last_event_id, stream.taken_id))
    # A block with only an id counts with the event before it.
    taken = {"0": "0", "a": "2", "b": "2", "c": "4", "d": "4"}
    assert seen == [(text, last_id, last_id) for text, last_id in taken.items()]
    assert ids == [("1", "2", "0"), ("3", "4", "2")]
    assert stream.last_event_id == "4"


def test_close_between_comments_keeps_the_id(kind: Any) -> None:
    stream, _ = kind.open(IDS, on_comment=lambda text: None, last_event_id="0")
    kind.next(stream)
    kind.close(stream)
    assert stream.last_event_id == "2"
    assert stream.taken_id == "0"


def test_error_of_on_comment_drops_that_comment_only(kind: Any) -> None:
    order: list[str] = []

    def on_comment(text: str) -> None:
        order.append(f":{text}")
        if text in "ac":
            raise KeyError(text)

    stream, _ = kind.open(STREAM, on_comment=on_comment)
    while True:
        try:
            event = kind.next(stream)
        except KeyError as error:
            order.append(f"!{error.args[0]}")
            continue
        if event is None:
            break
        order.append(event.data)
    assert order == [":a", "!a", "1", ":b", ":c", "!c", "2", "3", ":d"]
    assert stream.end_reason is EndReason.END


def test_comments_before_errors_come_in_order(kind: Any) -> None:
    order: list[str] = []
    stream, _ = kind.open(
        b"data: 1\n\n: a\n\ndata: x\n\n: b\n\ndata: 2\n\n: c\n\ndata: " + b"9" * 50,
        on_comment=lambda text: order.append(f":{text}"),
        decode=int,
        max_event_size=40,
    )
    while True:
        try:
            event = kind.next(stream)
        except DecodeError:
            order.append("undecodable")
        except EventTooLarge:
            order.append("too large")
            break
        else:
            order.append(str(event.data))
    assert order == ["1", ":a", "undecodable", ":b", "2", ":c", "too large"]


def test_until_drops_later_comments(kind: Any) -> None:
    assert read(kind, b": a\n\ndata: 1\n\n: b\n\ndata: end\n\n: c\n\n", until="end") == [
        ":a",
        "1",
        ":b",
    ]


def test_closing_comment_ends_the_stream() -> None:
    def on_comment(text: str) -> None:
        stream.close()

    stream = iter_events([STREAM], on_comment=on_comment)
    assert list(stream) == []
    assert stream.end_reason is EndReason.CLOSED


def test_kept_comments_are_bounded(kind: Any) -> None:
    """A burst of comments is no error, and few of them are kept at a time."""
    kept: list[int] = []
    stream, _ = kind.open(
        b": 12345678\n" * 1000 + b"\ndata: 1\n\n",
        on_comment=lambda text: kept.append(sum(isinstance(each, str) for each in stream._parts)),
        max_event_size=100,
    )
    assert kind.drain(stream) == ["1"]
    assert len(kept) == 1000
    assert max(kept) < 100 / len(": 12345678\n")


def test_comment_over_the_limit_raises(kind: Any) -> None:
    stream, _ = kind.open(b"data: 1\n\n: " + b"x" * 200, on_comment=print, max_event_size=100)
    assert kind.next(stream).data == "1"
    with pytest.raises(EventTooLarge):
        kind.next(stream)


def test_on_comment_must_be_callable() -> None:
    for opening in (iter_events, aiter_events):
        with pytest.raises(TypeError, match="on_comment"):
            opening(b"", on_comment=1)  # type: ignore[call-overload]


def test_comments_of_next_event_come_in_order() -> None:
    order: list[str] = []

    async def run() -> None:
        stream = aiter_events([STREAM], on_comment=lambda text: order.append(f":{text}"))
        while (event := await stream.next_event(timeout=1)) is not None:
            order.append(event.data)

    asyncio.run(run())
    assert order == ORDER
    order.clear()
    stream = iter_events([STREAM], on_comment=lambda text: order.append(f":{text}"))
    while (event := stream.next_event(timeout=1)) is not None:
        order.append(event.data)
    assert order == ORDER
