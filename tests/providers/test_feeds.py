"""The loop of docs/guides/providers.md over feeds, which end only by the test's 204."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from tests.support.recipes import chunks, recipe, rows
from tests.support.scripted_server import Play, stream

HEADING = "Feeds"
FIREBASE_END = b"event: auth_revoked\ndata: credential is no longer valid\n\n"


@dataclass
class Feed:
    """The stream of each connection of a feed, and the output of the loop."""

    connections: list[bytes]
    printed: str
    ids: list[str | None] = field(default_factory=lambda: [None, None])


WIKIMEDIA_ID = json.dumps([{"topic": "eqiad.mediawiki.recentchange", "partition": 0, "offset": 7}])

FEEDS = {
    "Wikimedia recent changes": Feed(
        [
            b":ok\n\nretry: 0\nevent: message\nid: %b\n" % WIKIMEDIA_ID.encode()
            + b'data: {"title": "A"}\n\n',
            b'event: error\ndata: server is restarting\n\nevent: message\ndata: {"title": "B"}\n\n',
        ],
        "message {'title': 'A'}\nerror server is restarting\nmessage {'title': 'B'}\n",
        [None, WIKIMEDIA_ID],
    ),
    "Mastodon": Feed(
        [
            b':)\nretry: 0\n\nevent: update\ndata: {"id": "1"}\n\n:thump\n',
            b":)\nevent: delete\ndata: 106692867363994015\n\n:thump\n",
        ],
        "update {'id': '1'}\ndelete 106692867363994015\n",
    ),
    "Firebase Realtime Database": Feed(
        [
            (
                b'retry: 0\nevent: put\ndata: {"path": "/", "data": {"a": 1}}\n\n'
                b"event: keep-alive\ndata: null\n\n"
            ),
            b'event: patch\ndata: {"path": "/", "data": null}\n\n',
        ],
        "put {'path': '/', 'data': {'a': 1}}\nkeep-alive null\npatch {'path': '/', 'data': None}\n",
    ),
    "Stellar Horizon": Feed(
        [
            (
                b'retry: 1000\nevent: open\ndata: "hello"\n\nretry: 10\nid: 12884905984\n'
                b'data: {"paging_token": "12884905984"}\n\nevent: close\ndata: "byebye"\n\n'
            ),
            (
                b'retry: 1000\nevent: open\ndata: "hello"\n\nid: 12884905985\ndata: {"n": 2}\n\n'
                b'retry: 10\nevent: close\ndata: "byebye"\n\n'
            ),
        ],
        "open \"hello\"\nmessage {'paging_token': '12884905984'}\nclose \"byebye\"\n"
        'open "hello"\nmessage {\'n\': 2}\nclose "byebye"\n',
        [None, "12884905984", "12884905985"],
    ),
    "LaunchDarkly": Feed(
        [
            (
                b'retry: 0\nevent: put\ndata: {"path": "/", "data": {}}\n\n:\n\n'
                b'event: patch\ndata: {"path": "/flags/a"}\n\n'
            ),
            b"event: goodbye\ndata: bye\n\n",
        ],
        "put {'path': '/', 'data': {}}\npatch {'path': '/flags/a'}\ngoodbye bye\n",
    ),
    "Home Assistant": Feed(
        [
            b'retry: 0\ndata: ping\n\ndata: {"event_type": "state_changed"}\n\n',
            b"data: ping\n\n",
        ],
        "message ping\nmessage {'event_type': 'state_changed'}\nmessage ping\n",
    ),
    "Marathon, Particle": Feed(
        [
            b'retry: 0\r\n:ok\r\n\r\n\r\n\r\nevent: temp\r\ndata: {"data": "25.3"}\r\n\r\n',
            b"event: text\ndata: not JSON\n\n\n\n",
        ],
        "temp {'data': '25.3'}\ntext not JSON\n",
    ),
}


def test_every_feed_of_the_table_is_read() -> None:
    assert list(rows(HEADING)) == list(FEEDS)


@pytest.mark.parametrize("name", FEEDS)
def test_feed_loop_reads_over_reconnects(name: str) -> None:
    feed = FEEDS[name]
    program = recipe(HEADING).replacing(("decode=decode", rows(HEADING)[name][0]))
    outcome = program.run(*(stream(*chunks(sent)) for sent in feed.connections))
    assert (outcome.printed, outcome.error) == (feed.printed, None)
    asked = [request.get("Last-Event-ID") for request in outcome.requests[: len(feed.ids)]]
    assert asked == [None if each is None else each.encode() for each in feed.ids]
    if "User-Agent" in rows(HEADING)[name][0]:
        assert outcome.requests[0].get("User-Agent") == b"..."


@pytest.mark.parametrize("name", FEEDS)
def test_feed_loop_goes_on_after_lost_connection(name: str) -> None:
    feed = FEEDS[name]
    program = recipe(HEADING).replacing(("decode=decode", rows(HEADING)[name][0]))
    first, *rest = feed.connections
    cut = Play(body=chunks(first), framing="chunked-truncated")
    outcome = program.run(cut, *(stream(sent) for sent in rest))
    assert (outcome.printed, outcome.error) == (feed.printed, None)


def test_firebase_loop_ends_when_access_is_revoked() -> None:
    name = "Firebase Realtime Database"
    program = recipe(HEADING).replacing(("decode=decode", rows(HEADING)[name][0]))
    outcome = program.run(stream(FEEDS[name].connections[0], FIREBASE_END))
    assert len(outcome.requests) == 1
    assert outcome.error is None
    assert outcome.printed.endswith("auth_revoked credential is no longer valid\n")
