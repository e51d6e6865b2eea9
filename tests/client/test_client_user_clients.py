"""The user's client: its netrc, credentials and cookies are used, and it is not changed."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import requests

from sse_fast import EndReason, EventSource
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way
from tests.support.redirects import (
    BASIC,
    EACH_CLIENT,
    EACH_JAR,
    EACH_LIBRARY,
    FAST,
    FIELDS,
    SECRET,
    WITH_JAR,
    WITH_NETRC,
    names,
    netrc_options,
    redirect,
)
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    pytest.mark.usefixtures("netrc"),
    # aiohttp 3.14 deprecates it, but its users have it.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]


def with_client(way: Way) -> tuple[Way, list[Any]]:
    """Return the same way, and a list to which its client is appended once there is one."""
    clients: list[Any] = []

    @contextmanager
    def make(*args: Any, **options: Any) -> Iterator[Any]:
        with way.make_client(*args, **options) as client:
            clients.append(client)
            yield client

    @asynccontextmanager
    async def amake(*args: Any, **options: Any) -> Any:
        async with way.make_client(*args, **options) as client:
            clients.append(client)
            yield client

    return replace(way, make_client=amake if way.is_async else make), clients


# -- netrc -----------------------------------------------------------------------------------------


def test_netrc_is_used_without_authorization(netrc: Path, here: Stage) -> None:
    """Otherwise the next test could not fail."""
    for way in WITH_NETRC:
        here.requests.clear()
        here.plays = [stream()]
        way.read(here.url, stop_after=1, client_options=netrc_options(way, netrc))
        assert here.requests[0].get("Authorization") == b"Basic " + BASIC, way


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
@pytest.mark.parametrize("place", ["request", "client", "user"])
@EACH_JAR
def test_netrc_never_replaces_authorization(
    way: Way, place: str, name: str, netrc: Path, here: Stage
) -> None:
    options = netrc_options(way, netrc)
    headers, url, value = None, here.url, b"Bearer mine"
    if place == "request":
        headers = {name: value.decode()}
    elif place == "client":
        options["headers"] = {name: value.decode()}
    else:
        url = url.replace("://", "://me:mine@")
        value = b"Basic " + base64.b64encode(b"me:mine")
    here.plays = [redirect("@b"), stream(), stream()]
    outcome = way.read(url, headers=headers, client_options=options, policy=FAST)
    if way.library == "aiohttp" and place == "client":
        # aiohttp refuses header fields of a session that netrc contradicts.
        assert isinstance(outcome.error.__cause__, ValueError)
        assert here.requests == []
        return
    assert outcome.error is None
    assert [request.all("Authorization") for request in here.requests] == [[value]] * 4


@EACH_CLIENT
def test_authorization_of_source_replaces_that_of_client(way: Way, here: Stage) -> None:
    """The other fields and cookies of the client are sent."""
    for options in ({"auth": ("u", SECRET)}, {"headers": {"authorization": SECRET}}):
        here.requests.clear()
        here.plays = [stream(fields=[EVENT_STREAM, ("Set-Cookie", "b=2; Path=/")]), stream()]
        options = {"cookies": {"a": "1"}, **options}
        options["headers"] = {**options.get("headers", {}), "X-Other": "1"}
        way.read(
            here.url,
            headers={"Authorization": "mine"},
            client_options=options,
            policy=FAST,
        )
        assert [request.all("Authorization") for request in here.requests] == [[b"mine"]] * 3
        assert [request.get("X-Other") for request in here.requests] == [b"1"] * 3
        cookies = [(request.get("Cookie") or b"").split(b"; ") for request in here.requests]
        assert cookies[0] == [b"a=1"]
        assert sorted(cookies[1]) == ([b"a=1", b"b=2"] if way in WITH_JAR else [b"a=1"])


# -- The user's client is not changed --------------------------------------------------------------

OBSERVED = ("auth", "params", "timeout", "max_redirects", "follow_redirects", "trust_env", "cert")
OBSERVED += ("proxies", "verify", "hooks", "event_hooks", "stream", "base_url", "connector")
OBSERVED += ("connection_pool_kw", "raise_for_status", "requote_redirect_url", "is_closed")


def state_of(client: Any) -> dict[str, Any]:
    """Return the whole state of a client that its user can see."""
    jar = getattr(client, "cookies", None) or getattr(client, "cookie_jar", None)
    cookies = [] if jar is None else sorted(map(str, getattr(jar, "jar", jar)))
    state = {name: getattr(client, name, None) for name in OBSERVED}
    state |= {name: dict(value) for name, value in state.items() if isinstance(value, Mapping)}
    return {**state, "headers": list(client.headers.items()), "cookies": cookies}


@EACH_CLIENT
def test_client_stays_open_and_unchanged(way: Way, here: Stage, there: Stage) -> None:
    here.plays = [
        redirect("@b", 301),
        stream(),
        redirect(there.url),
        redirect(there.url),
        Play(503, ()),
        Play(204, ()),
        Play(fields=(), framing="length", body=[b"yes"]),
    ]
    there.plays = [stream(), stream()]
    way, clients = with_client(way)
    states = []

    async def use(source: Any) -> None:
        states.append(state_of(clients[0]))
        async for _ in source:
            pass
        await source.aclose()
        states.append(state_of(clients[0]))
        assert source.end_reason is EndReason.NO_CONTENT
        # It works, and sends the same fields as before.
        if way.is_async:
            response = await clients[0].request("GET", here.url)
            status = getattr(response, "status_code", None) or response.status
            response.close() if way.library == "aiohttp" else await response.aclose()
        else:
            response = clients[0].request("GET", here.url)
            status = getattr(response, "status_code", None) or response.status
        assert status == 200

    way.use(
        use,
        here.url,
        policy=FAST,
        headers={"X-Own": "1"},
        client_options={
            "headers": {"x-api-key": SECRET},
            "cookies": {"a": SECRET},
            "auth": ("u", SECRET),
        },
    )
    assert states[0] == states[1]
    last = here.requests[-1]
    assert {"authorization", "cookie", "x-api-key"} <= names(last)
    assert "x-own" not in names(last)
    assert "last-event-id" not in names(last)
    assert last.get("Accept") != b"text/event-stream"


@EACH_JAR
def test_jar_keeps_cookies_of_streams_and_refusals(way: Way, here: Stage) -> None:
    here.plays = [
        stream(fields=[EVENT_STREAM, ("Set-Cookie", "a=1; Path=/")]),
        Play(503, [("Set-Cookie", "b=2; Path=/")]),
        stream(),
    ]
    way.read(here.url, policy=FAST, client_options={"cookies": {"own": "0"}})
    cookies = [sorted((request.get("Cookie") or b"").split(b"; ")) for request in here.requests]
    assert cookies == [
        [b"own=0"],
        [b"a=1", b"own=0"],
        [b"a=1", b"b=2", b"own=0"],
        [b"a=1", b"b=2", b"own=0"],
    ]


def test_without_a_jar_no_cookie_is_sent(here: Stage) -> None:
    for way in SOURCES.values():
        if way in WITH_JAR:
            continue
        here.requests.clear()
        here.plays = [stream(fields=[EVENT_STREAM, ("Set-Cookie", "a=1; Path=/")]), stream()]
        way.read(here.url, policy=FAST)
        assert [request.get("Cookie") for request in here.requests] == [None] * 3, way


@EACH_LIBRARY
def test_headers_of_the_caller_stay_unchanged(way: Way, here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url), redirect("@b"), stream(), redirect(there.url, 301)]
    there.plays = [stream(), stream()]
    headers = {**FIELDS, "Accept": None}
    # An immutable mapping, and one that is compared afterwards.
    for given in (MappingProxyType(dict(headers)), headers):
        way.read(here.url, headers=given, policy=FAST)
    assert headers == {**FIELDS, "Accept": None}


# -- Relative URLs ---------------------------------------------------------------------------------


class BaseUrlSession(requests.Session):
    """As the class of requests-toolbelt that has this name."""

    base_url = ""

    def request(self, method: str, url: str, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().request(method, urljoin(self.base_url, url), *args, **options)


@pytest.mark.parametrize(
    "way", [way for way in SOURCES.values() if "httpx" in way.library], ids=str
)
@pytest.mark.parametrize("url", ["events?a=1", "/events?a=1"])
def test_url_relative_to_base_url_of_httpx(way: Way, url: str, stage: Stage) -> None:
    stage.plays = [stream()]
    base = f"{stage.origin}/v1"
    outcome = way.read(url, client_options={"base_url": base}, policy=FAST)
    assert [event.data for event in outcome.events] == ["a"]
    assert {request.target for request in stage.requests} == {"/v1/events?a=1"}


def test_url_relative_to_base_url_of_a_session(stage: Stage) -> None:
    stage.plays = [stream()]
    with BaseUrlSession() as session:
        session.base_url = f"{stage.origin}/v1/"
        with EventSource("events", client=session) as source:
            assert next(source).data == "a"
            assert source.url == f"{stage.origin}/v1/events"


def test_relative_url_without_base_url_is_refused() -> None:
    with httpx.Client(verify=False) as client, pytest.raises(ValueError, match="begin with http"):
        EventSource("/events", client=client)
