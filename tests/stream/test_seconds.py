"""Arguments in seconds: one rule, and one text, for all of them."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

import sse_fast
from tests.support.streams import AsyncClosing


def wait_async(make: Callable[[], Any], timeout: Any) -> Any:
    async def main() -> Any:
        return await make().next_event(timeout)

    return asyncio.run(main())


URL = "http://127.0.0.1:1/"
OR_ZERO: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "stream": ("timeout", lambda value: sse_fast.iter_events([b"data: 1\n\n"]).next_event(value)),
    "unwaitable": ("timeout", lambda value: sse_fast.iter_events(iter([])).next_event(value)),
    "async stream": (
        "timeout",
        lambda value: wait_async(
            lambda: sse_fast.aiter_events(AsyncClosing(b"data: 1\n\n")), value
        ),
    ),
    "source": ("timeout", lambda value: sse_fast.EventSource(URL).next_event(value)),
    "async source": (
        "timeout",
        lambda value: wait_async(lambda: sse_fast.AsyncEventSource(URL), value),
    ),
    "reconnect": ("delay", lambda value: sse_fast.EventSource(URL).reconnect(value)),
    "RetriableError": ("delay", lambda value: sse_fast.RetriableError(delay=value)),
    "columns": ("batch_seconds", lambda value: sse_fast.iter_columns([], batch_seconds=value)),
}
ABOVE_ZERO: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "relay": ("heartbeat", lambda value: sse_fast.relay([], heartbeat=value)),
    **{
        f"{function.__name__} {name}": (
            name,
            lambda value, function=function, argument=argument, name=name: function(
                argument, **{name: value}
            ),
        )
        for function, argument in [
            (sse_fast.iter_events, [b""]),
            (sse_fast.aiter_events, [b""]),
            (sse_fast.open_stream, URL),
            (sse_fast.aopen_stream, URL),
            (sse_fast.EventSource, URL),
            (sse_fast.AsyncEventSource, URL),
        ]
        for name in ("connect_timeout", "idle_timeout", "event_timeout")
        if function in (sse_fast.EventSource, sse_fast.AsyncEventSource)
        or name in inspect.signature(function).parameters
    },
}
ALL = [(name, *each, True) for name, each in OR_ZERO.items()] + [
    (name, *each, False) for name, each in ABOVE_ZERO.items()
]


@pytest.mark.parametrize(
    ("name", "call", "or_zero"), [each[1:] for each in ALL], ids=[each[0] for each in ALL]
)
def test_wrong_seconds_are_refused(name: str, call: Callable[[Any], Any], or_zero: bool) -> None:
    if name == "batch_seconds" and not sse_fast.ACCELERATED:
        pytest.skip("columns need the compiled extension")
    for value in ("1", b"", True, [], 1j):
        text = f"Expected {name} to be a number of seconds or None, got {type(value).__name__}"
        with pytest.raises(TypeError, match=re.escape(text)):
            call(value)
    least = "from 0" if or_zero else "above 0"
    for wrong in (-1, -0.5, math.nan, math.inf, -math.inf, 1e9, 1e12, *([] if or_zero else [0])):
        text = f"Expected {name} to be a number of seconds {least} and below 1e9, got {wrong!r}"
        with pytest.raises(ValueError, match=re.escape(text)):
            call(wrong)
