"""Credentials in redirects: an origin gets only those that were meant for it.

Our policy is tested over our own transport. The part of each adapter is tested once per library:
it keeps the client's credentials away from another origin. The rest of the cross product is marked
`matrix`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EndReason
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import LIBRARIES, OURS, SOURCES, Way, matrix_marks
from tests.support.redirects import (
    ALWAYS,
    BASIC,
    CLIENTS,
    EACH_LIBRARY,
    FAST,
    FIELDS,
    PERMANENT,
    RAW,
    SECRET,
    SOMETIMES,
    STATUSES,
    WITH_NETRC,
    assert_bare,
    carries_fields,
    named,
    names,
    netrc_options,
    redirect,
    shows_secret,
    targets,
)
from tests.support.scripted_server import Play, Request, Stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    pytest.mark.usefixtures("netrc"),
    # aiohttp 3.14 deprecates it, but its users have it.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]

WITH_PARAMETERS = [way for way in CLIENTS if way.library in {"requests", "httpx", "httpx2"}]


# -- Credentials, from every place -----------------------------------------------------------------


@dataclass(frozen=True)
class Credentials:
    """A place for credentials: the URL, the options of the source, or those of the client.

    Attributes:
        ways: the ways that have such a place.
        shown: returns whether a request carries the credentials.
        user: user and password for the URL.
        headers: header fields of the source.
        client: returns the options of the client.
    """

    ways: list[Way]
    shown: Callable[[Request], bool]
    user: str = ""
    headers: Mapping[str, str] | None = None
    client: Callable[[Way, Path], Mapping[str, Any]] = lambda way, netrc: {}


CREDENTIALS = {
    "request": Credentials(list(SOURCES.values()), carries_fields, headers=FIELDS),
    "user": Credentials(
        list(SOURCES.values()),
        lambda request: request.get("Authorization") == b"Basic " + BASIC,
        user=f"u:{SECRET}@",
    ),
    "client": Credentials(CLIENTS, carries_fields, client=lambda way, netrc: {"headers": FIELDS}),
    "cookies": Credentials(
        CLIENTS,
        lambda request: request.get("Cookie") == f"a={SECRET}".encode(),
        client=lambda way, netrc: {"cookies": {"a": SECRET}},
    ),
    "auth": Credentials(
        CLIENTS,
        lambda request: request.get("Authorization") == b"Basic " + BASIC,
        client=lambda way, netrc: {"auth": ("u", SECRET)},
    ),
    "params": Credentials(
        WITH_PARAMETERS,
        lambda request: request.target == f"/c/a?token={SECRET}",
        client=lambda way, netrc: {"params": {"token": SECRET}},
    ),
    "netrc": Credentials(
        WITH_NETRC,
        lambda request: request.get("Authorization") == b"Basic " + BASIC,
        client=netrc_options,
    ),
}
# The places within the client, which are up to the adapter of its library.
CLIENT_PLACES = CREDENTIALS.keys() - {"request", "user"}


def credential_params(*places: str) -> list[Any]:
    """Return a parameter for every way and kind of credentials.

    The default run has our own transport, and for `places` one way per library.
    """
    return [
        pytest.param(
            *(way, kind),
            id=f"{way}-{kind}",
            marks=matrix_marks(way, LIBRARIES if kind in places else OURS),
        )
        for kind, credentials in CREDENTIALS.items()
        for way in credentials.ways
    ]


def status_params(*places: str, default_status: int) -> list[Any]:
    """Return a parameter for every way, kind of credentials and status.

    The default run has our own transport, and for `places` one way per library with one status:
    only our policy treats the statuses differently.
    """
    return [
        pytest.param(
            *(way, kind, status),
            id=f"{way}-{kind}-{status}",
            marks=matrix_marks(
                way, LIBRARIES if kind in places and status == default_status else OURS
            ),
        )
        for kind, credentials in CREDENTIALS.items()
        for way in credentials.ways
        for status in (STATUSES if way is RAW else (301, 302))
    ]


def read_with(way: Way, kind: str, url: str, netrc: Path, **options: Any) -> Any:
    given = CREDENTIALS[kind]
    return way.read(
        url.replace("://", f"://{given.user}"),
        headers=given.headers,
        client_options=given.client(way, netrc),
        policy=FAST,
        **options,
    )


# -- Another origin --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "kind", "by"),
    [
        *(
            pytest.param(*each.values, "port", id=f"{each.id}-port", marks=each.marks)
            for each in credential_params(*CLIENT_PLACES)
        ),
        *(
            pytest.param(*each.values, "host", id=f"{each.id}-host", marks=each.marks)
            for each in credential_params("cookies", "netrc")
        ),
    ],
)
def test_cross_origin_redirect_gets_no_credentials(
    way: Way, kind: str, by: str, netrc: Path, here: Stage, there: Stage
) -> None:
    """The first origin gets the credentials at every attempt, wherever they were put."""
    if by == "port":
        here.plays = [redirect(there.url + "/1"), redirect(there.url + "/2")]
        there.plays = [stream()]
        outcome = read_with(way, kind, here.url, netrc)
        own, foreign = here.requests, there.requests
        assert [request.path for request in foreign] == ["/c/a/1", "/c/a/2"]
    else:
        # One server with two names, which are told apart by the field Host.
        location = named(here.url) + "/1"
        here.plays = [redirect(location), stream(), redirect(location)]
        outcome = read_with(way, kind, here.url, netrc)
        assert here.requests[1].get("Host") == named(here.origin).removeprefix("http://").encode()
        own, foreign = here.requests[::2], here.requests[1::2]
        assert [request.path for request in foreign] == ["/c/a/1", "/c/a/1"]
    assert outcome.plain == [("message", "a", "1")]
    assert outcome.error is None
    assert outcome.source.end_reason is EndReason.NO_CONTENT
    assert [CREDENTIALS[kind].shown(request) for request in own] == [True, True]
    assert own[1].get("Last-Event-ID") == b"1"
    assert_bare(foreign[0])
    assert_bare(foreign[1], "last-event-id")
    assert foreign[1].get("Last-Event-ID") == b"1"


@pytest.mark.parametrize(("way", "kind"), credential_params("client"))
def test_redirect_back_gets_no_credentials(
    way: Way, kind: str, netrc: Path, here: Stage, there: Stage
) -> None:
    """A redirect back to the first origin may be a request that the other one forged."""
    here.plays = [redirect(there.url), stream()]
    there.plays = [redirect(here.url + "/back")]
    outcome = read_with(way, kind, here.url, netrc, stop_after=1)
    assert outcome.plain == [("message", "a", "1")]
    assert CREDENTIALS[kind].shown(here.requests[0])
    assert_bare(there.requests[0])
    assert_bare(here.requests[1])
    assert here.requests[1].target == "/c/a/back"


@EACH_LIBRARY
def test_cross_origin_redirect_gets_no_new_cookie_or_user(
    way: Way, here: Stage, there: Stage
) -> None:
    """Cookie jars do not separate ports, and a Location may contain a user."""
    fields = [
        ("Set-Cookie", f"k={SECRET}; Path=/"),
        ("Location", there.url.replace("://", f"://x:{SECRET}@") + "#fragment"),
    ]
    here.plays = [Play(302, fields, framing="length")]
    there.plays = [stream()]
    outcome = way.read(here.url, policy=FAST, stop_after=1)
    assert outcome.plain == [("message", "a", "1")]
    assert_bare(there.requests[0])
    assert there.requests[0].target == "/c/a"


@EACH_LIBRARY
def test_cross_origin_redirect_keeps_allowed_fields(way: Way, here: Stage, there: Stage) -> None:
    here.plays = [redirect(there.url)]
    there.plays = [stream()]
    headers = {
        "accept": "text/event-stream, */*",
        "CACHE-CONTROL": "no-cache",
        "User-Agent": "mine",
        "last-event-id": "7",
        "Host": "other",
        "Content-Type": "x/y",
    }
    assert len(way.read(here.url, headers=headers, policy=FAST, stop_after=1).events) == 1
    request = there.requests[0]
    assert names(request) - SOMETIMES == ALWAYS | {"last-event-id"}
    assert request.get("Accept") == b"text/event-stream, */*"
    assert request.get("Cache-Control") == b"no-cache"
    assert request.get("User-Agent") == b"mine"
    assert request.get("Last-Event-ID") == b"7"
    assert request.get("Host") == there.origin.removeprefix("http://").encode()


@pytest.mark.parametrize(("way", "kind", "status"), status_params("client", default_status=301))
def test_permanent_redirect_replaces_url(
    way: Way, kind: str, status: int, netrc: Path, here: Stage, there: Stage
) -> None:
    """After a permanent move to another origin, later attempts go there, without credentials."""
    here.plays = [redirect(there.url, status), redirect(there.url, status)]
    there.plays = [stream(), stream(b"id: 2\ndata: b\n\n")]
    if status not in PERMANENT:
        here.plays = [*here.plays, redirect(there.url, status)]
    outcome = read_with(way, kind, here.url, netrc)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.source.end_reason is EndReason.NO_CONTENT
    asked = [CREDENTIALS[kind].shown(request) for request in here.requests]
    assert asked == ([True] if status in PERMANENT else [True] * 3)
    assert len(there.requests) == 3
    assert_bare(there.requests[0])
    for number, request in enumerate(there.requests[1:], 1):
        assert_bare(request, "last-event-id")
        assert request.get("Last-Event-ID") == str(number).encode()


@pytest.mark.parametrize(("way", "kind"), credential_params("client"))
def test_resume_at_another_origin_gets_only_its_own(
    way: Way, kind: str, netrc: Path, here: Stage, there: Stage
) -> None:
    """It gets what `resume` has built for it, and after a further redirect not even that."""
    json = {"from": 1}
    again: dict[str, Any] = {"url": there.url.replace("://", "://me:pw@"), "method": "PUT"}
    given: dict[str, Any] = {"headers": {"X-Given": "1", "Accept": "a/b"}}
    rest = iter([{**again, "json": json}, {**again, **given, "data": b"x"}, there.url])
    here.plays = [stream(framing="chunked-truncated")]
    there.plays = [Play(503, ()), Play(503, ()), redirect(named(there.url) + "/1"), stream()]
    outcome = read_with(
        way, kind, here.url, netrc, resume=lambda last_event_id: next(rest), stop_after=2
    )
    assert outcome.plain == [("message", "a", "1")] * 2
    assert CREDENTIALS[kind].shown(here.requests[0])
    first, second, third, fourth = there.requests
    of_a_body = {"authorization", "content-type", "content-length", "last-event-id"}
    assert_bare(first, *of_a_body)
    assert (first.method, first.body) == ("PUT", b'{"from": 1}')
    assert first.get("Content-Type") == b"application/json"
    assert (second.method, second.body) == ("PUT", b"x")
    assert not shows_secret(second)
    assert (second.get("X-Given"), second.get("Accept")) == (b"1", b"a/b")
    for request in (first, second):
        assert request.get("Authorization") == b"Basic " + base64.b64encode(b"me:pw")
    for request in (third, fourth):
        assert_bare(request, "last-event-id")
        assert (request.method, request.body) == ("GET", b"")
    assert {request.get("Last-Event-ID") for request in there.requests} == {b"1"}


def test_cross_origin_redirect_drops_body_of_get(way: Way, here: Stage, there: Stage) -> None:
    """Later attempts drop it as well, if the redirect was permanent."""
    here.plays = [redirect(there.url, 301)]
    there.plays = [stream(), stream()]
    outcome = way.read(here.url, data=SECRET, policy=FAST)
    assert len(outcome.events) == 2
    assert here.requests[0].body == SECRET.encode()
    assert [(request.method, request.body) for request in there.requests] == [("GET", b"")] * 3


# -- The same origin -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "kind", "status"), status_params(*CLIENT_PLACES, default_status=302)
)
def test_same_origin_redirect_keeps_credentials(
    way: Way, kind: str, status: int, netrc: Path, here: Stage
) -> None:
    again = [] if status in PERMANENT else [redirect("/c/b?x=%7B1%7D&y", status)]
    here.plays = [redirect("/c/b?x=%7B1%7D&y", status), stream(), *again, stream()]
    outcome = read_with(way, kind, here.url, netrc)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "a"]
    first = f"/c/a?token={SECRET}" if kind == "params" else "/c/a"
    there = "/c/b?x=%7B1%7D&y"
    # The parameters of the client are not added to the target of a redirect.
    expected = [first, there, there, there] if again == [] else [first, there, first, there, first]
    assert targets(here) == expected
    if kind != "params":
        assert all(CREDENTIALS[kind].shown(request) for request in here.requests)
    ids = [request.get("Last-Event-ID") for request in here.requests]
    assert ids == [None, None, *[b"1"] * (len(expected) - 2)]
