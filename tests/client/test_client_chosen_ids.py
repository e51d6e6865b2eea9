"""`last_event_id` set by the program: which later event changes it, and which does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import Stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


# The ids of the blocks: None for a block without one, "-" before that of a block without data.
# Then the number of events that were delivered when "x" was set, and the ids while each later
# event is handled, and at the end.
CASES: dict[str, tuple[list[str | None], int, list[str]]] = {
    "later id": (["1", "2", "3"], 1, ["x", "2", "3"]),
    "no ids": (["1", None, None], 1, ["x", "x", "x"]),
    "earlier id": (["1", "2", "1", "3"], 2, ["x", "1", "3"]),
    "earlier id, then none": (["1", "2", "1", None], 2, ["x", "1", "1"]),
    "and back": (["1", "2", "3", "2"], 2, ["x", "3", "2"]),
    "id of the event before": (["1", "1", "1", "2"], 2, ["x", "x", "2"]),
    "no id, then one": (["1", None, "2"], 1, ["x", "x", "2"]),
    "block without data": (["1", None, "-2", None], 1, ["x", "2", "2"]),
    "empty id": (["1", "2", "", None], 2, ["x", "", ""]),
    "the same value": (["1", "x", "3"], 1, ["x", "x", "3"]),
    "at the end": (["1", "2"], 2, ["x"]),
    "at the end, before a block": (["1", "2", "-3"], 1, ["x", "3"]),
}


def make_block(number: int, event_id: str | None) -> bytes:
    if event_id is None:
        return b"data: %d\n\n" % number
    if event_id.startswith("-"):
        return b"id: %s\n\n" % event_id[1:].encode()
    return b"id: %s\ndata: %d\n\n" % (event_id.encode(), number)


@pytest.mark.parametrize("how", ["loop", "next_event", "run"])
@pytest.mark.parametrize("in_many_chunks", [False, True], ids=["one chunk", "chunk by chunk"])
@pytest.mark.parametrize("case", CASES)
def test_chosen_id_until_an_event_brings_another(
    case: str, in_many_chunks: bool, how: str, way: Way, stage: Stage
) -> None:
    """It makes no difference which events were in the buffer when the id was set."""
    ids, set_at, expected = CASES[case]
    blocks = [make_block(number, each) for number, each in enumerate(ids)]
    body = blocks if in_many_chunks else [b"".join(blocks)]
    stage.plays = [stream(*body, delay=5.0 if in_many_chunks else 0.0)]
    seen: list[str] = []
    count = 0

    def handle(source: Any) -> None:
        nonlocal count
        count += 1
        if count > set_at:
            seen.append(source.last_event_id)
        if count == set_at:
            source.last_event_id = "x"

    async def use(source: Any) -> None:
        if how == "run":
            await source.run(lambda event: handle(source))
            return
        while True:
            event = await (source.next_event() if how == "next_event" else anext(source, None))
            if event is None:
                break
            handle(source)

    way.use(use, stage.url, policy=NO_DELAY)
    # The 204 of the second request ends the source.
    sent = stage.requests[1].get("Last-Event-ID")
    assert [*seen, "" if sent is None else sent.decode()] == expected


@pytest.mark.parametrize("value", ["9", "", None])
def test_chosen_id_outlives_a_failed_handler(value: Any, way: Way, stage: Stage) -> None:
    """The event comes again if the server sends it after the id that was set."""
    stage.plays = [stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), stream(b"data: c\n\n")]

    async def use(source: Any) -> None:
        def fail(event: Any) -> None:
            if event.data == "b":
                source.last_event_id = value
                raise KeyError

        with pytest.raises(KeyError):
            await source.run(fail)
        assert source.last_event_id == (value or "")
        assert (await anext(source)).data == "c"
        assert source.last_event_id == (value or "")

    way.use(use, stage.url, policy=NO_DELAY)
    assert stage.requests[1].get("Last-Event-ID") == (b"9" if value else None)
