"""Fixtures of the relay's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.relaying import relay_threads, wait_until


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert wait_until(lambda: not relay_threads())


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Everything has to be released by reference counting."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
