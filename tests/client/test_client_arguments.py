"""Invalid arguments of EventSource and AsyncEventSource, clients among them, and missing extras."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import anyio
import pytest
import requests
import urllib3
import yarl

import sse_fast
from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy
from tests.support.callback_styles import STYLES, CallbackStyle, Recorder
from tests.support.clients import HTTPX, UNREAD_UNDER_TRIO
from tests.support.scripted_server import Stage, stream
from tests.support.threaded_reader import STREAM_B

pytestmark = UNREAD_UNDER_TRIO


@pytest.mark.parametrize("style", [STYLES[0], STYLES[1]], ids=str)
def test_missing_httptools_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, style: CallbackStyle, stage: Stage
) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    recorder = Recorder()
    with pytest.raises(ImportError, match=r"sse-fast\[client\]"):
        style.way.run(stage.url, recorder.on_message)
    assert stage.requests == []


@pytest.mark.parametrize("client", ["none", "aiohttp", "httpx"])
def test_missing_anyio_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, client: str
) -> None:
    """The async client needs anyio with every client."""
    stage.plays = [stream(end="hang")]

    async def open_without_anyio(client: Any) -> None:
        # Only now: httpx imports anyio with its first client, and would never try again.
        monkeypatch.setitem(sys.modules, "anyio", None)
        source = AsyncEventSource(stage.url, client=client)
        try:
            await source.open()
        finally:
            source.close()

    async def run() -> None:
        if client == "aiohttp":
            async with aiohttp.ClientSession() as session:
                await open_without_anyio(session)
        elif client == "httpx":
            async with HTTPX[0].AsyncClient(verify=False) as session:
                await open_without_anyio(session)
        else:
            await open_without_anyio(None)

    with pytest.raises(ImportError, match=r"sse-fast\[client\]"):
        asyncio.run(run())
    assert stage.requests == []


def test_trio_without_client_names_httpx(stage: Stage) -> None:
    async def run() -> None:
        async with AsyncEventSource(stage.url):
            pass

    with pytest.raises(sse_fast.SSEError, match="httpx"):
        anyio.run(run, backend="trio")
    assert stage.requests == []


def test_client_of_the_other_kind_raises() -> None:
    async def make() -> list[Any]:
        """Make the async clients; those of aiohttp need a running loop."""
        clients = [*(module.AsyncClient(verify=False) for module in HTTPX), aiohttp.ClientSession()]
        for client in clients:
            await (client.close() if hasattr(client, "close") else client.aclose())
        return clients

    blocking = [requests.Session(), urllib3.PoolManager()]
    blocking += [module.Client(verify=False) for module in HTTPX]
    for client in blocking:
        with pytest.raises(TypeError, match=r"use EventSource\b"):
            AsyncEventSource("http://127.0.0.1", client=client)
    for client in asyncio.run(make()):
        with pytest.raises(TypeError, match="use AsyncEventSource"):
            EventSource("http://127.0.0.1", client=client)
    for module in HTTPX:
        module_client = blocking[2 + HTTPX.index(module)]
        module_client.close()


def _type_of(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("client", [requests, requests.get, "httpx", object()], ids=_type_of)
def test_unknown_client_raises(cls: Any, client: Any) -> None:
    with pytest.raises(TypeError, match=r"requests\.Session"):
        cls("http://127.0.0.1", client=client)


def test_subclass_of_client_is_accepted(stage: Stage) -> None:
    class Session(requests.Session):
        pass

    stage.plays = [STREAM_B]
    with Session() as session, EventSource(stage.url, client=session) as source:
        assert next(source).data == "b"


def test_uds_or_ssl_context_with_client_raises(tmp_path: Any) -> None:
    import ssl

    with requests.Session() as client:
        for options in ({"uds": tmp_path / "s"}, {"ssl_context": ssl.create_default_context()}):
            with pytest.raises(TypeError, match="client"):
                EventSource("http://127.0.0.1", client=client, **options)


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"url": "/relative"}, ValueError),
        ({"url": "ftp://127.0.0.1"}, ValueError),
        ({"url": "http://"}, ValueError),
        ({"url": yarl.URL("http://127.0.0.1")}, TypeError),
        ({"url": None}, TypeError),
        ({"method": "GE T"}, ValueError),
        ({"headers": {"X": "a\nb"}}, ValueError),
        ({"policy": "never"}, TypeError),
        ({"policy": ReconnectPolicy}, TypeError),
        ({"idle_timeout": 0}, ValueError),
        ({"idle_timeout": -1}, ValueError),
        ({"event_timeout": float("nan")}, ValueError),
        ({"connect_timeout": float("inf")}, ValueError),
        ({"max_event_size": 0}, ValueError),
        ({"last_event_id": 7}, TypeError),
    ],
    ids=repr,
)
def test_invalid_argument_raises(cls: Any, options: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        cls(**{"url": "http://127.0.0.1", **options})


@pytest.mark.parametrize("method", ["post", "Post", "patch"])
def test_method_is_normalized_as_by_fetch(stage: Stage, method: str) -> None:
    """Fetch, "normalize a method": in upper case, except PATCH and unknown methods."""
    stage.plays = [STREAM_B]
    with EventSource(stage.url, method=method, policy=ReconnectPolicy.never()) as source:
        assert next(source).data
    assert stage.requests[0].method == ("patch" if method == "patch" else "POST")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_number_that_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        EventSource("http://127.0.0.1:1/", method="POST", json=value)


def test_form_field_of_none_is_left_out(stage: Stage) -> None:
    stage.plays = [stream()]
    form = {"a": None, "b": ["1", "2"], "c": ""}
    with EventSource(stage.url, method="POST", data=form) as source:
        assert [event.data for event in source] == ["a"]
    assert stage.requests[0].body == b"b=1&b=2&c="
