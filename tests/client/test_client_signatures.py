"""What the two kinds of client agree in, and the functions around them."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from typing import Any

import pytest

import sse_fast
from sse_fast import AsyncEventSource, EndReason, EventSource
from tests.support.callback_styles import COMMENTED, FAST, B, Seen
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.scripted_server import Play, Stage, stream

pytestmark = UNREAD_UNDER_TRIO


# -- The two kinds agree ---------------------------------------------------------------------------


def public(cls: Any) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[Any]:
    """All but what it returns, which may have to be awaited."""
    return list(inspect.signature(function).parameters.values())


def test_public_names_are_equal() -> None:
    assert public(AsyncEventSource) - public(EventSource) == {"aclose"}
    assert public(EventSource) <= public(AsyncEventSource)
    assert public(EventSource("http://127.0.0.1")) == public(EventSource) | {
        "end_reason",
        "response",
        "url",
    }
    sync, other = EventSource("http://127.0.0.1"), AsyncEventSource("http://127.0.0.1")
    assert public(other) - public(sync) == {"aclose"}


def test_protocols_are_equal() -> None:
    own = {name for name in dir(EventSource) if name.startswith("__")}
    others = {name for name in dir(AsyncEventSource) if name.startswith("__")}
    assert own - others == {"__iter__", "__next__", "__enter__", "__exit__"}
    assert others - own == {"__aiter__", "__anext__", "__aenter__", "__aexit__"}


def test_signatures_are_equal() -> None:
    assert parameters(EventSource) == parameters(AsyncEventSource)
    for name in public(EventSource):
        one, other = getattr(EventSource, name), getattr(AsyncEventSource, name)
        assert isinstance(one, property) == isinstance(other, property), name
        if not isinstance(one, property):
            assert parameters(one) == parameters(other), name
        assert one.__doc__, name
        assert other.__doc__, name
    assert parameters(sse_fast.fetch_event_source) == parameters(sse_fast.afetch_event_source)


def test_what_is_awaited() -> None:
    awaited = {
        name
        for name in public(AsyncEventSource)
        if inspect.iscoroutinefunction(getattr(AsyncEventSource, name))
    }
    assert awaited == {"open", "run", "aclose"}
    assert not any(
        inspect.iscoroutinefunction(getattr(EventSource, name)) for name in awaited - {"aclose"}
    )
    assert inspect.iscoroutinefunction(sse_fast.afetch_event_source)


def test_the_signature_is_the_documented_one() -> None:
    """Each keyword is in the docstring, once, and in the order of the signature."""
    names = [each.name for each in parameters(EventSource)]
    # Not as it stands there, which differs from version to version of Python.
    text = inspect.getdoc(EventSource) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^ {4}(\w+):", arguments, re.MULTILINE) == names


# -- The functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [False, True])
def test_fetch_event_source(stage: Stage, awaited: bool) -> None:
    stage.plays = [Play(503, ()), stream(), B]
    seen = Seen()
    options: dict[str, Any] = {
        "on_message": seen.on_message,
        "on_close": seen.on_close,
        "on_error": seen.on_error,
        "policy": FAST,
        "headers": {"X-Own": "1"},
    }
    if awaited:
        reason = asyncio.run(sse_fast.afetch_event_source(stage.url, **options))
    else:
        reason = sse_fast.fetch_event_source(stage.url, **options)
    assert reason is EndReason.NO_CONTENT
    assert (seen.data, seen.closes, len(seen.errors)) == (["a", "b"], 2, 1)
    assert stage.requests[0].get("X-Own") == b"1"
    assert stage.open == 0


def test_the_callbacks_run_where_the_caller_does(stage: Stage) -> None:
    """A sync client asks in a thread of its own, of which its user sees nothing."""
    stage.plays = [Play(503, ()), stream(COMMENTED)]
    threads: set[int] = set()

    def note(*args: Any) -> None:
        threads.add(threading.get_ident())

    def headers() -> dict[str, str]:
        note()
        return {}

    sse_fast.fetch_event_source(
        stage.url,
        on_message=note,
        on_close=note,
        on_open=note,
        on_error=note,
        on_comment=note,
        on_chunk=note,
        headers=headers,
        policy=FAST,
    )
    assert threads == {threading.get_ident()}
