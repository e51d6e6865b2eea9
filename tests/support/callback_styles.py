"""The kinds of source, each with plain callbacks or with async ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import anyio
import pytest

from sse_fast import EndReason
from tests.support.eventsources import SOURCES, Way, matrix_marks
from tests.support.threaded_reader import NO_DELAY

DELAY = 0.06  # seconds that a callback asks for
SLACK = 0.02


@dataclass(frozen=True)
class CallbackStyle:
    """A kind of source, and whether its callbacks are async; the library makes no difference."""

    way: Way
    is_async: bool

    def __str__(self) -> str:
        return f"{self.way.backend or 'sync'}{' awaiting' if self.is_async else ''}"

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a callback of this style."""
        if not self.is_async:
            return function

        async def call(*args: Any) -> Any:
            await anyio.sleep(0)
            return function(*args)

        return call


SYNC = SOURCES["sse_fast"]
ASYNCIO = SOURCES["sse_fast asyncio"]
TRIO = SOURCES["httpx trio"]
ASYNC_STYLES = [CallbackStyle(way, is_async=True) for way in (ASYNCIO, TRIO)]
STYLES = [*(CallbackStyle(way, is_async=False) for way in (SYNC, ASYNCIO, TRIO)), *ASYNC_STYLES]
# One of each client, for tests with many cases.
SYNC_AND_ASYNC = [STYLES[0], ASYNC_STYLES[0]]


def style_params(styles: Iterable[CallbackStyle] = STYLES) -> list[Any]:
    """Return a parameter for each style; those over other transports than ours are `matrix`."""
    return [pytest.param(style, id=str(style), marks=matrix_marks(style.way)) for style in styles]


@dataclass
class Recorder:
    """Callbacks that record what they were called with, and how the run ended."""

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
    style: CallbackStyle,
    url: str,
    recorder: Recorder,
    on_message: Callable[..., Any] | None = None,
    on_close: Callable[..., Any] | None = None,
    **options: Any,
) -> None:
    """Run a source to its end, with the callbacks of the recorder where no others are given."""
    options.setdefault("on_error", style(recorder.on_error))
    options.setdefault("policy", NO_DELAY)
    try:
        recorder.end = style.way.run(
            url,
            on_message or style(recorder.on_message),
            on_close or style(recorder.on_close),
            **options,
        )
    except Exception as error:
        recorder.error = error


class RaiseOnce:
    """A callable that raises the first time, and calls `then` every other time."""

    def __init__(self, error: Exception, then: Callable[..., Any] = lambda *args: None) -> None:
        self.error = error
        self.then = then
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.then(*args)


class CallbackError(Exception):
    """An error that only a callback of a test raises."""


class AttemptTimes(list[float]):
    """A `headers` that records when it is called, which is right before each attempt.

    The server may see a request late, and the next one would then seem to be early.
    """

    def __call__(self) -> dict[str, str]:
        self.append(time.monotonic())
        return {}

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self)]


class Errors(list[Exception]):
    """An `on_error` that records the errors, and leaves the decision to the policy."""

    def __call__(self, error: Exception) -> None:
        self.append(error)


COMMENT_THEN_EVENT = b": comment\n\nid: 1\ndata: a\n\n"
NEVER_ASYNC = {"on_comment", "on_chunk"}
