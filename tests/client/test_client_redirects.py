"""Redirects, hop by hop: where they lead, and what of the caller's another origin gets to see."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import trustme

from sse_fast import EndReason, ReconnectPolicy, ResponseError
from tests.support.clients import HTTPX, UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import EVENT_STREAM, Play, Request, Stage, serve_stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    # Of aiohttp 3.14: it is what its users have, all the same.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]

FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
SOON = 1.5  # seconds; the time-outs of the clients are many times as long
SECRET = "s3cret"
BASIC = base64.b64encode(f"u:{SECRET}".encode())
RAW = SOURCES["sse_fast"]
CLIENTS = [way for way in SOURCES.values() if way.has_client]
WITH_JAR = [way for way in CLIENTS if way.library != "urllib3"]
WITH_PARAMETERS = [way for way in CLIENTS if way.library in {"requests", "httpx", "httpx2"}]
WITH_NETRC = WITH_JAR
STATUSES = [301, 302, 303, 307, 308]
FOR_GOOD = {301, 308}

# What another origin gets: what the contract names, and what HTTP itself wants.
ALWAYS = {"accept", "accept-encoding", "cache-control", "host"}
SOMETIMES = {"user-agent", "connection"}


@pytest.fixture
def here() -> Iterator[Stage]:
    """The origin that is asked first."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture
def there() -> Iterator[Stage]:
    """Another one: it differs by its port."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only one there is, with a line for every origin."""
    path = tmp_path / "netrc"
    hosts = ("127.0.0.1", "localhost")
    path.write_text("".join(f"machine {host} login u password {SECRET}\n" for host in hosts))
    monkeypatch.setenv("NETRC", str(path))
    return path


def redirect(location: str, status: int = 302, **options: Any) -> Play:
    fields = [("Location", location)] if location else []
    return Play(status, fields, **{"framing": "length", **options})


def named(origin: str) -> str:
    """The same server by another name, which is another origin."""
    return origin.replace("127.0.0.1", "localhost")


def names(request: Request) -> set[str]:
    return {name.decode().lower() for name, _ in request.fields}


def targets(stage: Stage) -> list[str]:
    return [request.target for request in stage.requests]


def shows_secret(request: Request) -> bool:
    whole = repr((request.target, request.fields, request.body)).encode()
    return SECRET.encode() in whole or BASIC in whole


def assert_bare(request: Request, *others: str) -> None:
    """What another origin gets: no more, and no less."""
    assert not shows_secret(request)
    assert ALWAYS | set(others) <= names(request) <= ALWAYS | SOMETIMES | set(others)
    assert len(request.fields) == len(names(request))
    assert request.get("Accept") == b"text/event-stream"
    assert request.get("Cache-Control") == b"no-store"
    assert request.get("Accept-Encoding") == b"identity"
    assert "?" not in request.target


def with_client(way: Way) -> tuple[Way, list[Any]]:
    """The same way, and a list that gets its client once there is one."""
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


# -- Credentials, wherever they were put -----------------------------------------------------------


@dataclass(frozen=True)
class Credentials:
    """Where they are put: into the URL, the options of the source or those of the client; and what
    tells the first origin by.
    """

    ways: list[Way]
    shown: Callable[[Request], bool]
    user: str = ""
    headers: Mapping[str, str] | None = None
    client: Callable[[Way, Path], Mapping[str, Any]] = lambda way, netrc: {}


def _with_fields(request: Request) -> bool:
    return {"authorization", "cookie", "x-api-key"} <= names(request)


FIELDS = {
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"a={SECRET}",
    "x-api-key": SECRET,
    "X-Other": SECRET,
}


def _netrc_options(way: Way, netrc: Path) -> dict[str, Any]:
    # httpx reads it when told to, and never by itself.
    for module in HTTPX:
        if module.__name__ == way.library:
            return {"auth": module.NetRCAuth(str(netrc))}
    return {"trust_env": True}


