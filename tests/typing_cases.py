"""Types that a checker has to infer for the interface: checked by mypy, not run."""

import json
from typing import Any

from typing_extensions import assert_type

import sse_fast
from sse_fast import (
    AsyncEventSource,
    AsyncEventStream,
    EndReason,
    Event,
    EventSource,
    EventStream,
    Parser,
    ReadyState,
    ReconnectPolicy,
    Response,
    aopen_stream,
    fetch_event_source,
    open_stream,
)

chunks: list[bytes] = []

assert_type(Parser(), Parser[str])
assert_type(Parser(decode=json.loads), Parser[Any])
assert_type(Parser(decode=int), Parser[int])
assert_type(Parser(decode={"n": int}), Parser[str | int])
assert_type(Parser(decode={"n": int, "m": json.loads}), Parser[Any])
assert_type(sse_fast.iter_events([b""], decode={"n": int, "m": json.loads}), EventStream[Any])
assert_type(Parser(decode=int).feed(bytearray()), list[Event[int]])
assert_type(Parser().feed(memoryview(b""))[0].data, str)
assert_type(Parser(until=lambda event: event.data == "x", last_event_id="1"), Parser[str])
assert_type(sse_fast.get_include(), str)
assert_type(Event(), Event)
assert_type(Event("a", "b").data, str)
assert_type(Event("a", 1).data, int)
assert_type(Event().retry, int | None)
assert_type(Event().encode(), bytes)

assert_type(sse_fast.iter_events(chunks), EventStream[str])
assert_type(sse_fast.iter_events(chunks).response.status, int | Any)
assert_type(EventSource("u").response.headers["content-type"], str | Any)
for part in sse_fast.relay(sse_fast.iter_events(chunks), heartbeat=None):
    assert_type(part, bytes)


async def pass_on() -> None:
    relayed = sse_fast.relay(sse_fast.aiter_events(chunks))
    async for part in relayed:
        assert_type(part, bytes)
    await relayed.aclose()


sse_fast.relay(chunks)  # type: ignore[arg-type]
assert_type(sse_fast.iter_events(chunks, decode=int, until="x"), EventStream[int])
assert_type(sse_fast.iter_events(chunks, decode={"n": int}), EventStream[Any])
assert_type(sse_fast.aiter_events(chunks, decode=int, on_chunk=len), AsyncEventStream[int])
with sse_fast.iter_events(chunks, max_event_size=9) as events:
    assert_type(events, EventStream[str])
    for event in events:
        assert_type(event, Event[str])

Parser().feed("text")  # type: ignore[arg-type]
Parser(until=b"x")  # type: ignore[call-overload]
assert_type(Parser(until_event="end"), Parser[str])
assert_type(Parser(until_event=("end", "error"), decode=int), Parser[int])
assert_type(sse_fast.iter_events(chunks, until_event={"end"}), EventStream[str])
Parser(until_event=b"end")  # type: ignore[arg-type]
sse_fast.iter_events(chunks, until_event=None)  # type: ignore[call-overload]
sse_fast.iter_events(chunks, wrong=1)  # type: ignore[call-overload]
Event().data = "x"  # type: ignore[misc]

assert_type(open_stream("u", method="POST", json=[], uds="p"), EventStream[str])
assert_type(open_stream("u", decode=int, headers={"A": b"b"}), EventStream[int])
assert_type(open_stream("u", decode={"a": int}), EventStream[Any])
assert_type(aopen_stream("u", data="d", until="x"), AsyncEventStream[str])
assert_type(aopen_stream("u", data="d", until_event=["x"]), AsyncEventStream[str])
assert_type(aopen_stream("u", decode=int), AsyncEventStream[int])
open_stream("u", timeout=1)  # type: ignore[call-overload]
open_stream("u", data=1)  # type: ignore[call-overload]

source = EventSource("u", method="POST", json={}, headers=lambda: {"a": "b"}, on_open=print)
assert_type(source, EventSource[str])
assert_type(EventSource("u", decode=int), EventSource[int])
assert_type(AsyncEventSource("u", decode={"a": int}), AsyncEventSource[Any])
assert_type(source.open(), Response)
assert_type(source.run(print), EndReason)
assert_type(source.ready_state, ReadyState)
assert_type(next(source), Event[str])
assert_type(fetch_event_source("u", on_message=print, policy=ReconnectPolicy.never()), EndReason)
with source as same:
    assert_type(same, EventSource[str])
EventSource("u", timeout=1)  # type: ignore[call-overload]
