"""Redirects, hop by hop: where they lead, and which fields are sent to another origin.

Our policy is tested over our own transport. The part of each adapter is tested once per library:
it keeps the client's credentials away from another origin, and shows redirects as they are. The
rest of the cross product is marked `matrix`.
"""

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
from tests.support.eventsources import (
    LIBRARIES,
    OURS,
    SOURCES,
    Way,
    matrix_marks,
    way_params,
)
from tests.support.scripted_server import EVENT_STREAM, Play, Request, Stage, serve_stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    # aiohttp 3.14 deprecates it, but its users have it.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]

FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
SOON = 1.5  # seconds; the timeouts of the clients are many times longer
SECRET = "s3cret"
BASIC = base64.b64encode(f"u:{SECRET}".encode())
RAW = SOURCES["sse_fast"]
CLIENTS = [way for way in SOURCES.values() if way.has_client]
WITH_JAR = [way for way in CLIENTS if way.library != "urllib3"]
WITH_PARAMETERS = [way for way in CLIENTS if way.library in {"requests", "httpx", "httpx2"}]
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


@pytest.fixture
def here() -> Iterator[Stage]:
    """The origin that gets the first request."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture
def there() -> Iterator[Stage]:
    """Another origin, which differs by its port."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only netrc file, with a line for every origin."""
    path = tmp_path / "netrc"
    hosts = ("127.0.0.1", "localhost")
    path.write_text("".join(f"machine {host} login u password {SECRET}\n" for host in hosts))
    monkeypatch.setenv("NETRC", str(path))
    return path


def redirect(location: str, status: int = 302, **options: Any) -> Play:
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
    assert request.get("Cache-Control") == b"no-store"
    assert request.get("Accept-Encoding") == b"identity"
    assert "?" not in request.target


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


def _with_fields(request: Request) -> bool:
    return {"authorization", "cookie", "x-api-key"} <= names(request)


FIELDS = {
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"a={SECRET}",
    "x-api-key": SECRET,
    "X-Other": SECRET,
}


def _netrc_options(way: Way, netrc: Path) -> dict[str, Any]:
    # httpx reads netrc only if it is told to.
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


@pytest.mark.parametrize(
    ("first", "second", "begin"),
    [(301, 308, "/c/c"), (301, 302, "/c/b"), (302, 301, "/c/a"), (307, 303, "/c/a")],
)
def test_url_replaced_by_leading_permanent_redirects(
    here: Stage, first: int, second: int, begin: str
) -> None:
    """A permanent redirect after a temporary one does not replace the URL."""
    here.plays = [redirect("@b", first), redirect("@c", second), stream()]
    RAW.read(here.url, policy=FAST)
    assert targets(here) == ["/c/a", "/c/b", "/c/c", begin]


def test_permanent_redirect_to_503_replaces_url(here: Stage) -> None:
    here.plays = [redirect("@b", 301), Play(503, ()), stream()]
    assert [event.data for event in RAW.read(here.url, policy=FAST).events] == ["a"]
    assert targets(here) == ["/c/a", "/c/b", "/c/b", "/c/b"]


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


@EACH_LIBRARY
def test_same_origin_redirect_keeps_fields(way: Way, here: Stage) -> None:
    here.plays = [redirect("@b"), stream()]
    headers = {**FIELDS, "Host": "other", "Accept": "x/y", "X-Bytes": "é"}
    way.read(here.url, headers=headers, policy=FAST, stop_after=1)
    first, second = here.requests
    assert second.path == "/c/b"
    assert sorted(second.fields) == sorted(first.fields)
    assert {"x-bytes", "x-other"} <= names(second)
    assert second.get("Host") == b"other"


@EACH_LIBRARY
def test_location_is_resolved_against_url(way: Way, here: Stage, there: Stage) -> None:
    """By RFC 3986, 5.2; bytes that are not ASCII are UTF-8."""
    host = here.origin.removeprefix("http:")
    locations = ["?x=1", "../b/./c", f"{host}/d#fragment", "é?ü", "HTTP:" + host + "/e"]
    here.plays = [*map(redirect, locations), stream()]
    assert len(way.read(here.url, policy=FAST, stop_after=1).events) == 1
    assert targets(here) == ["/c/a", "/c/a?x=1", "/b/c", "/d", "/%C3%A9?%C3%BC", "/e"]


