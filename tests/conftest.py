"""Both cores under one fixture; every test that touches events runs on each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

# Loads the profile of Hypothesis.
from tests.support import examples as _examples  # noqa: F401
from tests.support.faults import FaultServer, serve_faults
from tests.support.scripted_server import Stage, serve_stage
from tests.support.server import Server, serve

# No proxy leads to a server in this very process.
for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)


def pytest_report_header() -> str:
    sse_fast = import_module("sse_fast")
    return f"sse_fast: {sse_fast.__file__}, accelerated: {sse_fast.ACCELERATED}"


def _core(name: str) -> ModuleType:
    try:
        return import_module(f"sse_fast._core.parser_{name}")
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


# The tests of the parser alone are to run without the libraries and servers of what follows.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the tests that ask for a way to read a URL with every one that there is.

    A library that has the adapter of another is marked `matrix`.
    """
    wanted = {"reader", "tls_reader", "opener", "aopener", "way", "async_way", "style"}
    wanted &= set(metafunc.fixturenames)
    # Some tests name those that they are for.
    for mark in metafunc.definition.iter_markers("parametrize"):
        wanted -= {mark.args[0]} if isinstance(mark.args[0], str) else set(mark.args[0])
    if not wanted:
        return
    clients, eventsources, callback_styles = map(
        import_module,
        ("tests.support.clients", "tests.support.eventsources", "tests.support.callback_styles"),
    )
    ways = {
        "reader": clients.READERS,
        # Also those of HTTP/2, which want TLS.
        "tls_reader": {**clients.READERS, **clients.HTTP2_READERS},
        "opener": clients.OPENERS,
        "aopener": clients.AOPENERS,
        # The reconnecting client; all but our own transports are marked `matrix`.
        "way": {way.id: way for way in eventsources.way_params(eventsources.SOURCES.values())},
        "async_way": {
            way.id: way
            for way in eventsources.way_params(
                eventsources.ASYNC_SOURCES.values(), eventsources.ASYNC_OURS
            )
        },
        # The kinds of source with plain or async callbacks.
        "style": {style.id: style for style in callback_styles.style_params()},
    }
    for name in sorted(wanted):
        is_read = name in ("reader", "tls_reader", "opener", "aopener")
        params = [
            pytest.param(way, marks=[pytest.mark.matrix] * clients.is_like_another(each))
            if is_read
            else way
            for each, way in ways[name].items()
        ]
        metafunc.parametrize(name, params, ids=ways[name])


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running
    assert not running.waited_in_vain


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with serve_faults() as running:
        yield running


@pytest.fixture
def stage() -> Iterator[Stage]:
    with serve_stage() as running:
        yield running


@pytest.fixture(scope="session")
def running_uvicorn() -> Iterator[Any]:
    with import_module("tests.support.asgi").serve_uvicorn() as running:
        yield running


@pytest.fixture(scope="session")
def running_hypercorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with import_module("tests.support.asgi").serve_hypercorn(
        tmp_path_factory.mktemp("tls")
    ) as running:
        yield running


@pytest.fixture
def uvicorn_server(running_uvicorn: Any) -> Iterator[Any]:
    running_uvicorn.waited_in_vain = False
    yield running_uvicorn
    assert not running_uvicorn.waited_in_vain


@pytest.fixture
def hypercorn_server(running_hypercorn: Any) -> Iterator[Any]:
    running_hypercorn.waited_in_vain = False
    yield running_hypercorn
    assert not running_hypercorn.waited_in_vain