CREDENTIALS = {
    "request": Credentials(list(SOURCES.values()), _with_fields, headers=FIELDS),
    "user": Credentials(
        list(SOURCES.values()),
        lambda request: request.get("Authorization") == b"Basic " + BASIC,
        user=f"u:{SECRET}@",
    ),
    "client": Credentials(CLIENTS, _with_fields, client=lambda way, netrc: {"headers": FIELDS}),
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
        client=_netrc_options,
    ),
}
OF_A_WAY = [
    pytest.param(way, kind, id=f"{way}-{kind}")
    for kind, credentials in CREDENTIALS.items()
    for way in credentials.ways
]
# What differs from one status to the next is no matter of libraries.
OF_A_STATUS = [
    pytest.param(way, kind, status, id=f"{way}-{kind}-{status}")
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


@pytest.mark.parametrize("by", ["port", "host"])
@pytest.mark.parametrize(("way", "kind"), OF_A_WAY)
def test_another_origin_gets_none(
    way: Way, kind: str, by: str, netrc: Path, here: Stage, there: Stage
) -> None:
    """Whichever way they were set; the first origin gets them at every attempt."""
    if by == "port":
        here.plays = [redirect(there.url + "/1"), redirect(there.url + "/2")]
        there.plays = [stream()]
        outcome = read_with(way, kind, here.url, netrc)
        own, foreign = here.requests, there.requests
        assert [request.path for request in foreign] == ["/c/a/1", "/c/a/2"]
    else:
        # One server with two names: what comes through is told by the field Host.
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


@pytest.mark.parametrize(("way", "kind"), OF_A_WAY)
def test_the_way_back_is_bare(way: Way, kind: str, netrc: Path, here: Stage, there: Stage) -> None:
    """What another origin sends back to the first may be what that other one wants done there."""
    here.plays = [redirect(there.url), stream()]
    there.plays = [redirect(here.url + "/back")]
    outcome = read_with(way, kind, here.url, netrc, stop_after=1)
    assert outcome.plain == [("message", "a", "1")]
    assert CREDENTIALS[kind].shown(here.requests[0])
    assert_bare(there.requests[0])
    assert_bare(here.requests[1])
    assert here.requests[1].target == "/c/a/back"


def test_what_was_got_on_the_way_is_not_passed_on(way: Way, here: Stage, there: Stage) -> None:
    """A jar knows no ports, and a Location may carry a user of its own."""
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


def test_what_says_which_stream_is_wanted_goes_along(way: Way, here: Stage, there: Stage) -> None:
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


@pytest.mark.parametrize(("way", "kind", "status"), OF_A_STATUS)
def test_where_later_attempts_begin(
    way: Way, kind: str, status: int, netrc: Path, here: Stage, there: Stage
) -> None:
    """Moved for good to another origin: there at once, and without credentials for ever."""
    here.plays = [redirect(there.url, status), redirect(there.url, status)]
    there.plays = [stream(), stream(b"id: 2\ndata: b\n\n")]
    if status not in FOR_GOOD:
        here.plays = [*here.plays, redirect(there.url, status)]
    outcome = read_with(way, kind, here.url, netrc)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.source.end_reason is EndReason.NO_CONTENT
    asked = [CREDENTIALS[kind].shown(request) for request in here.requests]
    assert asked == ([True] if status in FOR_GOOD else [True] * 3)
    assert len(there.requests) == 3
    assert_bare(there.requests[0])
    for number, request in enumerate(there.requests[1:], 1):
        assert_bare(request, "last-event-id")
        assert request.get("Last-Event-ID") == str(number).encode()


@pytest.mark.parametrize(("way", "kind"), OF_A_WAY)
def test_the_rest_may_be_elsewhere(
    way: Way, kind: str, netrc: Path, here: Stage, there: Stage
) -> None:
    """Another origin gets what `resume` has built for it, and nothing else; not even of that once
    it leads further.
    """
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


def test_the_body_of_a_get_goes_no_further(way: Way, here: Stage, there: Stage) -> None:
    """Nor with a later attempt, where the stream has moved for good."""
    here.plays = [redirect(there.url, 301)]
    there.plays = [stream(), stream()]
    outcome = way.read(here.url, data=SECRET, policy=FAST)
    assert len(outcome.events) == 2
    assert here.requests[0].body == SECRET.encode()
    assert [(request.method, request.body) for request in there.requests] == [("GET", b"")] * 3


@pytest.mark.parametrize(
    ("first", "second", "begin"),
    [(301, 308, "/c/c"), (301, 302, "/c/b"), (302, 301, "/c/a"), (307, 303, "/c/a")],
)
def test_two_redirects_in_a_row(here: Stage, first: int, second: int, begin: str) -> None:
    """Only what has been permanent all along is."""
    here.plays = [redirect("@b", first), redirect("@c", second), stream()]
    RAW.read(here.url, policy=FAST)
    assert targets(here) == ["/c/a", "/c/b", "/c/c", begin]


def test_moved_for_good_and_refused_there(here: Stage) -> None:
    """It has moved all the same."""
    here.plays = [redirect("@b", 301), Play(503, ()), stream()]
    assert [event.data for event in RAW.read(here.url, policy=FAST).events] == ["a"]
    assert targets(here) == ["/c/a", "/c/b", "/c/b", "/c/b"]


# -- The same origin -------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "kind", "status"), OF_A_STATUS)
def test_the_same_origin_gets_all(
    way: Way, kind: str, status: int, netrc: Path, here: Stage
) -> None:
    again = [] if status in FOR_GOOD else [redirect("/c/b?x=%7B1%7D&y", status)]
    here.plays = [redirect("/c/b?x=%7B1%7D&y", status), stream(), *again, stream()]
    outcome = read_with(way, kind, here.url, netrc)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "a"]
    first = f"/c/a?token={SECRET}" if kind == "params" else "/c/a"
    there = "/c/b?x=%7B1%7D&y"
    # The parameters of the client are its own, and no part of where a redirect leads.
    expected = [first, there, there, there] if again == [] else [first, there, first, there, first]
    assert targets(here) == expected
    if kind != "params":
        assert all(CREDENTIALS[kind].shown(request) for request in here.requests)
    ids = [request.get("Last-Event-ID") for request in here.requests]
    assert ids == [None, None, *[b"1"] * (len(expected) - 2)]


