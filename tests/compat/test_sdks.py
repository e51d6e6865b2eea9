"""The real SDKs over loopback: the same objects, errors and ends with and without `install()`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, nullcontext
from http.client import HTTPConnection
from importlib import import_module
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.sdk_server import APIS, KEY, WIRE_FORMATS, SdkServer, serve_sdks
from tests.support.sdk_ways import (
    CREATE_WAYS,
    HELPER_WAYS,
    LIMIT,
    MESSAGES,
    WAYS,
    Reading,
    Way,
    araw_events,
    async_client_of,
    client_of,
    installed,
    original_decoder,
    our_decoder,
    raw_events,
    sample,
)
from tests.support.threaded_reader import OF_TRIO, wait_until

# Wire formats that begin with a BOM, and the others.
WITH_BOM = [name for name, wire_format in WIRE_FORMATS.items() if wire_format.bom]
WITHOUT_BOM = [name for name in WIRE_FORMATS if name not in WITH_BOM]
RAW_WAYS = [way for way in WAYS if "raw_events" in way.name]
OBJECT_WAYS = [way for way in WAYS if way not in RAW_WAYS]


def by_default(selected: str, names: list[str]) -> list[Any]:
    """Parametrize over names: one by default, the rest is matrix."""
    marks = {selected: ()}
    return [pytest.param(name, marks=marks.get(name, pytest.mark.matrix)) for name in names]


@pytest.fixture(scope="module")
def sdk_server() -> Iterator[SdkServer]:
    with serve_sdks() as server:
        yield server


def before_and_after(way: Way, *args: Any) -> tuple[Reading, Reading]:
    """Read once without and once with sse_fast installed."""
    pytest.importorskip(way.sdk)
    if way.call in (raw_events, araw_events) and not hasattr(
        import_module("anthropic").Stream, "raw_events"
    ):
        pytest.skip("the SDK has no raw events yet")
    before = way.read(*args)
    with installed(way.sdk):
        after = way.read(*args)
    if before.decoder is not None:
        assert before.decoder is original_decoder(way.sdk)
        assert after.decoder is our_decoder(way.sdk)
        assert issubclass(after.decoder, before.decoder)
    return before, after


# -- The same objects ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire_format", by_default("cut-crlf", [name for name in WITHOUT_BOM if name != "bytes"])
)
@pytest.mark.parametrize("way", sample(CREATE_WAYS))
def test_text_objects_same_after_install(sdk_server: SdkServer, way: Way, wire_format: str) -> None:
    before, after = before_and_after(way, sdk_server, "text", wire_format)
    assert before.error is None
    assert before.items
    assert before == after


@pytest.mark.parametrize("wire_format", by_default("cut-cr", ["plain", "cut-crlf", "cut-cr"]))
@pytest.mark.parametrize("way", OBJECT_WAYS, ids=str)
def test_tool_call_objects_same_after_install(
    sdk_server: SdkServer, way: Way, wire_format: str
) -> None:
    before, after = before_and_after(way, sdk_server, "tools", wire_format)
    assert before.error is None
    assert before.items
    assert (before.final is None) == (way.final is None)
    assert before == after


@pytest.mark.parametrize("way", sample(CREATE_WAYS, sync_only=True))
def test_byte_by_byte_objects_same_after_install(sdk_server: SdkServer, way: Way) -> None:
    before, after = before_and_after(way, sdk_server, "text", "bytes")
    assert before.error is None
    assert before == after == way.read(sdk_server)


@pytest.mark.parametrize(
    "wire_format", by_default("cut-crlf", ["plain", "comments", "ids", "cut-crlf", "cut-cr"])
)
@pytest.mark.parametrize("way", RAW_WAYS, ids=str)
def test_raw_events_same_after_install(sdk_server: SdkServer, way: Way, wire_format: str) -> None:
    before, after = before_and_after(way, sdk_server, "text", wire_format)
    assert before.error is None
    sent = APIS[way.api].scenarios["text"].events
    assert [event["_event"] for _, event in before.items if event["_data"]] == [
        event.event for event in sent
    ]
    assert all(event["_raw"] for _, event in before.items if event["_data"])
    assert before == after


# Mistral's SDK supports asyncio only.
@pytest.mark.parametrize(
    "way", sample([way for way in CREATE_WAYS if way.is_async and way.sdk != "mistralai"])
)
@OF_TRIO
def test_trio_objects_same_after_install(sdk_server: SdkServer, way: Way) -> None:
    before, after = before_and_after(way, sdk_server, "text", "cut", "trio")
    assert before.error is None
    assert before == after == way.read(sdk_server)


@pytest.mark.parametrize("scenario", by_default("tools", ["text", "tools"]))
@pytest.mark.parametrize("way", sample(CREATE_WAYS))
def test_objects_are_those_that_were_sent(sdk_server: SdkServer, way: Way, scenario: str) -> None:
    """Without this test, two empty streams would pass as equal."""
    sent = APIS[way.api].scenarios[scenario].objects
    if way.sdk == "anthropic":
        sent = [data for data in sent if data["type"] != "ping"]
    _, after = before_and_after(way, sdk_server, scenario)
    things = [thing.data if way.sdk == "mistralai" else thing for thing in after.objects]
    got = [json.loads(thing.model_dump_json(exclude_unset=True, by_alias=True)) for thing in things]
    assert got == sent


# -- Byte order mark -------------------------------------------------------------------------------


# APIs whose SDK loses the first event after a BOM. For the others, the BOM only hides the type of
# the event, which its object has too; mistralai recognizes a BOM that is not cut.
LOST = {
    ("openai", "bom"),
    ("openai", "bom-cut"),
    ("anthropic", "bom"),
    ("anthropic", "bom-cut"),
    ("mistralai", "bom-cut"),
}


@pytest.mark.parametrize("wire_format", by_default("bom-cut", WITH_BOM))
@pytest.mark.parametrize("way", sample(CREATE_WAYS + HELPER_WAYS))
def test_first_event_after_bom_is_delivered(
    sdk_server: SdkServer, way: Way, wire_format: str
) -> None:
    before, after = before_and_after(way, sdk_server, "text", wire_format)
    right = way.read(sdk_server, "text", "plain")
    assert after == right
    if (way.api, wire_format) not in LOST:
        assert before == right
    elif way.final is None:
        assert before.items == right.items[1:]
    else:
        # Some helpers make more than one object of an event.
        assert len(before.items) < len(right.items)


# -- Errors and other ends -------------------------------------------------------------------------


ENDS = [
    "error",
    "truncated",
    "truncated-within",
    "broken-json",
    "broken-utf8",
    "unfinished",
    "undispatched",
    "after-done",
]
# By default, the sync client of each SDK with every end, and the async one with errors.
CASES = [
    pytest.param(
        way,
        end,
        id=f"{way}-{end}",
        marks=param.marks
        if not way.is_async or end in ("error", "truncated-within", "broken-utf8")
        else pytest.mark.matrix,
    )
    for param in sample(CREATE_WAYS + HELPER_WAYS)
    for way in param.values
    for end in ENDS
    if end in APIS[way.api].scenarios
]


@pytest.mark.parametrize(("way", "end"), CASES)
def test_stream_end_same_after_install(sdk_server: SdkServer, way: Way, end: str) -> None:
    before, after = before_and_after(way, sdk_server, end)
    assert before.items
    assert before == after
    kind = None if after.error is None else after.error[0]
    if end == "error" and way.api in ("openai", "anthropic"):
        assert kind is not None
        assert issubclass(kind, import_module(way.sdk).APIError)
        body = APIS[way.api].scenarios[end].objects[-1]
        assert after.error[2] == (body["error"] if way.api == "openai" else body)
    elif end == "broken-utf8":
        assert kind is (None if way.sdk == "cohere" else UnicodeDecodeError)
    elif end.startswith("truncated"):
        assert kind is not None
        assert kind.__name__ in ("RemoteProtocolError", "APIConnectionError")
    elif end == "after-done":
        assert after == way.read(sdk_server, "text")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_api_error_same_after_install(sdk_server: SdkServer, sdk: str) -> None:
    """The API refuses the request, so there is no stream."""
    module = pytest.importorskip(sdk)
    way = next(way for way in CREATE_WAYS if way.api == sdk)

    def take() -> Reading:
        with client_of(sdk, sdk_server.base(sdk)) as client:
            return way.take(client.with_options(api_key="another"))

    before = take()
    with installed(sdk):
        after = take()
    assert before == after
    assert before.error is not None
    assert before.error[0] is module.AuthenticationError


# -- Connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_after", [pytest.param(False, marks=pytest.mark.matrix), True], ids=["before", "after"]
)
@pytest.mark.parametrize("way", sample(CREATE_WAYS + HELPER_WAYS))
def test_leaving_early_releases_connection(way: Way, is_after: bool) -> None:
    pytest.importorskip(way.sdk)

    with serve_sdks() as server, installed(way.sdk) if is_after else nullcontext():
        base = server.base(way.api, "held")

        def is_left() -> bool:
            return bool(server.stage.requests) and server.stage.open == 0

        async def run() -> None:
            async with async_client_of(way.sdk, base) as client:
                async with way.aopened(client) as stream:
                    iterator = aiter(stream)
                    for _ in range(2):
                        await anext(iterator)
                    assert server.stage.open == 1
                await anyio.to_thread.run_sync(wait_until, is_left)

        if way.is_async:
            anyio.run(run)
            return
        with client_of(way.sdk, base) as client:
            with way.opened(client) as stream:
                iterator = iter(stream)
                for _ in range(2):
                    next(iterator)
                assert server.stage.open == 1
            # The client is still open, so leaving the stream must have released the connection.
            wait_until(is_left)


@pytest.mark.parametrize("way", sample(CREATE_WAYS))
def test_connection_is_reused_as_before(way: Way) -> None:
    pytest.importorskip(way.sdk)

    def count() -> int:
        """Return the number of connections that four consecutive streams use."""
        with serve_sdks() as server:
            base = server.base(way.api)

            async def run() -> None:
                async with async_client_of(way.sdk, base) as client:
                    for _ in range(4):
                        await way.atake(client)

            if way.is_async:
                anyio.run(run)
            else:
                with client_of(way.sdk, base) as client:
                    for _ in range(4):
                        way.take(client)
            return len(set(server.connections))

    before = count()
    with installed(way.sdk):
        after = count()
    # An SDK may miss the end of a body that arrives late, so the counts may differ by chance.
    assert (before < 4) == (after < 4)


# -- Installing while clients exist ----------------------------------------------------------------


@pytest.mark.parametrize("way", sample([way for way in CREATE_WAYS if not way.is_async]))
def test_one_client_follows_install_and_uninstall(sdk_server: SdkServer, way: Way) -> None:
    pytest.importorskip(way.sdk)
    with client_of(way.sdk, sdk_server.base(way.api)) as client:
        readings = [way.take(client)]
        with installed(way.sdk):
            readings.append(way.take(client))
        readings.append(way.take(client))
    assert readings[0] == readings[1] == readings[2]
    if readings[0].decoder is not None:
        expected = [original_decoder(way.sdk), our_decoder(way.sdk), original_decoder(way.sdk)]
        assert [reading.decoder for reading in readings] == expected


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", sample([way for way in CREATE_WAYS if not way.is_async]))
def test_running_stream_is_not_affected(sdk_server: SdkServer, way: Way, is_after: bool) -> None:
    """A stream keeps the decoder that it began with."""
    pytest.importorskip(way.sdk)
    right = way.read(sdk_server, "text", "cut-crlf")
    things = []
    with client_of(way.sdk, sdk_server.base(way.api, "text", "cut-crlf")) as client:
        with installed(way.sdk) if is_after else nullcontext():
            stream = way.call(client)
            things.append(next(stream))
        with nullcontext() if is_after else installed(way.sdk):
            things.append(next(stream))
        things.extend(stream)
    assert things == right.objects


# -- The server ------------------------------------------------------------------------------------


GOOD = {"model": "any", "messages": MESSAGES, "input": "any", "stream": True}
HEAD = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "anthropic-version": "2023-06-01",
}
WRONG: dict[str, tuple[int, dict[str, Any]]] = {
    "path": (404, {"path": "/v1/nothing"}),
    "method": (405, {"method": "PUT"}),
    "no key": (401, {"head": {"Authorization": ""}}),
    "key": (401, {"head": {"Authorization": "Bearer another"}}),
    "content type": (415, {"head": {"Content-Type": "text/plain"}}),
    "no JSON": (400, {"body": "{"}),
    "no object": (400, {"body": "[]"}),
    "no model": (400, {"body": json.dumps({**GOOD, "model": ""})}),
    "nothing asked": (400, {"body": json.dumps({**GOOD, "messages": [], "input": ""})}),
    "no stream": (400, {"body": json.dumps({**GOOD, "stream": False})}),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("api", by_default("anthropic", list(APIS)))
def test_server_rejects_invalid_requests(sdk_server: SdkServer, api: str, wrong: str) -> None:
    status, request = WRONG[wrong]
    origin, path = sdk_server.base(api).removeprefix("http://").split("/", 1)
    with closing(HTTPConnection(origin, timeout=LIMIT)) as connection:
        for change, expected in ((request, status), ({}, 200)):
            connection.request(
                change.get("method", "POST"),
                f"/{path}{change.get('path', APIS[api].path)}",
                change.get("body", json.dumps(GOOD)),
                {**HEAD, **change.get("head", {})},
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == expected
            if change:
                assert json.loads(body)
