"""Both cores under one fixture; every test that touches events runs on each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import hypothesis
import pytest
from server import Server, serve

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


def pytest_report_header() -> str:
    sse_fast = import_module("sse_fast")
    return f"sse_fast: {sse_fast.__file__}, accelerated: {sse_fast.ACCELERATED}"


def _core(name: str) -> ModuleType:
    try:
        return import_module(f"sse_fast._parser_{name}")
    except ImportError:
        if os.environ.get("SSE_FAST_REQUIRE_EXTENSIONS"):
            raise
        pytest.skip("the extension was not built")


@pytest.fixture(params=["c", "py"], ids=["cython", "python"], scope="session")
def core(request: pytest.FixtureRequest) -> ModuleType:
    """The module of a core: `Parser` and `Event`."""
    return _core(request.param)


@pytest.fixture(scope="session")
def both_cores() -> tuple[ModuleType, ModuleType]:
    return _core("c"), _core("py")


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running
    assert not running.waited_in_vain