def test_all_that_the_caller_set_is_repeated(way: Way, here: Stage) -> None:
    here.plays = [redirect("@b"), stream()]
    headers = {**FIELDS, "Host": "other", "Accept": "x/y", "X-Bytes": "é"}
    way.read(here.url, headers=headers, policy=FAST, stop_after=1)
    first, second = here.requests
    assert second.path == "/c/b"
    assert sorted(second.fields) == sorted(first.fields)
    assert {"x-bytes", "x-other"} <= names(second)
    assert second.get("Host") == b"other"


def test_where_a_location_leads(way: Way, here: Stage, there: Stage) -> None:
    """RFC 3986, 5.2; what is not ASCII is meant as UTF-8."""
    host = here.origin.removeprefix("http:")
    locations = ["?x=1", "../b/./c", f"{host}/d#fragment", "é?ü", "HTTP:" + host + "/e"]
    here.plays = [*map(redirect, locations), stream()]
    assert len(way.read(here.url, policy=FAST, stop_after=1).events) == 1
    assert targets(here) == ["/c/a", "/c/a?x=1", "/b/c", "/d", "/%C3%A9?%C3%BC", "/e"]


def test_cookies_of_a_redirect(here: Stage) -> None:
    """For libraries with a jar."""
    for way in WITH_JAR:
        here.requests.clear()
        cookie = ("Set-Cookie", "k=v; Path=/")
        here.plays = [Play(302, [cookie, ("Location", "@b")], framing="length"), stream()]
        way.read(here.url, policy=FAST)
        assert [request.get("Cookie") for request in here.requests] == [None, b"k=v", b"k=v"], way


