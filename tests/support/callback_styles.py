"""The kinds of source, with callbacks that are awaited or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from sse_fast import EndReason, ReconnectPolicy
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import stream

FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
DELAY = 0.06  # seconds that a callback asks for
SLACK = 0.02


@dataclass(frozen=True)
class Manner:
    """A kind of source, and whether its callbacks are async functions. The library is no matter."""

    way: Way
    awaited: bool

    def __str__(self) -> str:
        return f"{self.way.backend or 'sync'}{' awaiting' if self.awaited else ''}"

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as this kind has its callbacks."""
        if not self.awaited:
            return function

        async def call(*args: Any) -> Any:
            await anyio.sleep(0)
            return function(*args)

        return call


SYNC = SOURCES["sse_fast"]
ASYNC = SOURCES["sse_fast asyncio"]
TRIO = SOURCES["httpx trio"]
AWAITING = [Manner(way, awaited=True) for way in (ASYNC, TRIO)]
MANNERS = [*(Manner(way, awaited=False) for way in (SYNC, ASYNC, TRIO)), *AWAITING]
# For what takes its time.
SOME = [MANNERS[0], AWAITING[0]]


B = stream(b"id: 2\ndata: b\n\n")


@dataclass
class Seen:
    """What the callbacks were called with."""

    data: list[Any] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    closes: int = 0
    end: EndReason | None = None
    error: Exception | None = None

    def on_message(self, event: Any) -> None:
        self.data.append(event.data)

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)

    def on_close(self) -> None:
        self.closes += 1


def run(
    manner: Manner,
    url: str,
    seen: Seen,
    on_message: Callable[..., Any] | None = None,
    on_close: Callable[..., Any] | None = None,
    **options: Any,
) -> None:
    """Run a source to its end, which `seen` tells of; `on_error` defaults to one that notes."""
    options.setdefault("on_error", manner(seen.on_error))
    options.setdefault("policy", FAST)
    try:
        seen.end = manner.way.run(
            url, on_message or manner(seen.on_message), on_close or manner(seen.on_close), **options
        )
    except Exception as error:
        seen.error = error


class Once:
    """A callable that raises the first time, and then does what it would have done."""

    def __init__(self, error: Exception, then: Callable[..., Any] = lambda *args: None) -> None:
        self.error = error
        self.then = then
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.then(*args)


class MyError(Exception):
    pass


COMMENTED = b": comment\n\nid: 1\ndata: a\n\n"
NEVER_ASYNC = {"on_comment", "on_chunk"}
