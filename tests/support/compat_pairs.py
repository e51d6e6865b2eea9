"""Helpers that call an original and its drop-in module, and compare the results."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from types import ModuleType
from typing import Any

import anyio
import httpx_sse
import pytest

import sse_fast.compat.httpx_sse
from tests.support.threaded_reader import OF_TRIO

STREAM = (
    b": hello\nevent: greeting\nid: 1\nretry: 250\ndata: caf\xc3\xa9\ndata: \xf0\x9f\x9a\x80\n\n"
    b'data: {"a": [1, null]}\n\nevent: empty\n\nid\ndata\n\ndata: not complete\n'
)
EVENTS = [
    ("greeting", "café\n🚀", "1", 250),
    ("message", '{"a": [1, null]}', "1", None),
    ("empty", "", "1", None),
    ("message", "", "", None),
]
HTTPX_SSE = (httpx_sse, sse_fast.compat.httpx_sse)
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=OF_TRIO)])


class Fault(Exception):
    pass


def values(events: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(event.event, event.data, event.id, event.retry) for event in events]


def chunks(stream: bytes = STREAM, size: int = 7) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def compare_both(modules: tuple[ModuleType, ModuleType], call: Callable[[Any], Any]) -> Any:
    """Return the result of a call with the original, after checking that ours gives the same."""
    theirs, ours = map(call, modules)
    assert ours == theirs, (ours, theirs)
    return theirs


def compare_httpx_sse(call: Callable[[Any], Any]) -> Any:
    """Call with both modules of httpx-sse, and return the result if it is the same."""
    return compare_both(HTTPX_SSE, call)


def raised(call: Callable[[], object]) -> tuple[str, str]:
    """Return the class and message of the exception that a call raises."""
    with pytest.raises(Exception) as caught:
        call()
    return type(caught.value).__name__, str(caught.value)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
    ]


def public(owner: Any) -> dict[str, Any]:
    """Return the public attributes of a class, including inherited ones."""
    return {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}


def assert_alike(theirs: Any, ours: Any) -> int:
    """Compare two classes or functions, and return how many signatures were compared."""
    if not inspect.isclass(theirs):
        assert parameters(ours) == parameters(theirs)
        for kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction):
            assert kind(ours) == kind(theirs)
        assert inspect.isgeneratorfunction(ours) == inspect.isgeneratorfunction(theirs)
        return 1
    assert parameters(ours) == parameters(theirs)
    assert ours.__name__ == theirs.__name__
    # The same base classes, so that `except` clauses catch the same errors.
    assert ours.__mro__[1:] == theirs.__mro__[1:]
    compared = 1
    assert set(public(ours)) == set(public(theirs))
    for name in public(theirs):
        there, here = (inspect.getattr_static(owner, name) for owner in (theirs, ours))
        assert type(here) is type(there), name
        if inspect.isfunction(there):
            compared += assert_alike(there, here)
    return compared


def run(backend: str, function: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        with anyio.fail_after(10):
            return await function()

    return anyio.run(limited, backend=backend)
