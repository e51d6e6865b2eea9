"""The pytest plugin of originals.py, configured by environment variables.

ORIGINALS_SHIM is the shim to install ("" for none). ORIGINALS_REPORT is the file to write: the
outcome of every test, the number of streams that it read through sse_fast, and the blocked
addresses that are not loopback. The tests must run in one process (`-n 0`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any

SHIM = os.environ["ORIGINALS_SHIM"]
REPORT = os.environ["ORIGINALS_REPORT"]

# By shim: parts that must belong to sse_fast, and those of them that are called once per stream.
PLACES = {
    "openai": (
        ["openai._base_client:SSEDecoder", "openai._streaming:SSEDecoder"],
        ["openai._streaming:SSEDecoder.iter_bytes", "openai._streaming:SSEDecoder.aiter_bytes"],
    ),
    "anthropic": (
        ["anthropic._base_client:SSEDecoder", "anthropic._streaming:SSEDecoder"],
        [
            "anthropic._streaming:SSEDecoder.iter_bytes",
            "anthropic._streaming:SSEDecoder.aiter_bytes",
        ],
    ),
    "httpx2": ([], ["httpx2._sse:_SSEParser"]),
    "httpx_sse": ([], ["httpx_sse:EventSource.iter_sse", "httpx_sse:EventSource.aiter_sse"]),
    # This shim does not install: it imports sse_fast.compat.httpx_sse in place of httpx_sse.
    "module": (
        [f"httpx_sse:{name}" for name in ("ServerSentEvent", "connect_sse", "aconnect_sse")],
        ["httpx_sse:EventSource.iter_sse", "httpx_sse:EventSource.aiter_sse"],
    ),
}

tests: dict[str, dict[str, Any]] = {}
shim: dict[str, Any] = {}
streams: list[str] = []  # the part that read each stream
outside: set[str] = set()


def _only_loopback(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else None
    elif event == "socket.getaddrinfo":
        host = args[0].decode() if isinstance(args[0], bytes) else args[0]
    else:
        return
    if host and host not in ("localhost", "::1") and not host.startswith("127."):
        outside.add(f"{event} {host}")
        raise OSError(f"{event} {host}: these tests may only use loopback")


def _counted(place: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # A generator here would change how the original's generator is closed.
    def call(*args: Any, **kwargs: Any) -> Any:
        streams.append(place)
        return original(*args, **kwargs)

    return call


def _install_shim(name: str) -> None:
    import sse_fast
    from sse_fast import compat

    if name == "module":
        import httpx_sse as theirs

        ours = import_module("sse_fast.compat.httpx_sse")
        # The tests import private modules of the original, which remain available.
        ours.__path__ = theirs.__path__
        sys.modules["httpx_sse"] = ours
    else:
        compat.install(name)

    checked, counted = PLACES[name]
    for place in checked + counted:
        module, _, path = place.partition(":")
        *outer, last = path.split(".")
        owner = reduce(getattr, outer, import_module(module))
        found = getattr(owner, last)
        if not found.__module__.startswith("sse_fast."):
            raise RuntimeError(f"{place} belongs to {found.__module__}, not to sse_fast")
        if place in counted:
            setattr(owner, last, _counted(place, found))
    shim.update(version=sse_fast.__version__, accelerated=sse_fast.ACCELERATED)


def pytest_configure() -> None:
    """Install the shim after the suite's own plugins, before any test module is imported."""
    sys.addaudithook(_only_loopback)
    if SHIM:
        _install_shim(SHIM)


def pytest_collectreport(report: Any) -> None:
    if report.outcome != "passed":
        _note(report)


def pytest_runtest_logreport(report: Any) -> None:
    _note(report)


def _note(report: Any) -> None:
    test = tests.setdefault(report.nodeid, {"outcome": "passed", "streams": 0, "text": ""})
    test["streams"] += len(streams)
    streams.clear()
    if report.outcome == "failed":
        test["outcome"] = "failed"
        test["text"] += f"in {report.when}:\n{report.longreprtext}\n"
    elif report.outcome == "skipped" and test["outcome"] == "passed":
        test["outcome"] = "xfailed" if hasattr(report, "wasxfail") else "skipped"


def pytest_unconfigure() -> None:
    with open(REPORT, "w", encoding="utf-8") as file:
        json.dump({"tests": tests, "shim": shim, "outside": sorted(outside)}, file)
