"""Redirects and credentials of the client's tests: the fields that each origin may get."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from sse_fast import ReconnectPolicy
from tests.support.clients import HTTPX
from tests.support.eventsources import LIBRARIES, SOURCES, Way, way_params
from tests.support.scripted_server import Play, Request, Stage

FAST = ReconnectPolicy(end_delay=0.0, initial_delay=0.0, min_delay=0.0)
SECRET = "s3cret"
BASIC = base64.b64encode(f"u:{SECRET}".encode())
RAW = SOURCES["sse_fast"]
CLIENTS = [way for way in SOURCES.values() if way.has_client]
WITH_JAR = [way for way in CLIENTS if way.library != "urllib3"]
WITH_NETRC = WITH_JAR
STATUSES = [301, 302, 303, 307, 308]
PERMANENT = {301, 308}
# For tests of what the adapter of each library does.
EACH_LIBRARY = pytest.mark.parametrize("way", way_params(SOURCES.values(), LIBRARIES))
EACH_CLIENT = pytest.mark.parametrize("way", way_params(CLIENTS, LIBRARIES))
EACH_JAR = pytest.mark.parametrize("way", way_params(WITH_JAR, LIBRARIES))

# The fields that another origin gets, and those that HTTP requires.
ALWAYS = {"accept", "accept-encoding", "cache-control", "host"}
SOMETIMES = {"user-agent", "connection"}

# Header fields of the caller, each with a secret.
FIELDS = {
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"a={SECRET}",
    "x-api-key": SECRET,
    "X-Other": SECRET,
}


def redirect(location: str, status: int = 302, **options: Any) -> Play:
    """Return the play of a redirect; its Location is left out if it is empty."""
    fields = [("Location", location)] if location else []
    return Play(status, fields, **{"framing": "length", **options})


def named(origin: str) -> str:
    """Return the same server under another name, which is another origin."""
    return origin.replace("127.0.0.1", "localhost")


def names(request: Request) -> set[str]:
    return {name.decode().lower() for name, _ in request.fields}


def targets(stage: Stage) -> list[str]:
    return [request.target for request in stage.requests]


def shows_secret(request: Request) -> bool:
    whole = repr((request.target, request.fields, request.body)).encode()
    return SECRET.encode() in whole or BASIC in whole


def assert_bare(request: Request, *others: str) -> None:
    """Assert that the request has exactly what another origin may get."""
    assert not shows_secret(request)
    assert ALWAYS | set(others) <= names(request) <= ALWAYS | SOMETIMES | set(others)
    assert len(request.fields) == len(names(request))
    assert request.get("Accept") == b"text/event-stream"
    assert request.get("Cache-Control") == b"no-cache"
    assert request.get("Accept-Encoding") == b"identity"
    assert "?" not in request.target


def carries_fields(request: Request) -> bool:
    return {"authorization", "cookie", "x-api-key"} <= names(request)


def netrc_options(way: Way, netrc: Path) -> dict[str, Any]:
    # httpx reads netrc only if it is told to.
    for module in HTTPX:
        if module.__name__ == way.library:
            return {"auth": module.NetRCAuth(str(netrc))}
    return {"trust_env": True}
