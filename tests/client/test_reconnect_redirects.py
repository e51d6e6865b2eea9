"""The redirects that the state machine follows, and the fields that it sends there."""

from __future__ import annotations

from typing import Any

import pytest

from sse_fast import ReadyState, ReconnectPolicy, ResponseError
from sse_fast._request import Request, parse_url
from tests.support.simulated_clock import (
    BODY,
    OTHER,
    OUTCOMES,
    REDIRECTS,
    SAME,
    URL,
    Driver,
    cut_off,
    sent_id,
)


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("location", [SAME, OTHER])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_redirect_follows_by_method_and_origin(method: str, location: str, status: int) -> None:
    driver = Driver(method=method)
    before = driver.begin()
    hop = driver.answer(status, location=location)
    if method == "GET" or (location == SAME and status in (303, 307, 308)):
        # RFC 9110, 15.4.4: after a 303, a GET asks for the result.
        method, body = ("GET", None) if status == 303 else (method, before.body)
        assert (hop.method, hop.url, hop.body) == (method, location, body)
        assert hop.redirected
        # The attempt goes on.
        assert driver.answer(200, content_type="text/event-stream") is None
        return
    assert isinstance(hop, ResponseError)
    assert hop.response.status == status
    assert driver.reconnection.state is ReadyState.CLOSED


def test_redirect_of_head_follows_307_and_308() -> None:
    followed = []
    for status in REDIRECTS:
        for location in (SAME, OTHER):
            driver = Driver(method="HEAD")
            driver.begin()
            if isinstance(driver.answer(status, location=location), Request):
                followed.append((status, location))
    assert followed == [(307, SAME), (308, SAME)]


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 309, 401, 503])
def test_other_status_is_no_redirect(status: int) -> None:
    driver = Driver()
    driver.begin()
    assert not isinstance(driver.answer(status, location=SAME), Request)


def test_redirect_of_resume_get_is_followed() -> None:
    driver = Driver(method="POST", resume="get").open().event("7")
    driver.fail(cut_off())
    driver.begin()
    hop = driver.answer(302, location=OTHER)
    assert (hop.method, hop.url, sent_id(hop)) == ("GET", OTHER, b"7")


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirect_from_https_to_http_raises(status: int) -> None:
    for location in ("http://a.example/b", "http://b.example/b", "http://a.example:443/b"):
        for method in ("GET", "POST"):
            driver = Driver(method=method)
            driver.begin()
            assert isinstance(driver.answer(status, location=location), ResponseError)
    # The same holds for a later hop.
    driver = Driver(url="http://a.example/")
    driver.begin()
    assert driver.answer(302, location="https://a.example/").url == "https://a.example/"
    assert isinstance(driver.answer(302, location="http://a.example/"), ResponseError)


SECRETS = [
    *[("Authorization", b"s"), ("authorization", b"s"), ("Cookie", b"s"), ("x-api-key", b"s")],
    *[("Proxy-Authorization", b"s"), ("Content-Type", b"s"), ("X-Accept", b"s"), ("Host", b"a")],
    *[("Referer", b"s"), ("Origin", b"s"), ("Accept-Encoding", b"gzip"), ("Cookie2", b"s")],
]
HARMLESS = [("ACCEPT", b"text/event-stream"), ("Cache-Control", b"no-cache"), ("user-agent", b"me")]


def is_bare(request: Request) -> bool:
    """Return whether the fields are stripped for another origin; else assert that all are there."""
    fields = set(request.fields)
    if set(SECRETS) <= fields:
        assert {*HARMLESS, ("Last-Event-ID", b"7")} | set(SECRETS) == fields
        assert not request.cross_origin
        return False
    assert fields == {*HARMLESS, ("Last-Event-ID", b"7"), ("Accept-Encoding", b"identity")}
    assert len(request.fields) == 5
    # This tells adapters to send nothing of the client.
    assert request.cross_origin
    assert request.body is None
    return True


