"""What the tests of `install()` have in common: what is replaced, and what is there before it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sse_fast import compat
from tests.support.libraries import INSTALLED

# By library, the owners of what is replaced: a module, or a class in it.
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
# Two that are small.
TWO = ("httpx_sse", "cohere")
Before = dict[tuple[str, str], Any]


def find(path: str) -> Any:
    """A module, or what is in it, by its dotted name; None: it cannot be imported here."""
    try:
        return import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        if not (name[:1].isupper() or name.startswith("_")):
            return None
        return getattr(import_module(module), name)


def _owners(name: str) -> dict[str, Any]:
    found = {path: find(path) for path in REPLACED[name]}
    return {path: owner for path, owner in found.items() if owner is not None}


# As they are before a test changes them.
OWNERS = {name: _owners(name) for name in INSTALLED}


def everything(*names: str) -> Before:
    """Each attribute of each owner, not only those that are replaced."""
    return {
        (path, attribute): value
        for name in names or INSTALLED
        for path, owner in OWNERS[name].items()
        for attribute, value in vars(owner).items()
        # Which `warnings` writes to.
        if attribute != "__warningregistry__"
    }


def changed(before: Before) -> set[tuple[str, str]]:
    """What is another object now than before."""
    after = everything()
    paths = {path for path, _ in before}
    return {
        key
        for key in {*before, *after}
        if key[0] in paths and before.get(key, before) is not after.get(key, before)
    }


def replaced(*names: str) -> set[tuple[str, str]]:
    return {
        (path, attribute)
        for name in names
        for path in OWNERS[name]
        for attribute in REPLACED[name][path]
    }


@pytest.fixture
def before() -> Iterator[Before]:
    """What is there before a test, and is to be there after it."""
    assert not compat._installed
    found = everything()
    yield found
    left = changed(found)
    compat._installed.clear()
    for (path, attribute), value in found.items():
        if (path, attribute) in left:
            owner = next(each[path] for each in OWNERS.values() if path in each)
            setattr(owner, attribute, value)
    assert not left


def run(code: str, *arguments: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=directory
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each returns, in a thread of its own."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        barrier.wait(10)
        results[number] = calls[number]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    with quick_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return results
