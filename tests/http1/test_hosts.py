"""The host of a URL is the same over every client, and in TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import trustme
import urllib3

from sse_fast import (
    AsyncEventSource,
    EventSource,
    ReconnectPolicy,
    TransportError,
    aopen_stream,
    open_stream,
)
from sse_fast._request import parse_url, resolve_location
from sse_fast._source import redact_url
from tests.support.clients import HTTPX
from tests.support.faults import FaultServer, framed

STREAM = b"data: a\n\n"
NEVER = ReconnectPolicy.never()
IDN = "xn--fa-hia.example"


def by_source(url: str, client: Any) -> list[str]:
    try:
        with EventSource(url, policy=NEVER, client=client) as source:
            return [event.data for event in source]
    finally:
        if client is not None and not isinstance(client, urllib3.PoolManager):
            client.close()


def by_async_source(url: str, make: Callable[[], Any]) -> list[str]:
    async def run() -> list[str]:
        client = make()
        try:
            async with AsyncEventSource(url, policy=NEVER, client=client) as source:
                return [event.data async for event in source]
        finally:
            if client is not None:
                await (client.close() if hasattr(client, "close") else client.aclose())

    return asyncio.run(run())


def by_open_stream(url: str, **options: Any) -> list[str]:
    with open_stream(url, **options) as stream:
        return [event.data for event in stream]


def by_aopen_stream(url: str, **options: Any) -> list[str]:
    async def run() -> list[str]:
        async with aopen_stream(url, **options) as stream:
            return [event.data async for event in stream]

    return asyncio.run(run())


ROUTES: dict[str, Callable[[str], list[str]]] = {
    "open_stream": by_open_stream,
    "aopen_stream": by_aopen_stream,
    "EventSource": lambda url: by_source(url, None),
    "AsyncEventSource": lambda url: by_async_source(url, lambda: None),
    "requests": lambda url: by_source(url, requests.Session()),
    "urllib3": lambda url: by_source(url, urllib3.PoolManager()),
    "aiohttp": lambda url: by_async_source(url, aiohttp.ClientSession),
}
for library in HTTPX:
    ROUTES[library.__name__] = lambda url, library=library: by_source(
        url, library.Client(trust_env=False)
    )
    ROUTES[f"{library.__name__} async"] = lambda url, library=library: by_async_source(
        url, lambda: library.AsyncClient(trust_env=False)
    )


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were looked up; all lead to loopback."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name != "127.0.0.1":
            asked.append(name)
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("fa\u00df.example", IDN),
        ("FA%C3%9F.example", IDN),
        ("Docker_Name", "docker_name"),
        ("βόλος.example", "xn--nxasmm1c.example"),
    ],
)
def test_every_client_asks_the_same_host(
    lookups: list[str], faults: FaultServer, route: str, host: str, expected: str
) -> None:
    port = faults.server_address[1]
    faults.scripts["/b"] = framed("length", [STREAM])
    assert ROUTES[route](f"http://{host}:{port}/a/..\\b") == ["a"]
    assert set(lookups) == {expected}
    lines = faults.requests[0].lower().split(b"\r\n")
    assert f"host: {expected}:{port}".encode() in lines


def test_urls_are_compared_normalized() -> None:
    for first, second in (
        ("http://h:80/", "http://H"),
        ("http://fa\u00df.de/", "http://xn--fa-hia.de/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[0::1]/", "http://[::1]:80/"),
    ):
        assert parse_url(first).origin == parse_url(second).origin
        assert parse_url(first).url == parse_url(second).url
    assert parse_url("http://u:p@[fe80::1%25eth0]:1/a#b").url == "http://[fe80::1%25eth0]:1/a"
    assert parse_url("http://h").origin != parse_url("http://h.").origin


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/\\other/x", "http://other/x"),
        ("\\\\other\\x?a\\b", "http://other/x?a%5Cb"),
        ("\\x", "http://host/x"),
        ("///other/x", "http://other/x"),
        ("https:/other/x", "https://other/x"),
        ("https:other", "https://other/"),
        ("http:x", "http://host/dir/x"),
        ("HTTP://Fa\u00df.de:80/../x", "http://xn--fa-hia.de/x"),
        ("%2e%2e/x", "http://host/x"),
        ("?a=/../b", "http://host/dir/file?a=/../b"),
        ("http://u:p@other/", "http://other/"),
        ("http://u:a[b]@other/", "http://other/"),
        ("", "http://host/dir/file?q"),
        ("#x", "http://host/dir/file?q"),
        ("?", "http://host/dir/file?"),
        ("//other?", "http://other/?"),
        ("x?a/../b#c", "http://host/dir/x?a/../b"),
        ("../..//x", "http://host//x"),
        ("x:y", None),
        ("x/y:z", "http://host/dir/x/y:z"),
        (":x", "http://host/dir/:x"),
        (" /a\tb\r\n ", "http://host/ab"),
        ("http://256.0.0.1/", None),
        ("http://xn--a/", None),
        ("http://other:99999/", None),
    ],
)
def test_location_is_resolved_as_in_browsers(location: str, expected: str | None) -> None:
    assert resolve_location("http://host/dir/file?q", location) == expected


@pytest.mark.parametrize(
    ("userinfo", "user"),
    [
        ("user:a[b]c", "user:a[b]c"),
        ("[u]:p", "[u]:p"),
        ("u:p@q", "u:p@q"),
        ("u%40:%5Bp", "u@:[p"),
        ("u:\u2100", "u:\u2100"),
        ("u:p q", "u:p q"),
        ("u", "u:"),
        (":", None),
        ("", None),
    ],
)
def test_user_of_url_is_read_as_in_browsers(userinfo: str, user: str | None) -> None:
    """The answer of urlsplit() depends on the version of Python."""
    target = parse_url(f"http://{userinfo}@host/x?y@z")
    assert (target.user, target.url) == (user, "http://host/x?y@z")
    assert redact_url(f"http://{userinfo}@host/x@y?z#w") == "http://host/x@y"


@pytest.mark.parametrize(
    ("port", "expected"), [("", 80), ("0", 0), ("00", 0), ("0000000000081", 81), ("65535", 65535)]
)
def test_port_of_url_is_read_as_in_browsers(port: str, expected: int) -> None:
    target = parse_url(f"http://h:{port}")
    assert target.port == expected
    assert target.authority == ("h" if expected == 80 else f"h:{expected}")


def test_missing_idna_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idna", None)
    for opening in (open_stream, aopen_stream, EventSource):
        with pytest.raises(ValueError, match=r"needs idna.*'sse-fast\[client\]'") as raised:
            opening("http://secret\u00df.example/")
        assert "secret" not in str(raised.value)
    # Other hosts do not need it.
    assert parse_url("http://A_b.Example:80/").url == "http://a_b.example/"
    assert parse_url("http://XN--fa-hia.de/").host == "xn--fa-hia.de"


# -- TLS -------------------------------------------------------------------------------------------


@contextmanager
def serve_tls(authority: trustme.CA, name: str) -> Iterator[tuple[int, list[str | None]]]:
    """Serve one event a connection, with a certificate for the name; yields the asked names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    stopped = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.05)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                try:
                    connection.settimeout(10)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(65536)
                        for step in framed("length", [STREAM]):
                            secured.sendall(step)  # type: ignore[arg-type]
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            stopped.set()
            thread.join(10)


@pytest.mark.parametrize("reading", [by_open_stream, by_aopen_stream])
def test_tls_names_the_encoded_host(lookups: list[str], tmp_path: Path, reading: Any) -> None:
    authority = trustme.CA()
    file = os.fspath(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(file)
    context = ssl.create_default_context(cafile=file)
    with serve_tls(authority, IDN) as (port, asked):
        for host in ("fa\u00df.example", f"{IDN}.", IDN.upper()):
            assert reading(f"https://{host}:{port}/", ssl_context=context) == ["a"]
            assert asked.pop() == IDN
        # By IDNA 2003, it would be this one.
        with pytest.raises(TransportError, match=r"[Hh]ostname mismatch"):
            reading(f"https://fass.example:{port}/", ssl_context=context)
    assert lookups[0] == IDN
