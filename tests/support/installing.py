"""Helpers of the tests of `install()`: the parts that it replaces, and snapshots of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from sse_fast import compat
from tests.support.libraries import INSTALLED

# By library: each module or class that has replaced parts, and their names.
REPLACED = {
    "openai": {
        "openai._base_client": {"SSEDecoder"},
        "openai._streaming": {"SSEDecoder"},
    },
    "anthropic": {
        "anthropic._base_client": {"SSEDecoder"},
        "anthropic._streaming": {"SSEDecoder"},
    },
    "httpx2": {"httpx2._sse": {"_SSEParser"}},
    "httpx_sse": {"httpx_sse._api.EventSource": {"iter_sse", "aiter_sse"}},
    "cohere": {"cohere.core.http_sse._api.EventSource": {"_decode_response", "_adecode_response"}},
    "mistralai": {
        f"mistralai.{service}client.utils.eventstreaming": {"stream_events", "stream_events_async"}
        for service in ("", "azure.", "gcp.")
    },
}
# Two libraries that are quick to probe.
TWO = ("httpx_sse", "cohere")
Before = dict[tuple[str, str], Any]


def find(path: str) -> Any:
    """Return a module, or an object in it, by its dotted name; None if it cannot be imported."""
    try:
        return import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        if not (name[:1].isupper() or name.startswith("_")):
            return None
        return getattr(import_module(module), name)


class _Owners(dict[str, dict[str, Any]]):
    """The owners of each library, looked up once: a snapshot does so before a test changes them.

    Every process that collects tests would spend seconds to import the SDKs.
    """

    def __missing__(self, name: str) -> dict[str, Any]:
        found = {path: find(path) for path in REPLACED[name]}
        self[name] = {path: owner for path, owner in found.items() if owner is not None}
        return self[name]


OWNERS = _Owners()


def snapshot(*names: str) -> Before:
    """Return a snapshot of every attribute of every owner, not only of the replaced ones."""
    return {
        (path, attribute): value
        for name in names or INSTALLED
        for path, owner in OWNERS[name].items()
        for attribute, value in vars(owner).items()
        # The module `warnings` writes to this attribute.
        if attribute != "__warningregistry__"
    }


def changed(before: Before) -> set[tuple[str, str]]:
    """Return the attributes that are other objects now than in the snapshot."""
    after = snapshot()
    paths = {path for path, _ in before}
    return {
        key
        for key in {*before, *after}
        if key[0] in paths and before.get(key, before) is not after.get(key, before)
    }


def replaced(*names: str) -> set[tuple[str, str]]:
    """Return the attributes that `install(*names)` replaces."""
    return {
        (path, attribute)
        for name in names
        for path in OWNERS[name]
        for attribute in REPLACED[name][path]
    }


@pytest.fixture
def before() -> Iterator[Before]:
    """Take a snapshot before a test, and check that the test has restored everything."""
    assert not compat._installed
    found = snapshot()
    yield found
    left = changed(found)
    compat._installed.clear()
    for (path, attribute), value in found.items():
        if (path, attribute) in left:
            owner = next(each[path] for each in OWNERS.values() if path in each)
            setattr(owner, attribute, value)
    assert not left


@contextmanager
def frequent_thread_switches() -> Iterator[None]:
    """Switch threads every microsecond, so that races show up."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def run_concurrently(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time, each in its own thread, and return their results."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        barrier.wait(10)
        results[number] = calls[number]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    with frequent_thread_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return results
