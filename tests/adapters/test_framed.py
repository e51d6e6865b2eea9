"""A source tells whether the end of its body is marked, or just the end of the connection."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import urllib3

from sse_fast.adapters import open_source
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import AOPENERS, HTTPX, OPENERS, STREAM, open_httpx, read_async
from tests.support.faults import FaultServer, framed, head
from tests.support.server import Answer, Server

# http.client has an adapter, and tests, of its own.
LIBRARIES = {name: each for name, each in OPENERS.items() if "http.client" not in name}
LIBRARIES = {name: each for name, each in LIBRARIES.items() if "urllib.request" not in name}
FRAMED = {"chunked": True, "length": True, "close": False}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("name", LIBRARIES)
def test_source_tells_framing(name: str, framing: str, faults: FaultServer) -> None:
    faults.scripts["/"] = framed(framing, [STREAM])
    with LIBRARIES[name](faults.url + "/") as response:
        source = open_source(response)
        assert source.framed is FRAMED[framing]
        assert b"".join(source.chunks) == STREAM  # type: ignore[arg-type]


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("name", AOPENERS)
def test_async_source_tells_framing(name: str, framing: str, faults: FaultServer) -> None:
    faults.scripts["/"] = framed(framing, [STREAM])

    async def use(response: Any) -> None:
        source = open_source(response)
        assert source.framed is FRAMED[framing]
        assert source.resumable is (name == "aiohttp")
        assert b"".join([chunk async for chunk in source.chunks]) == STREAM  # type: ignore[union-attr]

    read_async(AOPENERS[name], faults.url + "/", use)


@pytest.mark.parametrize("name", ["requests", "urllib3", "httpx"])
def test_unknown_transfer_coding_is_not_framed(name: str, faults: FaultServer) -> None:
    """The end of the connection ends such a body."""
    faults.scripts["/"] = [head("Transfer-Encoding: identity"), STREAM]
    if name == "httpx":
        # h11 refuses it.
        with pytest.raises(Exception, match="Transfer-Encoding"), LIBRARIES[name](faults.url + "/"):
            pass
        return
    with LIBRARIES[name](faults.url + "/") as response:
        assert not open_source(response).framed


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_http2_is_framed(module: Any, hypercorn_server: AsgiServer) -> None:
    """END_STREAM marks the end, without any field."""
    hypercorn_server.answers["/"] = AsgiAnswer([STREAM])
    with open_httpx(module, hypercorn_server.url + "/", hypercorn_server.ca, True) as response:
        assert response.http_version == "HTTP/2"
        assert "content-length" not in response.headers
        assert open_source(response).framed


def test_body_read_before_is_framed_by_its_fields(server: Server) -> None:
    server.answers |= {"/a": Answer([STREAM], "length"), "/b": Answer([STREAM], "close")}
    for path, wanted in (("/a", True), ("/b", False)):
        for get in (requests.get, lambda url: urllib3.PoolManager().request("GET", url)):
            assert open_source(get(server.url + path)).framed is wanted
        for module in HTTPX:
            assert open_source(module.get(server.url + path)).framed is wanted
