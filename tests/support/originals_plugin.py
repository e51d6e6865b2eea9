"""The pytest plugin of originals.py, which says in the environment what it is to do.

ORIGINALS_SHIM names the shim to put in ("" for none); ORIGINALS_REPORT is the file to write: the
outcome of every test, the streams that each of them read through sse_fast, and the addresses but
loopback that somebody asked for, which are refused. It wants a run in one process (`-n 0`).
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

# Of every shim: the places that have to be ours, and those of them that are called once a stream.
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
    # Not installed: the module of ours in place of theirs.
    "module": (
        [f"httpx_sse:{name}" for name in ("ServerSentEvent", "connect_sse", "aconnect_sse")],
        ["httpx_sse:EventSource.iter_sse", "httpx_sse:EventSource.aiter_sse"],
    ),
}

tests: dict[str, dict[str, Any]] = {}
shim: dict[str, Any] = {}
streams: list[str] = []  # the place that each stream went through
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
        raise OSError(f"{event} {host}: the tests have loopback only")


def _counted(place: str, original: Callable[..., Any]) -> Callable[..., Any]:
    # Returns what the original returns: a generator of ours around it would change its closing.
    def call(*args: Any, **kwargs: Any) -> Any:
        streams.append(place)
        return original(*args, **kwargs)

    return call


def _put_in(name: str) -> None:
    import sse_fast
    from sse_fast import compat

    if name == "module":
        import httpx_sse as theirs

        ours = import_module("sse_fast.compat.httpx_sse")
        # Their private modules, which their tests import, stay theirs.
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
            raise RuntimeError(f"{place} is not of sse_fast, but of {found.__module__}")
        if place in counted:
            setattr(owner, last, _counted(place, found))
    shim.update(version=sse_fast.__version__, accelerated=sse_fast.ACCELERATED)


def pytest_configure() -> None:
    """After the plugins of theirs that have to be first, before a test module is imported."""
    sys.addaudithook(_only_loopback)
    if SHIM:
        _put_in(SHIM)


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
