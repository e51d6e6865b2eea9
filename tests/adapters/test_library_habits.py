"""The table of what each library does on its own: every row is a test.

A test that fails after an update of a library tells that its row, and perhaps an adapter, is to be
changed.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from sse_fast import (
    AsyncEventSource,
    EventSource,
    ReconnectPolicy,
    ResponseError,
    SSEError,
    StreamIncomplete,
    TransportError,
    iter_events,
)
from tests.support.clients import HTTPX, READERS
from tests.support.faults import head, serve_faults
from tests.support.pages import read
from tests.support.redirects import BASIC, SECRET
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream

ONCE = ReconnectPolicy.never()
TWICE = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
MOVED = Play(302, [("Location", "@b")], framing="length", body=[b"moved"], keep_alive=True)
DIGEST = [("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5')]
SET_COOKIE = [EVENT_STREAM, ("Set-Cookie", "k=v; Path=/")]
BAD_LOCATION = [("Location", "http://127.0.0.1:port/")]

Habit = Callable[[Stage, pytest.MonkeyPatch], None]
HABITS: dict[tuple[str, str], Habit] = {}


def habit(library: str, text: str) -> Callable[[Habit], Habit]:
    def register(function: Habit) -> Habit:
        assert (library, text) not in HABITS
        HABITS[library, text] = function
        return function

    return register


def events(client: Any, url: str, **options: Any) -> list[str]:
    with EventSource(url, client=client, **{"policy": ONCE, **options}) as source:
        return [event.data for event in source]


def aevents(url: str, client_options: Any = None, **options: Any) -> list[str]:
    async def run() -> list[str]:
        async with (
            aiohttp.ClientSession(**(client_options or {})) as session,
            AsyncEventSource(url, client=session, **{"policy": ONCE, **options}) as source,
        ):
            return [event.data async for event in source]

    return asyncio.run(run())


def aget(url: str, client_options: Any = None, **options: Any) -> int:
    async def run() -> int:
        async with (
            aiohttp.ClientSession(**(client_options or {})) as session,
            session.get(url, **options) as response,
        ):
            return response.status

    return asyncio.run(run())


def plain_httpx(module: Any = httpx, **options: Any) -> Any:
    return module.Client(**{"trust_env": False, **options})


def assert_interim_is_final(client: Any) -> None:
    with serve_faults() as faults:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        faults.scripts["/"] = [hints, head(), b"data: a\n\n"]
        with pytest.raises(ResponseError, match=r"got 103: .*, an interim response, which"):
            events(client, f"{faults.url}/")


# -- requests --------------------------------------------------------------------------------------


@habit("requests", "reads the body of a redirect before it returns it")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [MOVED, MOVED, stream()]
    with requests.Session() as session:
        response = session.get(stage.url, allow_redirects=False, stream=True)
        assert response.raw.closed
        assert response.content == b"moved"
        assert events(session, stage.url) == ["a"]


@habit("requests", "sends a request again if an auth asks for it")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [Play(401, DIGEST, framing="length"), stream()]
    with requests.Session() as session:
        session.auth = requests.auth.HTTPDigestAuth("u", "p")
        assert events(session, stage.url, method="POST", data=b"x") == ["a"]
    assert [request.body for request in stage.requests] == [b"x", b"x"]


@habit("requests", "asks again on a status, if an adapter has a `Retry`")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, busy = Play(404, (), framing="length"), Play(503, (), framing="length")
    stage.plays = [missing, missing, busy, busy, stream(), missing, missing]
    retry = urllib3.Retry(total=1, status_forcelist=[404, 503], backoff_factor=0)
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        # A status that is final is not retried by the source.
        with pytest.raises(ResponseError, match="404"):
            events(session, stage.url, policy=TWICE)
        assert len(stage.requests) == 2
        with pytest.raises(ResponseError, match="404"):
            events(session, stage.url, policy=TWICE)
    assert len(stage.requests) == 7


@habit("requests", "replaces Authorization by netrc")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream()] * 2
    with requests.Session() as session:
        session.get(stage.url, headers={"Authorization": "mine"})
        events(session, stage.url, headers={"Authorization": "mine"})
    values = [request.get("Authorization") for request in stage.requests]
    assert values == [b"Basic " + BASIC, b"mine"]


@habit("requests", "uses the proxies of the environment")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", stage.origin)
    stage.plays = [stream()]
    with requests.Session() as session:
        assert events(session, "http://elsewhere.invalid/") == ["a"]
    assert stage.requests[0].target == "http://elsewhere.invalid/"


@habit("requests", "keeps cookies")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream(fields=SET_COOKIE)]
    with requests.Session() as session:
        assert events(session, stage.url, policy=TWICE) == ["a"]
    assert [request.get("Cookie") for request in stage.requests] == [None, b"k=v"]


@habit("requests", "joins repeated fields of a response")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [("Content-Type", "application/json"), EVENT_STREAM]
    stage.plays = [stream(fields=fields)]
    with requests.Session() as session, session.get(stage.url, stream=True) as response:
        assert response.headers["Content-Type"] == "application/json, text/event-stream"
        assert [event.data for event in iter_events(response)] == ["a"]


@habit("requests", "refuses a value that begins with white space")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with requests.Session() as session:
        with pytest.raises(requests.exceptions.InvalidHeader):
            session.get(stage.url, headers={"X": "\x0ca"})
        with pytest.raises(StreamIncomplete):
            events(session, stage.url, last_event_id="\x0ca")
    assert stage.requests == []


@habit("requests", "decodes escaped letters in a URL")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream()] * 2
    with requests.Session() as session:
        session.get(f"{stage.url}?a=%41%2B")
        assert events(session, f"{stage.url}?a=%41%2B") == ["a"]
    assert [request.target for request in stage.requests] == ["/c/a?a=A%2B"] * 2


@habit("requests", "takes an interim response for the final one, except status 100")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with requests.Session() as session:
        assert_interim_is_final(session)


# -- urllib3 ---------------------------------------------------------------------------------------


@habit("urllib3", "sends the pool's header fields only if there are no others")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream()] * 2
    with urllib3.PoolManager(headers={"X-Pool": "1"}) as pool:
        pool.request("GET", stage.url, headers={"X": "1"})
        assert events(pool, stage.url) == ["a"]
    assert [request.get("X-Pool") for request in stage.requests] == [None, b"1"]


@habit("urllib3", "puts the escapes of a URL into upper case")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream()]
    with urllib3.PoolManager() as pool:
        assert events(pool, f"{stage.url}?a=%2f%41") == ["a"]
    assert [request.target for request in stage.requests] == ["/c/a?a=%2F%41"]


@habit("urllib3", "keeps no cookies")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream(fields=SET_COOKIE)]
    with urllib3.PoolManager() as pool:
        assert events(pool, stage.url, policy=TWICE) == ["a"]
    assert [request.get("Cookie") for request in stage.requests] == [None, None]


@habit("urllib3", "ignores the proxies of the environment")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    stage.plays = [stream()] * 2
    with urllib3.PoolManager() as pool:
        assert events(pool, stage.url) == ["a"]
    with urllib3.ProxyManager(stage.origin, headers={"X-Pool": "1"}) as proxy:
        assert events(proxy, "http://elsewhere.invalid/") == ["a"]
    assert stage.requests[1].target == "http://elsewhere.invalid/"
    assert stage.requests[1].get("X-Pool") == b"1"


@habit("urllib3", "takes an interim response for the final one, except status 100")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with urllib3.PoolManager() as pool:
        assert_interim_is_final(pool)


# -- httpx -----------------------------------------------------------------------------------------


@habit("httpx", "rejects a redirect with an invalid Location")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [Play(302, BAD_LOCATION, framing="length")] * 2
    with plain_httpx() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(stage.url)
        with pytest.raises(SSEError, match="Location that httpx rejects"):
            events(client, stage.url, policy=TWICE)
    assert len(stage.requests) == 2


@habit("httpx2", "returns a redirect with an invalid Location")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx2 = pytest.importorskip("httpx2")
    stage.plays = [Play(302, BAD_LOCATION, framing="length")] * 2
    with plain_httpx(httpx2) as client:
        assert client.get(stage.url).status_code == 302
        with pytest.raises(ResponseError):
            events(client, stage.url)


@habit("httpx", "sends a request again if an auth asks for it")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in HTTPX:
        stage.requests.clear()
        stage.plays = [Play(401, DIGEST, framing="length"), stream()]
        with plain_httpx(module, auth=module.DigestAuth("u", "p")) as client:
            assert events(client, stage.url, method="POST", data=b"x") == ["a"]
        assert [request.body for request in stage.requests] == [b"x", b"x"]


@habit("httpx", "closes a response whose hook raises")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in HTTPX:
        stage.requests.clear()
        stage.plays = [Play(404, (), framing="length", body=[b"why"])]
        hooks = {"response": [lambda response: response.raise_for_status()]}
        with (
            plain_httpx(module, event_hooks=hooks) as client,
            pytest.raises(ResponseError) as caught,
        ):
            events(client, stage.url)
        assert (caught.value.response.status, caught.value.response.body) == (404, b"")
        assert caught.value.response.raw.is_closed


@habit("httpx", "replaces the query of a URL by the parameters of the client")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in HTTPX:
        stage.requests.clear()
        stage.plays = [MOVED, stream()]
        with plain_httpx(module, params={"k": "v"}) as client:
            assert events(client, f"{stage.url}?q") == ["a"]
        assert [request.target for request in stage.requests] == ["/c/a?k=v", "/c/b"]


@habit("httpx", "uses the proxies of the environment")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", stage.origin)
    stage.plays = [stream()]
    with plain_httpx(trust_env=True) as client:
        assert events(client, "http://elsewhere.invalid/") == ["a"]
    assert stage.requests[0].target == "http://elsewhere.invalid/"


@habit("httpx", "keeps cookies")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream(fields=SET_COOKIE)]
    with plain_httpx() as client:
        assert events(client, stage.url, policy=TWICE) == ["a"]
    assert [request.get("Cookie") for request in stage.requests] == [None, b"k=v"]


@habit("httpx", "shows every request to a custom transport")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        if len(seen) == 1:
            return httpx.Response(302, headers={"Location": "http://there.invalid/"})
        return httpx.Response(
            200, headers={"Content-Type": "text/event-stream"}, content=b"data: a\n\n"
        )

    seen: list[str] = []
    with plain_httpx(transport=httpx.MockTransport(answer)) as client:
        assert events(client, "http://here.invalid/") == ["a"]
    assert seen == ["here.invalid", "there.invalid"]


@habit("httpx", "tells nobody the proxy of a client")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [Play(407, framing="length")]
    with plain_httpx(proxy=stage.origin) as client, pytest.raises(TransportError) as caught:
        events(client, "https://elsewhere.invalid/")
    assert "The proxy refused to connect to https://elsewhere.invalid/ with" in str(caught.value)


@habit("httpx", "leaves a coding encoded that it does not know, x-gzip too")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    body = gzip.compress(b"data: a\n\n")
    fields = [EVENT_STREAM, ("Content-Encoding", "x-gzip")]
    stage.plays = [Play(fields=fields, body=[body], framing="length")] * 2
    with plain_httpx() as client:
        assert client.get(stage.url).content == body
        with (
            client.stream("GET", stage.url) as response,
            pytest.raises(TransportError, match="'x-gzip' of the body is not decoded") as caught,
        ):
            list(iter_events(response))
    assert caught.value.permanent


@habit("httpx", "decodes the first member of a gzip body only")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [EVENT_STREAM, ("Content-Encoding", "gzip")]
    body = gzip.compress(b"data: a\n\n")
    for module in HTTPX:
        stage.requests.clear()
        stage.plays = [Play(fields=fields, body=[body * 2], framing="length")] * 2
        with plain_httpx(module) as client:
            assert client.get(stage.url).text == "data: a\n\n"
            assert events(client, stage.url) == ["a", "a"]


@habit("httpx", "refuses form feeds in values")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with plain_httpx() as client:
        with pytest.raises(httpx.LocalProtocolError):
            client.get(stage.url, headers={"X": "a\x0cb"})
        with pytest.raises(StreamIncomplete):
            events(client, stage.url, last_event_id="a\x0cb")
    assert stage.requests == []


# -- aiohttp ---------------------------------------------------------------------------------------


@habit("aiohttp", "repeats a GET if the connection ends before the response")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [Play(framing="none"), stream(), Play(framing="none"), stream()]
    assert aevents(stage.url) == ["a"]
    with pytest.raises(TransportError):
        aevents(stage.url, method="POST", data=b"x")
    assert [request.method for request in stage.requests] == ["GET", "GET", "POST"]


@habit("aiohttp", "refuses Authorization beside netrc or an auth of the session")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream()]
    mine = {"Authorization": "mine"}
    with pytest.raises(ValueError, match="Cannot combine AUTHORIZATION"):
        aget(stage.url, {"trust_env": True}, headers=mine)
    assert aevents(stage.url, {"trust_env": True}, headers=mine) == ["a"]
    assert [request.get("Authorization") for request in stage.requests] == [b"mine"]


@habit("aiohttp", "refuses an Authorization of the session beside netrc")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"trust_env": True, "headers": {"Authorization": "mine"}}
    with pytest.raises(ValueError, match="Cannot combine AUTHORIZATION"):
        aget(stage.url, options)
    with pytest.raises(SSEError, match="refuses to send the request: ValueError"):
        aevents(stage.url, options)
    assert stage.requests == []


@habit("aiohttp", "ignores cookies of IP addresses")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [stream(fields=SET_COOKIE)]
    assert aevents(stage.url, policy=TWICE) == ["a"]
    assert [request.get("Cookie") for request in stage.requests] == [None, None]


@habit("aiohttp", "refuses bytes after the end of a gzip body")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [EVENT_STREAM, ("Content-Encoding", "gzip")]
    body = gzip.compress(b"data: a\n\n")
    stage.plays = [
        Play(fields=fields, body=[body + rest], framing="length") for rest in (body, bytes(8))
    ]
    assert aevents(stage.url) == ["a", "a"]
    with pytest.raises(TransportError, match="not in their content coding"):
        aevents(stage.url)


@habit("aiohttp", "tells nobody of `auto_decompress=False`")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plays = [
        Play(fields=[EVENT_STREAM, ("Content-Encoding", "deflate")], body=[body], framing="length")
        for body in (zlib.compress(b"data: a\n\n"), b"data: a\n\n")
    ]
    with pytest.raises(TransportError, match="'deflate' of the body is not decoded"):
        aevents(stage.url, {"auto_decompress": False})
    assert aevents(stage.url, {"auto_decompress": False}) == ["a"]


@habit("aiohttp", "decodes one coding only, and not x-gzip")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    body = gzip.compress(b"data: a\n\n")
    for coding, sent in [("x-gzip", body), ("gzip, gzip", gzip.compress(body))]:
        fields = [EVENT_STREAM, ("Content-Encoding", coding)]
        stage.plays = [*[Play(204)] * len(stage.requests)]
        stage.plays += [Play(fields=fields, body=[sent], framing="length")]
        with pytest.raises(TransportError, match="not decoded") as caught:
            READERS["aiohttp"].follow(anext, stage.url)
        assert caught.value.permanent


@habit("aiohttp", "refuses control characters in values")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="control character"):
        aget(stage.url, headers={"X": "a\x01b"})
    with pytest.raises(StreamIncomplete):
        aevents(stage.url, last_event_id="a\x01b")
    assert stage.requests == []


@habit("aiohttp", "tells nobody the proxy of a session")
def _(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    there = stage.url.replace("127.0.0.1", "localhost")
    stage.plays = [Play(302, [("Location", there)], framing="length"), stream()]
    assert aevents("http://here.invalid/", {"proxy": stage.origin}) == ["a"]
    targets = [request.target for request in stage.requests]
    assert targets == ["http://here.invalid/", "/c/a"]


# -- The table -------------------------------------------------------------------------------------


def rows() -> list[tuple[str, str]]:
    """Return the library and the habit of each row of the page."""
    _, _, text = read("docs/reference/libraries.md").partition("\n## Table of habits\n")
    table = text.partition("\n## ")[0]
    # The first row is the head.
    return re.findall(r"^\| (\w+) \| ([^|]+?) \| [^|]+ \|$", table, re.MULTILINE)[1:]


def test_table_has_a_row_for_every_habit() -> None:
    assert len(rows()) == len(set(rows()))
    assert set(HABITS) == set(rows())


# aiohttp 3.14 deprecates it, but its users have it.
@pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("row", rows(), ids=": ".join)
def test_library_has_habit(
    row: tuple[str, str], stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text(f"machine 127.0.0.1 login u password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(path))
    HABITS[row](stage, monkeypatch)