def test_cookie_of_redirect_is_sent_by_jars(here: Stage) -> None:
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
def test_post_repeated_by_307_within_origin(
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
        *(
            pytest.param(
                *(way, status, elsewhere),
                id=f"{way}-{status}-{elsewhere}",
                marks=matrix_marks(way, OURS),
            )
            for way in SOURCES.values()
            for status, elsewhere in [(302, False), (307, True)]
        ),
        *((RAW, status, False) for status in (301, 303)),
        *((RAW, status, True) for status in (301, 302, 303, 308)),
    ],
    ids=str,
)
def test_post_redirect_that_changes_method_or_origin_raises(
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


def test_resume_by_get_follows_303_to_another_origin(way: Way, here: Stage, there: Stage) -> None:
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


def test_twenty_redirects_are_followed(way: Way, here: Stage) -> None:
    here.plays = [redirect("@a")] * 20 + [stream(), stream()]
    outcome = way.read(here.url, policy=FAST)
    assert outcome.error is None
    # The next attempt is counted from zero.
    assert [event.data for event in outcome.events] == ["a", "a"]
    assert len(here.requests) == 23


def test_redirect_number_21_raises(way: Way, here: Stage) -> None:
    here.plays = [redirect("@a")] * 22
    outcome = way.read(here.url, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert "20" in str(outcome.error)
    assert outcome.error.response.status == 302
    assert len(here.requests) == 21


@pytest.mark.parametrize("status", STATUSES)
@EACH_LIBRARY
def test_max_redirects_0_raises_whatever_the_client(
    way: Way, here: Stage, there: Stage, status: int
) -> None:
    here.plays = [redirect(there.url, status, body=[b"moved"])]
    policy = replace(FAST, max_redirects=0)
    # The setting of the client changes nothing.
    options = {"follow_redirects": True} if way.library in {"httpx", "httpx2"} else {}
    outcome = way.read(here.url, policy=policy, client_options=options)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == status
    assert outcome.error.response.body == b"moved"
    assert outcome.error.response.headers["location"] == there.url
    assert [len(here.requests), len(there.requests)] == [1, 0]


@pytest.mark.parametrize("status", [300, 304, 307])
@EACH_LIBRARY
def test_redirect_without_location_raises(way: Way, here: Stage, status: int) -> None:
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
@EACH_LIBRARY
def test_invalid_location_raises_response_error(way: Way, here: Stage, location: str) -> None:
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
def test_redirect_from_https_to_http_raises(
    way: Way, here: Stage, authority: Authority, status: int
) -> None:
    with authority.serving(redirect(here.url, status)) as secure:
        outcome = way.read(secure.url, headers=FIELDS, ca=authority.file, policy=FAST)
    assert isinstance(outcome.error, ResponseError)
    assert "https" in str(outcome.error)
    assert outcome.error.response.status == status
    assert [len(secure.requests), len(here.requests)] == [1, 0]


def test_redirect_from_http_to_https_is_cross_origin(
    way: Way, here: Stage, authority: Authority
) -> None:
    """The redirect back to http is refused."""
    with authority.serving(stream(), redirect(here.url + "/back")) as secure:
        here.plays = [redirect(secure.url)] * 2
        outcome = way.read(here.url, headers=FIELDS, ca=authority.file, policy=FAST)
        assert outcome.plain == [("message", "a", "1")]
        assert isinstance(outcome.error, ResponseError)
    assert targets(here) == ["/c/a", "/c/a"]
    assert_bare(secure.requests[0])
    assert_bare(secure.requests[1], "last-event-id")


@EACH_LIBRARY
def test_same_origin_redirect_over_tls_keeps_fields(way: Way, authority: Authority) -> None:
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
@EACH_LIBRARY
def test_body_of_redirect_is_not_waited_for(way: Way, here: Stage, body: str) -> None:
    play = redirect("@b", **BODIES[body])
    if body == "an event stream":
        play.fields = [*play.fields, EVENT_STREAM]
    here.plays = [play, stream()]
    began = time.monotonic()
    outcome = way.read(here.url, policy=FAST, stop_after=1)
    assert time.monotonic() - began < SOON
    assert outcome.plain == [("message", "a", "1")]
    assert targets(here) == ["/c/a", "/c/b"]
    # One connection at a time: the one of the redirect was closed, or is used again.
    assert here.requests[1].open == 0


@EACH_LIBRARY
def test_large_body_of_redirect_is_skipped(way: Way, here: Stage) -> None:
    here.plays = [redirect("@b", framing="chunked", body=[bytes(2**16)] * 64), stream()]
    began = time.monotonic()
    assert len(way.read(here.url, policy=FAST, stop_after=1).events) == 1
    assert time.monotonic() - began < SOON


def test_body_of_refused_redirect_is_read_in_time(
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


def test_netrc_is_used_without_authorization(netrc: Path, here: Stage) -> None:
    """Otherwise the next test could not fail."""
    for way in WITH_NETRC:
        here.requests.clear()
        here.plays = [stream()]
        way.read(here.url, stop_after=1, client_options=_netrc_options(way, netrc))
        assert here.requests[0].get("Authorization") == b"Basic " + BASIC, way


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
@pytest.mark.parametrize("place", ["request", "client", "user"])
@EACH_JAR
def test_netrc_never_replaces_authorization(
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