def with_secrets(**options: Any) -> Driver:
    return Driver(fields=(*SECRETS, *HARMLESS), last_event_id="7", **options)


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        (URL, "https://a.example/b", False),
        (URL, "/b", False),
        (URL, "https://A.EXAMPLE/b", False),
        (URL, "https://a.example:443/b", False),
        ("http://a.example:80/", "http://a.example/b", False),
        ("http://a.example:8080/", "http://a.example:8080/b", False),
        ("http://[::1]/", "http://[::1]:80/b", False),
        ("http://bücher.example/", "http://xn--bcher-kva.example/b", False),
        (URL, "https://b.example/b", True),
        (URL, "//b.example/b", True),
        (URL, "https://sub.a.example/b", True),
        (URL, "https://a.example:8443/b", True),
        (URL, "https://a.example.b.example/b", True),
        (URL, "https://a.example@b.example/b", True),
        ("http://a.example/", "https://a.example/", True),
        ("http://a.example:443/", "https://a.example/", True),
        ("http://a.example:8080/", "http://a.example/", True),
        ("http://[::1]/", "http://[::2]/", True),
    ],
)
def test_cross_origin_redirect_strips_fields(
    url: str, location: str, expected: bool, status: int
) -> None:
    driver = with_secrets(url=url)
    assert not is_bare(driver.begin())
    assert is_bare(driver.answer(status, location=location)) is expected


def test_stripped_fields_stay_away_for_the_attempt() -> None:
    driver = with_secrets()
    for _ in range(3):
        assert not is_bare(driver.begin())
        assert not is_bare(driver.answer(302, location=SAME))
        assert is_bare(driver.answer(302, location=OTHER))
        # The other origin cannot get the fields by redirecting back.
        assert is_bare(driver.answer(302, location="/c"))
        assert is_bare(driver.answer(302, location=SAME))
        assert is_bare(driver.answer(307, location="/d"))
        # The next attempt goes to the caller's origin.
        driver.answer(503) if driver.reconnection.attempt < 2 else driver.reconnect()


def test_permanent_move_to_other_origin_stays_stripped() -> None:
    """Later attempts go there directly, without the stripped fields."""
    for status in (301, 308):
        driver = with_secrets()
        driver.begin()
        driver.answer(status, location=OTHER)
        driver.answer(200, content_type="text/event-stream")
        for _ in range(3):
            driver.end()
            request = driver.begin()
            assert request.url == OTHER
            assert is_bare(request)
            # A redirect back does not bring the fields back.
            assert is_bare(driver.answer(302, location=SAME))
            driver.answer(200, content_type="text/event-stream")


def test_307_and_308_keep_method_body_and_fields() -> None:
    driver = with_secrets(method="POST")
    driver.begin()
    for status in (307, 308):
        hop = driver.answer(status, location=SAME)
        assert (hop.method, hop.body) == ("POST", BODY)
        assert not is_bare(hop)
    assert isinstance(driver.answer(308, location=OTHER), ResponseError)


# Statuses in a row, and how many of them replace the URL.
CHAINS = [
    ([301], 1),
    ([308], 1),
    ([302], 0),
    ([303], 0),
    ([307], 0),
    ([301, 302], 1),
    ([302, 301], 0),
    ([301, 308], 2),
    ([308, 301, 307], 2),
    ([301, 302, 301], 1),
    ([303, 308], 0),
    ([307, 308, 301], 0),
    ([301] * 20, 20),
]


@pytest.mark.parametrize(("statuses", "replaced"), CHAINS)
def test_leading_permanent_redirects_replace_url(statuses: list[int], replaced: int) -> None:
    urls = [URL, *(f"https://a.example/{number}" for number in range(1, len(statuses) + 1))]
    driver = Driver()
    assert driver.begin().url == URL
    for status, url in zip(statuses, urls[1:], strict=True):
        assert driver.answer(status, location=url).url == url
    driver.answer(200, content_type="text/event-stream")
    for lose in (driver.end, lambda: driver.fail(cut_off()), driver.reconnect, driver.interrupt):
        lose()
        request = driver.begin()
        assert request.url == urls[replaced]
        # The query of the new URL must not change.
        assert request.redirected is (replaced > 0)
        driver.answer(200, content_type="text/event-stream")


def test_url_is_replaced_at_every_permanent_redirect() -> None:
    driver = Driver()
    urls = []
    for number, status in enumerate([301, 302, 308, 307, 301]):
        urls.append(driver.begin().url)
        driver.answer(status, location=f"/{number}")
        driver.answer(200, content_type="text/event-stream")
        driver.end()
    urls.append(driver.begin().url)
    paths = [URL.removeprefix("https://a.example"), "/0", "/0", "/2", "/2", "/4"]
    assert urls == [f"https://a.example{path}" for path in paths]


