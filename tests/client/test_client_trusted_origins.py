"""Other origins: trusted ones get everything, and code of the caller sees no request to the others.

Our policy is tested over our own transport, and the adapter of each library once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from sse_fast import EndReason, EventSource, ReconnectPolicy, ResponseError, SSEError
from sse_fast._client.reconnect import Reconnection
from sse_fast._request import Request as AnyRequest
from sse_fast._source import Headers, Response
from tests.client.test_client_subclasses import aread, read
from tests.support.clients import HTTPX, UNREAD_UNDER_TRIO
from tests.support.eventsources import LIBRARIES, SOURCES, Way, amake_aiohttp
from tests.support.redirects import (
    EACH_LIBRARY,
    FAST,
    FIELDS,
    RAW,
    SECRET,
    assert_bare,
    carries_fields,
    named,
    redirect,
    shows_secret,
)
from tests.support.scripted_server import Play, Stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    pytest.mark.usefixtures("netrc"),
    # aiohttp 3.14 deprecates it, but its users have it.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]


def trusting(*origins: str) -> ReconnectPolicy:
    return replace(FAST, trusted_origins=origins)


# -- Trusted origins -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 308])
@EACH_LIBRARY
def test_trusted_origin_gets_fields(way: Way, status: int, here: Stage, there: Stage) -> None:
    """Those of the source, but for Host, at every attempt."""
    here.plays = [redirect(there.url, status)] * 2
    there.plays = [stream(), stream()]
    fields = {**FIELDS, "Host": "other"}
    outcome = way.read(here.url, headers=fields, policy=trusting(there.origin), stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "a"]
    assert all(carries_fields(request) for request in there.requests)
    host = there.origin.removeprefix("http://").encode()
    assert there.requests[0].get("Host") == host
    assert there.requests[1].get("Last-Event-ID") == b"1"


CLIENTS = [way for way in LIBRARIES if way.has_client]


@pytest.mark.parametrize("way", CLIENTS, ids=str)
def test_trusted_origin_gets_what_the_client_adds(way: Way, here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url)]
    there.plays = [stream()]
    options = {"headers": {"x-api-key": SECRET}, "auth": ("u", SECRET)}
    way.read(here.url, client_options=options, policy=trusting(there.origin), stop_after=1)
    for request in (*here.requests, *there.requests):
        assert request.get("x-api-key") == SECRET.encode()
        assert (request.get("Authorization") or b"").startswith(b"Basic ")


@pytest.mark.parametrize("status", [307, 308])
@EACH_LIBRARY
def test_trusted_origin_gets_body_of_post(way: Way, status: int, here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url, status)]
    there.plays = [stream()]
    outcome = way.read(
        here.url, method="POST", json={"a": 1}, headers=FIELDS, policy=trusting(there.origin)
    )
    assert outcome.error is None
    assert outcome.source.end_reason is EndReason.END
    assert [(each.method, each.body) for each in there.requests] == [("POST", b'{"a": 1}')]
    assert there.requests[0].get("Content-Type") == b"application/json"
    assert carries_fields(there.requests[0])


@pytest.mark.parametrize("status", [301, 302])
def test_trusted_origin_gets_no_body_by_other_statuses(
    status: int, here: Stage, there: Stage
) -> None:
    here.plays = [redirect(there.url, status)]
    outcome = RAW.read(here.url, method="POST", data=b"x", policy=trusting(there.origin))
    assert isinstance(outcome.error, ResponseError)
    assert "trusted_origins" in str(outcome.error)
    assert there.requests == []


def test_other_origin_of_same_server_is_not_trusted(here: Stage, there: Stage) -> None:
    """Scheme, host and port have to be those of the origin."""
    here.plays = [redirect(there.url)]
    there.plays = [stream()]
    policy = trusting(named(there.origin), there.origin.replace("http:", "https:"))
    RAW.read(here.url, headers=FIELDS, policy=policy, stop_after=1)
    assert_bare(there.requests[0])


def test_origin_reached_by_way_of_another_is_not_trusted(here: Stage, there: Stage) -> None:
    """The request may have been forged there."""
    elsewhere = named(there.url)
    here.plays = [redirect(elsewhere)]
    there.plays = [redirect(there.url + "/b"), redirect(here.url + "/c")]
    here.plays = [*here.plays, stream()]
    RAW.read(here.url, headers=FIELDS, policy=trusting(there.origin), stop_after=1)
    assert [carries_fields(request) for request in here.requests] == [True, False]
    for request in (*there.requests, here.requests[1]):
        assert_bare(request)


def test_way_back_from_trusted_origin_keeps_fields(here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url), stream()]
    there.plays = [redirect(here.url + "/back")]
    RAW.read(here.url, headers=FIELDS, policy=trusting(there.origin), stop_after=1)
    assert all(carries_fields(request) for request in (*here.requests, *there.requests))


def test_resume_at_trusted_origin_gets_fields(here: Stage, there: Stage) -> None:
    here.plays = [stream(framing="chunked-truncated")]
    there.plays = [stream()]
    RAW.read(
        here.url,
        headers=FIELDS,
        policy=trusting(there.origin),
        resume=lambda last_event_id: there.url,
        stop_after=2,
    )
    assert carries_fields(there.requests[0])


def test_fields_that_resume_has_built_do_not_come_back(here: Stage, there: Stage) -> None:
    """They are for the origin that `resume` names, which here is not trusted."""
    here.plays = [stream(framing="chunked-truncated"), stream()]
    there.plays = [redirect(here.url + "/b")]
    rest = {"url": there.url, "headers": {"Authorization": "of there"}}
    RAW.read(here.url, policy=FAST, resume=lambda last_event_id: rest, stop_after=2)
    assert there.requests[0].get("Authorization") == b"of there"
    assert here.requests[1].get("Authorization") is None


def test_https_to_trusted_http_is_refused() -> None:
    machine = Reconnection(trusting("http://a.example"), AnyRequest("GET", "https://a.example/"))
    machine.begin(0.0)
    response = Response(302, Headers([("Location", "http://a.example/")]), "", None)
    hop, reason = machine.follow(response)
    assert hop is None
    assert "https to http" in reason


def test_trusted_https_of_same_host_gets_fields() -> None:
    machine = Reconnection(trusting("https://a.example"), AnyRequest("GET", "http://a.example/"))
    machine.begin(0.0, [("Authorization", b"mine")])
    location = Headers([("Location", "https://a.example/b")])
    hop, _ = machine.follow(Response(302, location, "", None))
    assert hop is not None
    assert dict(hop.fields) == {"Authorization": b"mine"}
    assert not hop.cross_origin


@pytest.mark.parametrize(
    "origins",
    [
        "https://a.example",
        b"https://a.example",
        None,
        7,
        ["a.example"],
        ["*"],
        ["https://a.example/path"],
        ["https://a.example/?q"],
        ["https://a.example/#f"],
        [f"https://u:{SECRET}@a.example"],
        ["ftp://a.example"],
        ["https://"],
        [None],
        [7],
    ],
    ids=repr,
)
def test_invalid_trusted_origins_raise(origins: Any) -> None:
    with pytest.raises(ValueError, match="origin") as caught:
        ReconnectPolicy(trusted_origins=origins)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("HTTPS://API.example", "https://api.example/"),
        ("https://api.example:443", "https://api.example"),
        ("http://api.example:80/", "http://api.example"),
    ],
)
def test_trusted_origins_are_normalised(given: str, same: str) -> None:
    from sse_fast._request import parse_origins

    ReconnectPolicy(trusted_origins={given})
    assert parse_origins([given]) == parse_origins([same])


# -- Code of the caller that would see a request to another origin ---------------------------------


class SigningAdapter(HTTPAdapter):
    """Adds a field to each request, as adapters that sign do."""

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        request.headers["X-Signature"] = SECRET
        return super().send(request, *args, **options)


def signing_session() -> requests.Session:
    session = requests.Session()
    session.mount("http://", SigningAdapter())
    return session


def hooked_client(module: Any) -> Any:
    def sign(request: Any) -> None:
        request.headers["X-Signature"] = SECRET

    return module.Client(event_hooks={"request": [sign]}, trust_env=False)


def overriding_client(module: Any) -> Any:
    class Client(module.Client):  # type: ignore[misc, name-defined]
        def send(self, request: Any, **options: Any) -> Any:
            request.headers["X-Signature"] = SECRET
            return super().send(request, **options)

    return Client(trust_env=False)


class SigningPool(urllib3.PoolManager):
    def urlopen(self, method: Any, url: Any, redirect: Any = True, **options: Any) -> Any:  # type: ignore[override]
        options["headers"] = {**options["headers"], "X-Signature": SECRET}
        return super().urlopen(method, url, redirect, **options)


SEERS: dict[str, tuple[Callable[[], Any], str]] = {
    "adapter of requests": (signing_session, "SigningAdapter"),
    "pool": (SigningPool, "'urlopen' of SigningPool"),
    **{
        f"{kind} of {module.__name__}": (lambda make=make, module=module: make(module), name)  # type: ignore[misc]
        for module in HTTPX
        for kind, make, name in [
            ("hook", hooked_client, "event hooks"),
            ("override", overriding_client, "'send' of Client"),
        ]
    },
}


@pytest.mark.parametrize("name", SEERS)
def test_hop_that_code_of_caller_would_see_is_refused(name: str, here: Stage, there: Stage) -> None:
    make, seer = SEERS[name]
    here.plays = [redirect(there.url)] * 2
    with (
        make() as client,
        pytest.raises(SSEError, match="trusted_origins") as caught,
    ):
        read(client, here.url)
    assert seer in str(caught.value)
    assert there.origin in str(caught.value)
    assert [len(here.requests), len(there.requests)] == [1, 0]


@pytest.mark.parametrize("name", SEERS)
def test_code_of_caller_sees_hop_to_trusted_origin(name: str, here: Stage, there: Stage) -> None:
    make, _ = SEERS[name]
    here.plays = [redirect(there.url), Play(204, ())]
    there.plays = [stream()]
    with make() as client:
        assert read(client, here.url, policy=trusting(there.origin)) == ["a"]
    assert there.requests[0].get("X-Signature") == SECRET.encode()


class KeepingSession(requests.Session):
    """Keeps the Authorization over redirects, and adds a field to every request."""

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        pass

    def request(self, method: Any, url: Any, headers: Any = None, **options: Any) -> Any:  # type: ignore[override]
        return super().request(method, url, headers={**headers, "X-Own": SECRET}, **options)


def seen_by_tracer(here: Stage, url: str) -> list[str]:
    seen = []
    tracing = aiohttp.TraceConfig()

    async def on_start(session: Any, context: Any, parameters: Any) -> None:
        parameters.headers["X-Own"] = SECRET
        seen.append(str(parameters.url))

    tracing.on_request_start.append(on_start)

    async def run() -> list[str]:
        async with amake_aiohttp(trace_configs=[tracing]) as session:
            return await aread(session, url)

    assert asyncio.run(run()) == ["a"]
    return seen


def test_subclass_of_session_does_not_see_other_origin(here: Stage, there: Stage) -> None:
    """Nor do its hooks, cookies and parameters: a new session sends the request."""
    here.plays = [redirect(there.url), Play(204, ())]
    there.plays = [stream()]
    with KeepingSession() as session:
        session.params = {"token": SECRET}
        session.hooks["response"] = [lambda response, *args, **options: urls.append(response.url)]
        urls: list[str] = []
        assert read(session, here.url, headers=FIELDS) == ["a"]
    assert [shows_secret(request) for request in here.requests] == [True, True]
    assert_bare(there.requests[0])
    assert not any(there.origin in url for url in urls)


def test_tracer_of_aiohttp_does_not_see_other_origin(here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url), Play(204, ())]
    there.plays = [stream()]
    seen = seen_by_tracer(here, here.url)
    assert_bare(there.requests[0])
    assert not any(there.origin in url for url in seen)


# -- What another origin is reached by -------------------------------------------------------------


@pytest.mark.parametrize("way", [SOURCES["requests"], SOURCES["aiohttp"]], ids=str)
def test_other_origin_is_reached_by_proxy_of_environment(
    way: Way, here: Stage, there: Stage, netrc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy is asked for the whole URL; netrc is not consulted for the other origin."""
    monkeypatch.setenv("http_proxy", there.origin)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    here.plays = [redirect("http://elsewhere.invalid/x")]
    there.plays = [stream()]
    netrc.write_text(netrc.read_text() + f"machine elsewhere.invalid login u password {SECRET}\n")
    way.read(here.url, client_options={"trust_env": True}, policy=FAST, stop_after=1)
    assert there.requests[0].target == "http://elsewhere.invalid/x"
    assert not shows_secret(there.requests[0])


def test_bare_session_of_requests_has_verify_and_proxies(here: Stage, there: Stage) -> None:
    here.plays = [redirect("http://elsewhere.invalid/x")]
    there.plays = [stream()]
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http://elsewhere.invalid": there.origin}
        with EventSource(here.url, client=session, policy=FAST) as source:
            assert next(source).data == "a"
    assert there.requests[0].target == "http://elsewhere.invalid/x"
