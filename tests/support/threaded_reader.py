"""A source that another thread reads, and what the tests of its end have in common."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from typing_extensions import Self

from sse_fast import EndReason, ReadyState, ReconnectPolicy
from tests.support.clients import LIMIT
from tests.support.eventsources import ASYNC_SOURCES, SOURCES, Way
from tests.support.scripted_server import Play, Stage, stream

# A wait that nothing but close() or reconnect() can cut short.
SLOW = ReconnectPolicy(initial_delay=30.0, jitter=0.0)
FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.01)
AT_ONCE = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
# Seconds after which a reader is in its next wait, at least very probably.
SETTLED = 0.03
# Seconds: 100 ms are promised, of which a busy machine knows nothing.
SOON = 1.0
BLOCKING = [way for way in SOURCES.values() if not way.is_async]
AWAITING = list(ASYNC_SOURCES.values())
ASYNCIO = [way for way in AWAITING if way.backend == "asyncio"]
CLIENTS = [way for way in SOURCES.values() if way.has_client]
# httpx and httpx2 leave inner generators to the garbage collector, of which trio warns.
OF_TRIO = pytest.mark.filterwarnings(
    "ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"
)


def marked(ways: list[Way]) -> list[Any]:
    return [
        pytest.param(way, id=str(way), marks=[OF_TRIO] if way.backend == "trio" else [])
        for way in ways
    ]


EVERY = pytest.mark.parametrize("way", marked(list(SOURCES.values())))


def quiet(*events: bytes) -> Play:
    """Events, and then nothing until the client has left."""
    return stream(*events, end="hang")


# Nothing at all, not even a head.
MUTE = Play(framing="none", end="hang")
B = stream(b"id: 2\ndata: b\n\n")


def wait_until(condition: Callable[[], object], seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Reading:
    """A source that another thread opens and iterates over."""

    def __init__(
        self,
        way: Way,
        url: str,
        on_message: Callable[[Any], object] = lambda event: None,
        **options: Any,
    ) -> None:
        self.source: Any = None
        self.data: list[str] = []
        self.error: BaseException | None = None
        self.ended: float | None = None
        self.end_reason: EndReason | None = None
        self._on_message = on_message
        self._thread = threading.Thread(
            target=self._work, args=(partial(way.use, self._read, url, **options),)
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.source is not None or self.error is not None)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.source is not None:
            self.source.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def _work(self, read: Callable[[], Any]) -> None:
        try:
            read()
        except BaseException as error:
            self.error = error

    async def _read(self, source: Any) -> None:
        self.source = source
        try:
            async for event in source:
                self.data.append(event.data)
                self._on_message(event)
            self.end_reason = source.end_reason
        finally:
            self.ended = time.monotonic()

    def close(self) -> float:
        """Seconds from the call to the end of the loop."""
        before = time.monotonic()
        self.source.close()
        # At once, whatever the reader does.
        assert time.monotonic() - before < SOON
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        assert self.ended is not None
        return self.ended - before

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def assert_quietly_over(reading: Reading, stage: Stage, requests: int) -> None:
    assert reading.error is None
    assert reading.end_reason is EndReason.CLOSED
    assert reading.source.ready_state is ReadyState.CLOSED
    time.sleep(SETTLED)
    assert len(stage.requests) == requests


# -- Cancelled waits -------------------------------------------------------------------------------


# Each is cancelled once a condition holds, and a little later.


async def settled(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.001)
    await anyio.sleep(SETTLED)


# -- Connections that are used again ---------------------------------------------------------------


CHUNKED = ("Transfer-Encoding", "chunked")
