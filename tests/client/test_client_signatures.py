"""The sync and the async client have the same interface, which their docstrings describe."""

from __future__ import annotations

import ast
import asyncio
import inspect
import pydoc
import re
import threading
from importlib import import_module
from typing import Any

import pytest

import sse_fast
from sse_fast import AsyncEventSource, EndReason, EventSource
from tests.support.callback_styles import COMMENT_THEN_EVENT, Recorder
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.scripted_server import Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY, STREAM_B

pytestmark = UNREAD_UNDER_TRIO


# -- Both clients have the same interface ----------------------------------------------------------


def public(cls: Any) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[Any]:
    """Return the parameters of a function; what it returns may differ, as it may be awaited."""
    return list(inspect.signature(function).parameters.values())


def test_public_names_are_equal() -> None:
    assert public(AsyncEventSource) - public(EventSource) == {"aclose"}
    assert public(EventSource) <= public(AsyncEventSource)
    assert public(EventSource("http://127.0.0.1")) == public(EventSource) | {
        "end_reason",
        "name",
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


def test_async_client_has_four_async_methods() -> None:
    awaited = {
        name
        for name in public(AsyncEventSource)
        if inspect.iscoroutinefunction(getattr(AsyncEventSource, name))
    }
    assert awaited == {"open", "run", "aclose", "next_event"}
    assert not any(
        inspect.iscoroutinefunction(getattr(EventSource, name)) for name in awaited - {"aclose"}
    )
    assert inspect.iscoroutinefunction(sse_fast.afetch_event_source)


def documented_arguments(cls: Any) -> dict[str, str]:
    """Return the section Args of a docstring as name -> description, with single spaces."""
    # getdoc removes the indentation, which differs between versions of Python.
    text = inspect.getdoc(cls) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    assert len(found) == len(dict(found))
    return {name: " ".join(description.split()) for name, description in found}


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_docstring_has_every_argument_in_order(cls: Any) -> None:
    assert list(documented_arguments(cls)) == [each.name for each in parameters(cls)]


def test_docstrings_agree_except_where_clients_differ() -> None:
    one, other = documented_arguments(EventSource), documented_arguments(AsyncEventSource)
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"headers", "client", "resume", "event_timeout"}
    for name in ("headers", "resume"):
        assert other[name].replace(" (may be async)", "") == one[name]


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_help_shows_arguments_but_no_private_methods(cls: Any) -> None:
    text = pydoc.render_doc(cls, renderer=pydoc.plaintext)  # type: ignore[arg-type]
    assert all(f"{name}: " in text for name in documented_arguments(cls))
    assert not re.findall(r"^ \|  (?:async )?_[a-z]\w*", text, re.MULTILINE)


def test_options_are_the_keywords() -> None:
    """The TypedDict for type checkers has every keyword except `decode`, in the same order."""
    source = ast.parse(inspect.getsource(import_module("sse_fast._client.options")))
    names = [
        field.target.id
        for each in ast.walk(source)
        if isinstance(each, ast.ClassDef) and each.name == "ClientOptions"
        for field in each.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]
    keywords = [each.name for each in parameters(EventSource) if each.name != "url"]
    assert names == [name for name in keywords if name != "decode"]


# -- The functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [False, True])
def test_fetch_event_source_runs_to_the_end(stage: Stage, awaited: bool) -> None:
    stage.plays = [Play(503, ()), stream(), STREAM_B]
    recorder = Recorder()
    options: dict[str, Any] = {
        "on_message": recorder.on_message,
        "on_close": recorder.on_close,
        "on_error": recorder.on_error,
        "policy": NO_DELAY,
        "headers": {"X-Own": "1"},
    }
    if awaited:
        reason = asyncio.run(sse_fast.afetch_event_source(stage.url, **options))
    else:
        reason = sse_fast.fetch_event_source(stage.url, **options)
    assert reason is EndReason.NO_CONTENT
    assert (recorder.data, recorder.closes, len(recorder.errors)) == (["a", "b"], 2, 1)
    assert stage.requests[0].get("X-Own") == b"1"
    assert stage.open == 0


def test_callbacks_run_in_the_thread_of_the_caller(stage: Stage) -> None:
    """The sync client sends requests in another thread, which its user does not notice."""
    stage.plays = [Play(503, ()), stream(COMMENT_THEN_EVENT)]
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
        policy=NO_DELAY,
    )
    assert threads == {threading.get_ident()}
