"""Clients that add something of their own: it is added, as their users would have it.

They are used by their public methods: a token of an OAuth session, a signature, a cassette or a
cache is neither bypassed nor confused.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

import sse_fast
from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy, SSEError, StreamIncomplete
from sse_fast._request import Request as AnyRequest
from sse_fast.adapters._clients import resolve_send
from tests.support.clients import HTTPX, TIMEOUT, UNREAD_UNDER_TRIO
from tests.support.eventsources import ADAPTERS, SOURCES, Way, amake_aiohttp
from tests.support.redirects import FAST, redirect
from tests.support.scripted_server import Play, Request, Stage, stream

pytestmark = UNREAD_UNDER_TRIO

ONCE = ReconnectPolicy.never()
BEARER = b"Bearer TOKEN"
OAUTH = {"access_token": "TOKEN", "token_type": "Bearer", "expires_at": 9e9}
CLIENTS = [way for way in ADAPTERS if way.has_client]


def read(client: Any, url: str, **options: Any) -> list[str]:
    """Return the data of the events, by a sync or an async client."""
    options = {"policy": FAST, "idle_timeout": TIMEOUT, **options}
    if not isinstance(client, (aiohttp.ClientSession, *(each.AsyncClient for each in HTTPX))):
        with EventSource(url, client=client, **options) as source:
            return [event.data for event in source]
    raise TypeError("use aread")


async def aread(client: Any, url: str, **options: Any) -> list[str]:
    options = {"policy": FAST, "idle_timeout": TIMEOUT, **options}
    async with AsyncEventSource(url, client=client, **options) as source:
        return [event.data async for event in source]


# -- Tokens ----------------------------------------------------------------------------------------


def oauthlib_session() -> Any:
    sessions = pytest.importorskip("requests_oauthlib")
    return sessions.OAuth2Session("id", token=OAUTH)


def google_session() -> Any:
    transport = pytest.importorskip("google.auth.transport.requests")
    from google.oauth2.credentials import Credentials

    return transport.AuthorizedSession(Credentials("TOKEN"))


def google_pool() -> Any:
    transport = pytest.importorskip("google.auth.transport.urllib3")
    from google.oauth2.credentials import Credentials

    return transport.AuthorizedHttp(Credentials("TOKEN"))


def authlib_session() -> Any:
    integration = pytest.importorskip("authlib.integrations.requests_client")
    return integration.OAuth2Session("id", token=OAUTH)


def authlib_client() -> Any:
    integration = pytest.importorskip("authlib.integrations.httpx_client")
    return integration.OAuth2Client("id", token=OAUTH)


def authlib_async_client() -> Any:
    integration = pytest.importorskip("authlib.integrations.httpx_client")
    return integration.AsyncOAuth2Client("id", token=OAUTH)


class TokenSession(requests.Session):
    """Adds a token in `request()`, as the sessions of OAuth libraries do."""

    def request(self, method: Any, url: Any, headers: Any = None, **options: Any) -> Any:  # type: ignore[override]
        headers = {**(headers or {}), "Authorization": BEARER.decode()}
        return super().request(method, url, headers=headers, **options)


class TokenPool(urllib3.PoolManager):
    def urlopen(self, method: Any, url: Any, redirect: Any = True, **options: Any) -> Any:  # type: ignore[override]
        options["headers"] = {**(options.get("headers") or {}), "Authorization": BEARER.decode()}
        return super().urlopen(method, url, redirect, **options)


def token_client(module: Any, name: str) -> Any:
    """Return a client that adds a token in `stream()` and `request()`."""
    base = getattr(module, name)

    class TokenClient(base):  # type: ignore[misc]
        def request(self, method: Any, url: Any, **options: Any) -> Any:
            return super().request(method, url, **self.with_token(**options))

        def stream(self, method: Any, url: Any, **options: Any) -> Any:
            return super().stream(method, url, **self.with_token(**options))

        def with_token(self, headers: Any = None, **options: Any) -> Any:
            headers = module.Headers(headers)
            headers["Authorization"] = BEARER.decode()
            return {"headers": headers, **options}

    return TokenClient(trust_env=False)


def token_client_session() -> Any:
    """Return a session that overrides a method, which aiohttp discourages, but caches do."""

    async def _request(self: Any, *args: Any, **options: Any) -> Any:
        options["headers"] = [*options.get("headers", ()), ("Authorization", BEARER.decode())]
        return await aiohttp.ClientSession._request(self, *args, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return type("TokenSession", (aiohttp.ClientSession,), {"_request": _request})()


TOKENS: dict[str, Callable[[], Any]] = {
    "session": TokenSession,
    "pool": TokenPool,
    **{f"client of {each.__name__}": partial(token_client, each, "Client") for each in HTTPX},
    "requests-oauthlib": oauthlib_session,
    "google-auth, requests": google_session,
    "google-auth, urllib3": google_pool,
    "authlib, requests": authlib_session,
    "authlib, httpx": authlib_client,
}
ATOKENS: dict[str, Callable[[], Any]] = {
    **{f"client of {each.__name__}": partial(token_client, each, "AsyncClient") for each in HTTPX},
    "authlib, httpx": authlib_async_client,
    "session of aiohttp": token_client_session,
}
TOKEN_PLAYS = [redirect("@b"), stream(), Play(503, ()), stream(b"data: b\n\n")]


def check_tokens(requests: list[Request], got: list[str]) -> None:
    assert got == ["a", "b"]
    assert [each.all("Authorization") for each in requests] == [[BEARER]] * 5
    assert [each.path for each in requests] == ["/c/a", "/c/b", "/c/a", "/c/a", "/c/a"]


@pytest.mark.parametrize("name", TOKENS)
def test_token_of_client_is_sent(name: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    stage.plays = TOKEN_PLAYS
    check_tokens(stage.requests, read(TOKENS[name](), stage.url))


@pytest.mark.parametrize("name", ATOKENS)
def test_token_of_async_client_is_sent(name: str, stage: Stage) -> None:
    stage.plays = TOKEN_PLAYS

    async def run() -> list[str]:
        async with ATOKENS[name]() as client:
            return await aread(client, stage.url)

    check_tokens(stage.requests, asyncio.run(run()))


def test_pool_of_one_host_is_used(stage: Stage) -> None:
    host, _, port = stage.origin.removeprefix("http://").partition(":")
    stage.plays = [redirect("@b"), stream(), redirect("http://localhost:1/")]
    with (
        urllib3.HTTPConnectionPool(host, int(port), headers={"X-Own": "1"}) as pool,
        EventSource(stage.url + "?q=1", client=pool, policy=FAST) as source,
    ):
        assert next(source).data == "a"
        with pytest.raises(SSEError, match="only reaches one host"):
            next(source)
    assert [each.target for each in stage.requests] == ["/c/a?q=1", "/c/b", "/c/a?q=1"]
    assert [each.get("X-Own") for each in stage.requests] == [b"1"] * 3


# -- Values that hooks get -------------------------------------------------------------------------

ID = "é☃"
FIELD = {"X-Own": ID}


@pytest.mark.parametrize("way", [*CLIENTS, SOURCES["sse_fast"]], ids=str)
def test_id_and_fields_beyond_latin_1_are_sent(way: Way, stage: Stage) -> None:
    stage.plays = [stream(f"id: {ID}\ndata: a\n\n".encode()), redirect("@b")]
    outcome = way.read(stage.url, headers=FIELD, policy=FAST)
    assert outcome.error is None
    ids = [each.get("Last-Event-ID") for each in stage.requests]
    assert ids == [None, ID.encode(), ID.encode()]
    assert [each.get("X-Own") for each in stage.requests] == [ID.encode()] * 3


class Signature(requests.auth.AuthBase):
    """Signs the header fields, as text."""

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        assert all(type(value) is str for value in prepared.headers.values())
        canonical = "\n".join(sorted(f"{name}:{value}" for name, value in prepared.headers.items()))
        prepared.headers["X-Signature"] = str(len(canonical))
        return prepared


def test_auth_of_session_gets_text(stage: Stage) -> None:
    stage.plays = [stream(f"id: {ID}\ndata: a\n\n".encode()), stream()]
    with requests.Session() as session:
        session.auth = Signature()
        # A callable auth is used whatever the source sends.
        assert read(session, stage.url, headers={"Authorization": "mine", **FIELD}) == ["a", "a"]
    assert all(each.get("X-Signature") for each in stage.requests)
    assert [each.get("Authorization") for each in stage.requests] == [b"mine"] * 3


def test_override_of_pool_gets_text(stage: Stage) -> None:
    class Pool(urllib3.PoolManager):
        def urlopen(self, method: Any, url: Any, redirect: Any = True, **options: Any) -> Any:  # type: ignore[override]
            seen.extend(options["headers"].items())
            return super().urlopen(method, url, redirect, **options)

    seen: list[Any] = []
    stage.plays = [stream()]
    assert read(Pool(headers={"X-Pool": "1"}), stage.url, headers=FIELD, policy=ONCE) == ["a"]
    assert all(type(value) is str for _, value in seen)
    assert dict(seen)["X-Own"].encode("latin-1") == ID.encode()
    assert dict(seen)["X-Pool"] == "1"


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_hook_of_httpx_gets_headers(module: Any, stage: Stage) -> None:
    seen: list[Any] = []
    hooks = {"request": [lambda request: seen.append(request.headers)]}
    stage.plays = [stream()]
    with module.Client(event_hooks=hooks, trust_env=False) as client:
        assert read(client, stage.url, headers=FIELD, policy=ONCE) == ["a"]
    assert type(seen[0]) is module.Headers
    assert seen[0]["x-own"].encode(seen[0].encoding) == ID.encode()


def test_tracer_of_aiohttp_gets_text(stage: Stage) -> None:
    seen: list[Any] = []
    tracing = aiohttp.TraceConfig()

    async def on_start(session: Any, context: Any, parameters: Any) -> None:
        seen.append(dict(parameters.headers))

    tracing.on_request_start.append(on_start)
    stage.plays = [stream()]

    async def run() -> list[str]:
        async with amake_aiohttp(trace_configs=[tracing]) as session:
            return await aread(session, stage.url, headers=FIELD, policy=ONCE)

    assert asyncio.run(run()) == ["a"]
    assert seen[0]["X-Own"] == ID


@pytest.mark.parametrize("way", CLIENTS, ids=str)
@pytest.mark.parametrize("value", [b"a\x01b", b"a\x0cb", b"a\x7fb", b"\x0cab", b"\x1cab"], ids=repr)
def test_refused_id_is_named(way: Way, stage: Stage, value: bytes) -> None:
    """Some libraries send it as it is, the others refuse it; nothing is sent without it."""
    stage.plays = [stream(b"id: " + value + b"\ndata: a\n\n")]
    outcome = way.read(stage.url, policy=FAST)
    assert [event.data for event in outcome.events] == ["a"]
    if outcome.error is None:
        assert stage.requests[1].get("Last-Event-ID") == value
        return
    assert isinstance(outcome.error, StreamIncomplete)
    assert "last event ID contains control characters" in str(outcome.error)
    assert value.decode().strip() not in str(outcome.error)
    assert outcome.error.__cause__ is not None
    assert len(stage.requests) == 1
    assert outcome.source.last_event_id.encode() == value


def test_some_library_refuses_the_id(stage: Stage) -> None:
    """Otherwise the previous test could not fail."""
    stage.plays = [stream(b"id: \x0cab\ndata: a\n\n")]
    outcome = SOURCES["requests"].read(stage.url, policy=FAST)
    assert isinstance(outcome.error, StreamIncomplete)


# -- The client of the user stays open -------------------------------------------------------------


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_client_that_closes_in_del_stays_open(module: Any, stage: Stage) -> None:
    """SDKs have such clients; a copy of one would close the connections that it shares."""

    class Client(module.Client):  # type: ignore[misc, name-defined]
        def __del__(self) -> None:
            self.close()

    hold = threading.Event()
    stage.plays = [stream(b"data: a\n\n", hold, b"data: b\n\n")]
    client = Client(trust_env=False)
    with EventSource(stage.url, client=client, policy=ONCE) as source:
        assert next(source).data == "a"
        gc.collect()
        assert not client.is_closed
        hold.set()
        assert next(source).data == "b"
    assert not client.is_closed


REFERENCE_COUNTED = {"requests", "urllib3", "httpx2"}


def _raise_for_status(response: Any, *args: Any, **options: Any) -> None:
    response.raise_for_status()


# A response of httpx is in a cycle with its own stream.
@pytest.mark.parametrize("name", [name for name in SOURCES if name in REFERENCE_COUNTED])
def test_response_is_released_by_reference_counting(name: str, stage: Stage) -> None:
    """Also that of a redirect, and one that a hook has refused."""
    stage.plays = [Play(302, [("Location", "@b")], framing="length"), Play(503, ()), stream()]
    options: dict[str, Any] = {}
    if name == "requests":
        options = {"hooks": {"response": [_raise_for_status]}}
    elif name != "urllib3":
        options = {"event_hooks": {"response": [_raise_for_status]}}
    alive = []
    with SOURCES[name].make_client(**options) as client:
        send = resolve_send(client, is_async=False)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                source = send(AnyRequest("GET", stage.url), TIMEOUT, TIMEOUT)
                reference = weakref.ref(source.response.raw)
                list(source.chunks) if source.response.status == 200 else None
                if source.close is not None:
                    source.close()
                del source
                alive.append(reference())
        finally:
            gc.enable()
    assert alive == [None] * 3


# -- Caches and cassettes --------------------------------------------------------------------------


def check_live(client: Any, stage: Stage, **options: Any) -> None:
    """Check that the first event is delivered before the second is sent."""
    hold = threading.Event()
    stage.plays = [redirect("@b"), stream(b"id: 1\ndata: a\n\n", hold, b"data: b\n\n")]
    with EventSource(stage.url, client=client, policy=ONCE, **options) as source:
        assert next(source).data == "a"
        hold.set()
        assert [event.data for event in source] == ["b"]


def test_cachecontrol_streams(stage: Stage) -> None:
    cachecontrol = pytest.importorskip("cachecontrol")
    with requests.Session() as session:
        check_live(cachecontrol.CacheControl(session), stage)


def test_requests_cache_streams_what_it_does_not_keep(stage: Stage) -> None:
    """It would read the whole body to keep it."""
    cache = pytest.importorskip("requests_cache")
    with cache.CachedSession(
        backend="memory", urls_expire_after={"*/c/*": cache.DO_NOT_CACHE}
    ) as session:
        check_live(session, stage, headers={"Cache-Control": "no-cache"})


def test_requests_cache_streams_with_no_store(stage: Stage) -> None:
    cache = pytest.importorskip("requests_cache")
    with cache.CachedSession(backend="memory") as session:
        check_live(session, stage, headers={"Cache-Control": "no-store"})


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
def test_aiohttp_client_cache_streams_what_it_does_not_keep(stage: Stage) -> None:
    cache = pytest.importorskip("aiohttp_client_cache")
    hold = threading.Event()
    stage.plays = [stream(b"data: a\n\n", hold, b"data: b\n\n")]

    async def run() -> None:
        backend = cache.CacheBackend(urls_expire_after={"*/c/*": 0})
        async with (
            cache.CachedSession(cache=backend) as session,
            AsyncEventSource(stage.url, client=session, policy=ONCE) as source,
        ):
            assert (await anext(source)).data == "a"
            hold.set()
            assert [event.data async for event in source] == ["b"]

    asyncio.run(run())


URL = "http://example.test/events"
BODY = b"id: 1\ndata: a\n\ndata: b\n\n"
TYPE = "text/event-stream"


def test_responses_is_used() -> None:
    mock = pytest.importorskip("responses")
    with mock.RequestsMock() as mocked:
        mocked.add("GET", URL + "/old", status=302, headers={"Location": URL})
        mocked.add("GET", URL, body=BODY, content_type=TYPE)
        assert read(requests.Session(), URL + "/old", policy=ONCE) == ["a", "b"]


def test_requests_mock_is_used() -> None:
    mock = pytest.importorskip("requests_mock")
    with mock.Mocker() as mocked:
        mocked.get(URL + "/old", status_code=302, headers={"Location": URL}, content=b"moved")
        mocked.get(URL, content=BODY, headers={"Content-Type": TYPE})
        assert read(requests.Session(), URL + "/old", policy=ONCE) == ["a", "b"]


def test_respx_is_used() -> None:
    respx = pytest.importorskip("respx")
    with respx.mock:
        respx.get(URL).respond(200, headers={"Content-Type": TYPE}, content=BODY)
        with httpx.Client() as client:
            assert read(client, URL, policy=ONCE) == ["a", "b"]

        async def run() -> list[str]:
            async with httpx.AsyncClient() as client:
                return await aread(client, URL, policy=ONCE)

        assert asyncio.run(run()) == ["a", "b"]


CASSETTES: dict[str, Callable[[], Any]] = {
    "requests": requests.Session,
    "urllib3": urllib3.PoolManager,
    "httpx": httpx.Client,
}


@pytest.mark.parametrize("name", CASSETTES)
def test_cassette_of_vcrpy_is_used(name: str, stage: Stage, tmp_path: Path) -> None:
    vcr = pytest.importorskip("vcr")
    stage.plays = [stream(BODY)]
    for _ in range(2):
        with vcr.use_cassette(str(tmp_path / "cassette.yaml"), match_on=["method"]):
            assert read(CASSETTES[name](), stage.url, policy=ONCE) == ["a", "b"]
    assert len(stage.requests) == 1


def test_unsupported_client_raises() -> None:
    with pytest.raises(TypeError, match=r"Expected a requests\.Session"):
        sse_fast.EventSource(URL, client=object())
