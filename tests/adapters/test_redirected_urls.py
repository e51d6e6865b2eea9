"""The URL of a redirect is requested as the server gave it, whatever the client adds to others."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy
from tests.support.clients import HTTPX
from tests.support.eventsources import LIBRARIES, SOURCES, Way, way_params
from tests.support.scripted_server import Play, Stage, stream

ONCE = ReconnectPolicy.never()
QUERY = "a=%2F%2B&b=x+y&c&d=&e=1&e=2&f=%C3%A9&g=/?:@"
MOVED = Play(302, [("Location", f"/x?{QUERY}")], framing="length", keep_alive=True)


@pytest.mark.parametrize("way", way_params(SOURCES.values(), LIBRARIES))
def test_query_of_redirect_is_sent_unchanged(stage: Stage, way: Way) -> None:
    stage.plays = [MOVED, stream()]
    has_params = way.library in ("requests", "httpx", "httpx2")
    options = {"params": {"k": "v"}} if has_params else {}
    outcome = way.read(stage.url, policy=ONCE, client_options=options)
    assert [event.data for event in outcome.events] == ["a"]
    first, second = (request.target for request in stage.requests)
    assert first == ("/c/a?k=v" if has_params else "/c/a")
    assert second == f"/x?{QUERY}"


def test_escapes_are_sent_unchanged_by_aiohttp(stage: Stage) -> None:
    stage.plays = [stream()]
    SOURCES["aiohttp"].read(f"{stage.url}/%7E%41?a=%41%2f", policy=ONCE)
    assert stage.requests[0].target == "/c/a/%7E%41?a=%41%2f"


def make_client_class(base: Any) -> Any:
    """Return a subclass whose `stream` adds a field, as some SDKs have it."""

    class Client(base):  # type: ignore[misc]
        def stream(self, *args: Any, headers: Any, **options: Any) -> Any:
            headers["X-Own"] = "1"
            return super().stream(*args, headers=headers, **options)

    return Client


def make_auth_class(base: Any) -> Any:
    class Auth(base):  # type: ignore[misc]
        """An auth that signs the URL, and once more if the server asks for it."""

        def auth_flow(self, request: Any) -> Any:
            request.headers["X-Signed"] = str(request.url.query)
            response = yield request
            if response.status_code == 401:
                request.headers["X-Again"] = "1"
                yield request

    return Auth


@pytest.mark.parametrize("has_auth", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_overridden_stream_keeps_query_of_redirect(
    stage: Stage, module: Any, is_async: bool, has_auth: bool
) -> None:
    refused = [Play(401, (), framing="length")] if has_auth else []
    stage.plays = [MOVED, *refused, stream()]
    base = module.AsyncClient if is_async else module.Client
    auth = make_auth_class(module.Auth)() if has_auth else None
    client = make_client_class(base)(params={"k": "v"}, auth=auth, trust_env=False)

    async def aread() -> list[str]:
        async with client, AsyncEventSource(stage.url, client=client, policy=ONCE) as source:
            return [event.data async for event in source]

    def read() -> list[str]:
        with client, EventSource(stage.url, client=client, policy=ONCE) as source:
            return [event.data for event in source]

    assert (anyio.run(aread) if is_async else read()) == ["a"]
    assert [request.target for request in stage.requests] == [
        "/c/a?k=v",
        *[f"/x?{QUERY}"] * (1 + has_auth),
    ]
    assert all(request.get("X-Own") == b"1" for request in stage.requests)
    last = stage.requests[-1]
    assert last.get("X-Signed") == (str(QUERY.encode()).encode() if has_auth else None)
    assert last.get("X-Again") == (b"1" if has_auth else None)
