"""Redirects, hop by hop: where they lead, what they repeat, and which are refused.

Our policy is tested over our own transport. The part of each adapter is tested once per library:
it shows redirects as they are. The rest of the cross product is marked `matrix`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trustme

from sse_fast import EndReason, ResponseError, SSEError, StreamIncomplete, TransportError
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import LIBRARIES, OURS, SOURCES, Way, matrix_marks, way_params
from tests.support.redirects import (
    EACH_LIBRARY,
    FAST,
    FIELDS,
    RAW,
    SECRET,
    STATUSES,
    WITH_JAR,
    assert_bare,
    carries_fields,
    names,
    redirect,
    targets,
)
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, serve_stage, stream

pytestmark = [
    UNREAD_UNDER_TRIO,
    pytest.mark.usefixtures("netrc"),
    # aiohttp 3.14 deprecates it, but its users have it.
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]

SOON = 1.5  # seconds; the timeouts of the clients are many times longer


# -- Where they lead -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 308])
@pytest.mark.parametrize("page", ["200 html", "404", "503", "cut off"])
@pytest.mark.parametrize("origin", ["same", "other"])
@pytest.mark.parametrize("way", way_params(LIBRARIES))
def test_redirect_to_no_stream_is_forgotten(
    way: Way, here: Stage, there: Stage, status: int, page: str, origin: str
) -> None:
    """A maintenance or login page that answers 301 does not replace the URL and its fields."""
    no_stream = {
        "200 html": Play(fields=[("Content-Type", "text/html")], body=[b"login"]),
        "404": Play(404, ()),
        "503": Play(503, ()),
        "cut off": Play(framing="none"),
    }[page]
    location = "@login" if origin == "same" else f"{there.url}login"
    # aiohttp repeats a GET on its own if the connection ends without a response.
    pages = [no_stream] * (2 if way.library == "aiohttp" and page == "cut off" else 1)
    on_the_way = pages if origin == "same" else []
    here.plays = [stream(), redirect(location, status), *on_the_way, stream()]
    there.plays = pages
    errors: list[Exception] = []

    def on_error(error: Exception) -> float:
        errors.append(error)
        return 0.0

    outcome = way.read(here.url, stop_after=2, headers=FIELDS, policy=FAST, on_error=on_error)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "a"]
    assert len(errors) == 1
    assert targets(here)[-1] == targets(here)[0]
    assert carries_fields(here.requests[-1])


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


def test_permanent_redirect_to_503_keeps_url(here: Stage) -> None:
    here.plays = [redirect("@b", 301), Play(503, ()), redirect("@b", 301), stream()]
    assert [event.data for event in RAW.read(here.url, policy=FAST).events] == ["a"]
    assert targets(here) == ["/c/a", "/c/b", "/c/a", "/c/b", "/c/b"]


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
        (RAW, 301, False),
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


def test_post_303_asks_for_the_result_by_get(way: Way, here: Stage) -> None:
    """RFC 9110, 15.4.4: within the origin, without the body and the fields that describe it."""
    here.plays = [redirect("@b", 303), stream(b"data: a\n\n"), Play(204)]
    outcome = way.read(
        here.url, method="POST", json={"a": SECRET}, headers=FIELDS, policy=FAST, stop_after=1
    )
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a"]
    posted, asked = here.requests
    assert (posted.method, asked.method, asked.body) == ("POST", "GET", b"")
    assert asked.get("Content-Type") is None
    for name in FIELDS:
        assert asked.get(name) == posted.get(name)


def test_post_after_303_is_not_sent_again(way: Way, here: Stage) -> None:
    here.plays = [redirect("@b", 303), stream(framing="chunked-truncated")]
    outcome = way.read(here.url, method="POST", json={"a": SECRET}, policy=FAST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert [request.method for request in here.requests] == ["POST", "GET"]


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
    assert isinstance(outcome.error, SSEError)
    assert not isinstance(outcome.error, TransportError)
    assert SECRET not in str(outcome.error)
    assert len(here.requests) == 1
    if way.library == "httpx" and type(outcome.error) is SSEError:
        # httpx raises its own error instead of returning the response.
        assert "redirects to a Location that httpx rejects" in str(outcome.error)
        assert "InvalidURL" in repr([outcome.error.__cause__, outcome.error.__cause__.__context__])
    else:
        assert isinstance(outcome.error, ResponseError)
        assert outcome.error.response.status == 302


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
    assert all(carries_fields(request) for request in secure.requests)


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
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.3)
    here.plays = [redirect("@b", **BODIES["without end"])]
    began = time.monotonic()
    outcome = way.read(here.url, method="POST", data=b"a", policy=FAST)
    assert time.monotonic() - began < SOON
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"moved"