@pytest.mark.parametrize("failure", ["503", "refused", "slow head", "other type", "404"])
@pytest.mark.parametrize("location", [SAME, OTHER])
def test_url_is_kept_if_redirect_leads_to_no_stream(failure: str, location: str) -> None:
    for status in (301, 308):
        driver = with_secrets()
        driver.begin()
        driver.answer(status, location=location)
        if not isinstance(OUTCOMES[failure](driver), float):
            driver.reconnect()
        request = driver.begin()
        assert request.url == URL
        assert not is_bare(request)
        # Once it leads to a stream, it is remembered.
        driver.answer(status, location=location)
        driver.answer(200, content_type="text/event-stream")
        driver.fail(cut_off())
        assert driver.begin().url == location


def test_permanent_redirect_of_post_applies_to_resume() -> None:
    for status, url in [(308, SAME), (307, URL)]:
        for options, method, body in [
            ({"resend": True}, "POST", BODY),
            ({"resume": "get"}, "GET", None),
        ]:
            driver = Driver(method="POST", last_event_id="7", **options)
            driver.begin()
            driver.answer(status, location=SAME)
            driver.answer(200, content_type="text/event-stream")
            driver.fail(cut_off())
            later = driver.begin()
            assert (later.method, later.url, later.body) == (method, url, body)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("other", "https://a.example/dir/other"),
        ("./other?x=1&y", "https://a.example/dir/other?x=1&y"),
        ("../other", "https://a.example/other"),
        ("/other", "https://a.example/other"),
        ("?p=2", "https://a.example/dir/stream?p=2"),
        ("#part", "https://a.example/dir/stream?q=1"),
        ("/other#part", "https://a.example/other"),
        ("//b.example/other", "https://b.example/other"),
        ("https://b.example:8443", "https://b.example:8443/"),
        ("HTTPS://B.EXAMPLE/other", "https://b.example/other"),
        ("https://user:secret@b.example/other", "https://b.example/other"),
        ("https://secret@a.example/other", "https://a.example/other"),
        ("//user:secret@a.example/other", "https://a.example/other"),
        # UTF-8 read as Latin-1; as text, as some libraries read it; and percent-encoded.
        ("/caf\xc3\xa9?\xe2\x82\xac", "https://a.example/caf%C3%A9?%E2%82%AC"),
        ("/café?€", "https://a.example/caf%C3%A9?%E2%82%AC"),
        ("/caf%C3%A9", "https://a.example/caf%C3%A9"),
        ("//b\xc3\xbccher.example/", "https://xn--bcher-kva.example/"),
    ],
)
def test_location_is_resolved(location: str, expected: str) -> None:
    driver = Driver()
    driver.begin()
    hop = driver.answer(302, location=location)
    target = parse_url(hop.url)
    # Compare with what is sent.
    assert f"{target.scheme}://{target.authority}{target.path}" == expected
    assert target.user is None
    assert "secret" not in hop.url


@pytest.mark.parametrize(
    "location",
    [
        *["ftp://a.example/", "ws://a.example/", "javascript:alert(1)", "data:text/event-stream,"],
        *["file:///etc/passwd", "mailto:secret@a.example"],
        *["https://a.example:65536/", "https://a.example:x/", "https://[::1/", "https://a b/"],
        *["https://a.example/\0", "https://a..example/"],
    ],
)
def test_invalid_location_raises(location: str) -> None:
    for status in (301, 307):
        driver = Driver()
        driver.begin()
        error = driver.answer(status, location=location)
        assert isinstance(error, ResponseError)
        assert error.response.status == status
        assert "secret" not in str(error)


@pytest.mark.parametrize("limit", [0, 1, 20])
def test_max_redirects_limits_each_attempt(limit: int) -> None:
    policy = ReconnectPolicy() if limit == 20 else ReconnectPolicy(max_redirects=limit)
    driver = Driver(policy)
    # Each attempt is counted from zero.
    for _ in range(3):
        driver.begin()
        for number in range(limit):
            assert isinstance(driver.answer(302, location=f"/{number}"), Request)
        assert driver.answer(200, content_type="text/event-stream") is None
        driver.end()
    driver.begin()
    # A loop counts as well.
    for _ in range(limit):
        driver.answer(302, location=SAME)
    error = driver.answer(302, location=SAME)
    assert isinstance(error, ResponseError)
    assert error.response.status == 302