# -- Other methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize(
    ("given", "body", "kind"),
    [
        ({"json": {"a": 1}}, b'{"a": 1}', b"application/json"),
        ({"data": {"a": "1"}}, b"a=1", b"application/x-www-form-urlencoded"),
        ({"data": b"\0", "headers": {"Content-Type": "x/y"}}, b"\0", b"x/y"),
    ],
    ids=["json", "form", "bytes"],
)
def test_a_post_is_repeated_within_its_origin(
    way: Way, here: Stage, status: int, given: Any, body: bytes, kind: bytes
) -> None:
    again = [] if status == 308 else [redirect("@b", status)]
    here.plays = [redirect("@b", status), stream(end="rst", framing="chunked-truncated"), *again]
    outcome = way.read(here.url, method="POST", resend=True, policy=FAST, **given)
    assert outcome.error is None
    assert targets(here) == ["/c/a", "/c/b", *(["/c/b"] if status == 308 else ["/c/a", "/c/b"])]
    for request in here.requests:
        assert request.method == "POST"
        assert request.body == body
        assert request.get("Content-Type") == kind
        assert request.get("Content-Length") == str(len(body)).encode()


@pytest.mark.parametrize(
    ("way", "status", "elsewhere"),
    [
        *((way, *each) for way in SOURCES.values() for each in [(302, False), (307, True)]),
        *((RAW, status, False) for status in (301, 303)),
        *((RAW, status, True) for status in (301, 302, 303, 308)),
    ],
    ids=str,
)
def test_a_post_goes_no_further(
    way: Way, here: Stage, there: Stage, status: int, elsewhere: bool
) -> None:
    here.plays = [redirect(there.url if elsewhere else "@b", status, body=[b"why"])]
    outcome = way.read(here.url, method="POST", json={"a": SECRET}, resend=True, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == status
    assert outcome.error.response.body == b"why"
    assert "redirect" in str(outcome.error)
    assert outcome.source.end_reason is EndReason.ERROR
    assert [len(here.requests), len(there.requests)] == [1, 0]


def test_the_rest_by_get_follows_as_any_get(way: Way, here: Stage, there: Stage) -> None:
    """To another origin, too, and without the body."""
    here.plays = [
        stream(framing="chunked-truncated"),
        redirect(there.url, 303),
    ]
    outcome = way.read(
        here.url, method="POST", json={"a": SECRET}, headers=FIELDS, resume="get", policy=FAST
    )
    assert outcome.error is None
    assert [request.method for request in here.requests] == ["POST", "GET"]
    assert [request.method for request in there.requests] == ["GET"]
    assert_bare(there.requests[0], "last-event-id")
    assert there.requests[0].body == b""


# -- Limits ----------------------------------------------------------------------------------------


def test_twenty_redirects(way: Way, here: Stage) -> None:
    here.plays = [redirect("@a")] * 20 + [stream(), stream()]
    outcome = way.read(here.url, policy=FAST)
    assert outcome.error is None
    # The attempt after that has twenty of its own.
    assert [event.data for event in outcome.events] == ["a", "a"]
    assert len(here.requests) == 23


def test_twenty_one_redirects(way: Way, here: Stage) -> None:
    here.plays = [redirect("@a")] * 22
    outcome = way.read(here.url, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert "20" in str(outcome.error)
    assert outcome.error.response.status == 302
    assert len(here.requests) == 21


@pytest.mark.parametrize("status", STATUSES)
def test_none_follows_by_itself(way: Way, here: Stage, there: Stage, status: int) -> None:
    here.plays = [redirect(there.url, status, body=[b"moved"])]
    policy = replace(FAST, max_redirects=0)
    # What a user's client is set to changes nothing.
    options = {"follow_redirects": True} if way.library in {"httpx", "httpx2"} else {}
    outcome = way.read(here.url, policy=policy, client_options=options)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == status
    assert outcome.error.response.body == b"moved"
    assert outcome.error.response.headers["location"] == there.url
    assert [len(here.requests), len(there.requests)] == [1, 0]


@pytest.mark.parametrize("status", [300, 304, 307])
def test_no_location(way: Way, here: Stage, status: int) -> None:
    here.plays = [redirect("", status, framing="close")]
    outcome = way.read(here.url, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == status
    assert len(here.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        f"mailto:a@{SECRET}",
        f"ftp://127.0.0.1/?{SECRET}",
        f"http://[{SECRET}/",
        f"http://127.0.0.1:{SECRET}/",
        f"http://127.0.0.1:99999/?{SECRET}",
        f"javascript:{SECRET}",
    ],
)
def test_a_location_that_cannot_be_asked(way: Way, here: Stage, location: str) -> None:
    """It is an error as a bad status is, and with every library the same."""
    here.plays = [redirect(location)] * 3
    outcome = way.read(here.url, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert SECRET not in str(outcome.error)
    assert outcome.error.response.status == 302
    assert len(here.requests) == 1


# -- TLS -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A certificate authority and its file."""

    ca: trustme.CA
    file: str

    @contextmanager
    def serving(self, *plays: Play) -> Iterator[Stage]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("127.0.0.1").configure_cert(context)
        with serve_stage(plays, context) as stage:
            yield stage


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return Authority(ca, str(path))


@pytest.mark.parametrize("status", [301, 307])
def test_https_stays_https(way: Way, here: Stage, authority: Authority, status: int) -> None:
    with authority.serving(redirect(here.url, status)) as secure:
        outcome = way.read(secure.url, headers=FIELDS, ca=authority.file, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert "https" in str(outcome.error)
    assert outcome.error.response.status == status
    assert [len(secure.requests), len(here.requests)] == [1, 0]


def test_http_may_lead_to_https(way: Way, here: Stage, authority: Authority) -> None:
    """Which is another origin, also on its way back: that is refused."""
    with authority.serving(stream(), redirect(here.url + "/back")) as secure:
        here.plays = [redirect(secure.url)] * 2
        outcome = way.read(here.url, headers=FIELDS, ca=authority.file, policy=FAST)
        assert outcome.plain == [("message", "a", "1")]
        assert isinstance(outcome.error, ResponseError)
    assert targets(here) == ["/c/a", "/c/a"]
    assert_bare(secure.requests[0])
    assert_bare(secure.requests[1], "last-event-id")


def test_the_same_origin_over_tls(way: Way, authority: Authority) -> None:
    with authority.serving(redirect("@b", 308), stream(), stream()) as secure:
        way.read(secure.url, headers=FIELDS, ca=authority.file, policy=FAST)
    assert targets(secure) == ["/c/a", "/c/b", "/c/b", "/c/b"]
    assert all(_with_fields(request) for request in secure.requests)


# -- Bodies ----------------------------------------------------------------------------------------

BODIES = {
    "length": {"framing": "length", "body": [b"moved"]},
    "chunked": {"framing": "chunked", "body": [b"moved"] * 3},
    "close": {"framing": "close", "body": [b"moved"]},
    "an event stream": {"framing": "close", "body": [b"data: not this\n\n"]},
    "cut off": {"framing": "length-short", "body": [b"moved"]},
    "reset": {"framing": "chunked", "body": [b"moved"], "end": "rst"},
    "without end": {"framing": "chunked", "body": [b"moved"], "end": "hang"},
    "without beginning": {"framing": "length-short", "body": (), "end": "hang"},
}


@pytest.mark.parametrize("body", BODIES)
def test_the_body_of_a_redirect_is_passed_over(way: Way, here: Stage, body: str) -> None:
    """And not waited for."""
    play = redirect("@b", **BODIES[body])
    if body == "an event stream":
        play.fields = [*play.fields, EVENT_STREAM]
    here.plays = [play, stream()]
    began = time.monotonic()
    outcome = way.read(here.url, policy=FAST, stop_after=1)
    assert time.monotonic() - began < SOON
    assert outcome.plain == [("message", "a", "1")]
    assert targets(here) == ["/c/a", "/c/b"]
    # One connection at a time: that of the redirect was given up, or is this one.
    assert here.requests[1].open == 0


def test_a_large_body_of_a_redirect_is_passed_over(way: Way, here: Stage) -> None:
    here.plays = [redirect("@b", framing="chunked", body=[bytes(2**16)] * 64), stream()]
    began = time.monotonic()
    assert len(way.read(here.url, policy=FAST, stop_after=1).events) == 1
    assert time.monotonic() - began < SOON


def test_the_body_of_a_refused_redirect_is_not_waited_for(
    way: Way, here: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.05)
    here.plays = [redirect("@b", **BODIES["without end"])]
    began = time.monotonic()
    outcome = way.read(here.url, method="POST", data=b"a", policy=FAST)
    assert time.monotonic() - began < SOON
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"moved"


# -- netrc -----------------------------------------------------------------------------------------


def test_netrc_is_heeded(netrc: Path, here: Stage) -> None:
    """Else the next test could not fail."""
    for way in WITH_NETRC:
        here.requests.clear()
        here.plays = [stream()]
        way.read(here.url, stop_after=1, client_options=_netrc_options(way, netrc))
        assert here.requests[0].get("Authorization") == b"Basic " + BASIC, way


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
@pytest.mark.parametrize("place", ["request", "client", "user"])
@pytest.mark.parametrize("way", WITH_NETRC, ids=str)
def test_netrc_never_replaces_the_callers(
    way: Way, place: str, name: str, netrc: Path, here: Stage
) -> None:
    options = _netrc_options(way, netrc)
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
    assert outcome.error is None
    assert [request.all("Authorization") for request in here.requests] == [[value]] * 4


@pytest.mark.parametrize("way", CLIENTS, ids=str)
def test_the_request_says_more_than_the_client(way: Way, here: Stage) -> None:
    """An Authorization of the source's own, where the client has another; all else is sent."""
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


# -- What is the caller's stays as it is -----------------------------------------------------------

OBSERVED = ("auth", "params", "timeout", "max_redirects", "follow_redirects", "trust_env", "cert")
OBSERVED += ("proxies", "verify", "hooks", "event_hooks", "stream", "base_url", "connector")
OBSERVED += ("connection_pool_kw", "raise_for_status", "requote_redirect_url", "is_closed")


def state_of(client: Any) -> dict[str, Any]:
    """All that a user could notice a change of."""
    jar = getattr(client, "cookies", None) or getattr(client, "cookie_jar", None)
    cookies = [] if jar is None else sorted(map(str, getattr(jar, "jar", jar)))
    state = {name: getattr(client, name, None) for name in OBSERVED}
    state |= {name: dict(value) for name, value in state.items() if isinstance(value, Mapping)}
    return {**state, "headers": list(client.headers.items()), "cookies": cookies}


@pytest.mark.parametrize("way", CLIENTS, ids=str)
def test_the_client_is_left_as_it_was(way: Way, here: Stage, there: Stage) -> None:
    """Open, and with all that it had."""
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
        # It works as before, and sends what it sent before.
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


@pytest.mark.parametrize("way", WITH_JAR, ids=str)
def test_a_cookie_comes_back(way: Way, here: Stage) -> None:
    """Of a stream as of a refusal: whatever the client's jar takes."""
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


def test_without_a_jar_nothing_comes_back(here: Stage) -> None:
    for way in SOURCES.values():
        if way in WITH_JAR:
            continue
        here.requests.clear()
        here.plays = [stream(fields=[EVENT_STREAM, ("Set-Cookie", "a=1; Path=/")]), stream()]
        way.read(here.url, policy=FAST)
        assert [request.get("Cookie") for request in here.requests] == [None] * 3, way


def test_the_headers_of_the_caller_are_left_as_they_were(
    way: Way, here: Stage, there: Stage
) -> None:
    here.plays = [redirect(there.url), redirect("@b"), stream(), redirect(there.url, 301)]
    there.plays = [stream(), stream()]
    headers = {**FIELDS, "Accept": None}
    # One that cannot be changed, and one that is looked at afterwards.
    for given in (MappingProxyType(dict(headers)), headers):
        way.read(here.url, headers=given, policy=FAST)
    assert headers == {**FIELDS, "Accept": None}
