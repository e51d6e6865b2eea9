"""A clean end whose `on_close` is cancelled or interrupted stays a clean end."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sse_fast import EndReason, EventSource
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, Way
from tests.support.scripted_server import Stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO

BODY = b"id: 1\ndata: a\n\n"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("then", ["run", "loop", "next_event"])
def test_cancelled_on_close_leaves_a_clean_end(
    then: str, method: str, async_way: Way, stage: Stage
) -> None:
    stage.plays = [stream(BODY)]
    calls: list[str] = []

    async def wait() -> None:
        calls.append("first")
        scopes[0].cancel()
        await anyio.sleep(30)

    async def use(source: Any) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await source.run(lambda event: calls.append(event.data), on_close=wait)
        assert scope.cancelled_caught
        assert source.end_reason is None
        if then == "run":
            end = await source.run(calls.append, on_close=lambda: calls.append("second"))
            assert end is EndReason.NO_CONTENT if method == "GET" else end is EndReason.END
        elif then == "loop":
            assert [event async for event in source] == []
        else:
            assert await source.next_event(5) is None

    scopes: list[anyio.CancelScope] = []
    async_way.use(use, stage.url, method=method, policy=NO_DELAY)
    assert calls == ["a", "first", *(["second"] if then == "run" else [])]
    sent = [request.get("Last-Event-ID") for request in stage.requests]
    assert sent == ([None, b"1"] if method == "GET" else [None])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_interrupted_on_close_leaves_a_clean_end(method: str, stage: Stage) -> None:
    stage.plays = [stream(BODY)]
    seen: list[Any] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    with EventSource(stage.url, method=method, policy=NO_DELAY) as source:
        with pytest.raises(KeyboardInterrupt):
            source.run(seen.append, on_close=interrupt)
        assert source.next_event() is None
        assert source.end_reason is (EndReason.NO_CONTENT if method == "GET" else EndReason.END)
    assert len(seen) == 1
    assert len(stage.requests) == (2 if method == "GET" else 1)


@BY_US
def test_reconnect_after_interrupted_on_close(way: Way, stage: Stage) -> None:
    """`reconnect()` takes the place of the end, whose `on_close` is not called again."""
    stage.plays = [stream(BODY), stream(b"data: b\n\n")]
    calls: list[str] = []

    def interrupt() -> None:
        calls.append("interrupt")
        raise KeyboardInterrupt

    async def use(source: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            await source.run(lambda event: None, on_close=interrupt)
        source.reconnect()
        assert (await anext(source)).data == "b"
        assert calls == ["interrupt"]

    way.use(use, stage.url, method="POST", policy=NO_DELAY)
