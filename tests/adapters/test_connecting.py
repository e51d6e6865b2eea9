"""Faults before anything is sent: proxies that refuse to connect, and unusable certificate files.

A fault that another attempt would meet again is raised at the first.
"""

from __future__ import annotations

import ssl
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import urllib3

import sse_fast
from sse_fast import EventSource, ReconnectPolicy, SSEError, TransportError
from sse_fast._http1 import connecting
from tests.support.clients import HTTPX
from tests.support.eventsources import LIBRARIES, OURS, SOURCES, Way, way_params
from tests.support.scripted_server import Play, Stage, serve_stage
from tests.support.server import nobody

FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
CLIENTS = [way for way in SOURCES.values() if way.has_client]
EACH_CLIENT = pytest.mark.parametrize("way", way_params(CLIENTS, LIBRARIES))
HTTPX_NAMES = {module.__name__ for module in HTTPX}


@contextmanager
def make_proxied(proxy: str, **options: Any) -> Any:
    with urllib3.ProxyManager(proxy) as pool:
        yield pool


def ask_through(way: Way, proxy: str, url: str, **options: Any) -> Any:
    """Return the error of a source whose client uses the proxy."""
    if way.library == "urllib3":
        way = Way(way.name, lambda ca: make_proxied(proxy))
        client_options: dict[str, Any] = {}
    elif way.library == "requests":
        client_options = {"proxies": {"http": proxy, "https": proxy}}
    else:
        client_options = {"proxy": proxy}
    return way.read(url, policy=FAST, client_options=client_options, **options).error


# -- Proxies ---------------------------------------------------------------------------------------


@EACH_CLIENT
@pytest.mark.parametrize(
    ("status", "attempts"),
    [
        (407, 1),
        (502, 3),
        *(
            pytest.param(status, attempts, marks=pytest.mark.matrix)
            for status, attempts in [(302, 1), (403, 1), (404, 1), (429, 3), (503, 3), (504, 3)]
        ),
    ],
)
def test_proxy_that_refuses_is_told(stage: Stage, way: Way, status: int, attempts: int) -> None:
    """Nothing was sent to the server, so a POST may be sent again."""
    stage.plays = [Play(status, (), framing="length", body=[b"s3cret"])] * 9
    proxy = stage.origin.replace("//", "//user:s3cret@")
    url = "https://there.invalid/a?s3cret"
    error = ask_through(way, proxy, url, method="POST", data=b"s3cret")
    assert [request.method for request in stage.requests] == ["CONNECT"] * attempts
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent, error.phase) == (attempts == 1, False, "connect")
    # httpx tells nobody the proxy of a client.
    name = "The proxy" if way.library in HTTPX_NAMES else f"The proxy {stage.origin}"
    assert str(error).startswith(
        f"{name} refused to connect to https://there.invalid/a with status {status}: "
    )
    assert "s3cret" not in str(error)


@EACH_CLIENT
@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=pytest.mark.matrix)])
def test_proxy_that_is_not_reached_is_named(way: Way, scheme: str) -> None:
    with nobody() as origin:
        proxy = origin.replace("//", "//user:s3cret@")
        url = f"{scheme}://there.invalid/?s3cret"
        error = ask_through(way, proxy, url, method="POST", data=b"x")
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent, error.phase) == (False, False, "connect")
    if way.library not in HTTPX_NAMES:
        # aiohttp does not tell the scheme.
        name = origin.partition("//")[2] if way.library == "aiohttp" else origin
        assert f" through the proxy {name}: " in str(error)
    assert "s3cret" not in str(error)


@EACH_CLIENT
def test_proxy_that_answers_itself_is_a_response(stage: Stage, way: Way) -> None:
    stage.plays = [Play(407, (), framing="length")]
    error = ask_through(way, stage.origin, "http://there.invalid/")
    assert isinstance(error, sse_fast.ResponseError)
    assert (error.response.status, len(stage.requests)) == (407, 1)


@pytest.mark.parametrize("proxy", ["{}", "http://{}/", "http://user:s3cr%2Fet@{}"])
def test_proxy_of_environment_is_named(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    host = stage.origin.partition("//")[2]
    monkeypatch.setenv("https_proxy", proxy.format(host))
    monkeypatch.setenv("no_proxy", "")
    stage.plays = [Play(407, (), framing="length")]
    with requests.Session() as session, pytest.raises(TransportError) as caught:
        EventSource("https://there.invalid/", client=session).open()
    assert host in str(caught.value)
    assert "s3" not in str(caught.value)


# -- Certificate files -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, a key of another one, and files that are no certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    mine, other = authority.issue_cert("mine.invalid"), authority.issue_cert("other.invalid")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    other.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "junk.pem").write_text("junk")
    (folder / "folder.pem").mkdir()
    text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (folder / "broken.pem").write_text(text)
    return folder


@pytest.fixture(scope="module")
def tls_stage(files: Path) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with serve_stage(ssl_context=context) as stage:
        yield stage


# A folder is a valid `verify` of requests.
AUTHORITIES = ["missing.pem", "junk.pem", "broken.pem"]
CERTIFICATES = [
    ("missing.pem", None),
    ("junk.pem", None),
    ("folder.pem", None),
    ("broken.pem", None),
    ("cert.pem", None),
    ("cert.pem", "missing.pem"),
    ("cert.pem", "key.pem"),
]


def ask(client: Any, url: str) -> tuple[SSEError, int]:
    """Return the error that is raised, and the number of failures before it."""
    failures: list[Exception] = []
    source = EventSource(url, client=client, policy=FAST, on_error=failures.append)
    with closing(source), pytest.raises(SSEError) as caught:
        source.open()
    return caught.value, len(failures)


@pytest.mark.parametrize("name", AUTHORITIES)
def test_unusable_authorities_are_raised(tls_stage: Stage, files: Path, name: str) -> None:
    path = str(files / name)
    with requests.Session() as session, urllib3.PoolManager(ca_certs=path) as pool:
        session.trust_env, session.verify = False, path
        for client, setting in [(session, "verify"), (pool, "ca_certs")]:
            error, attempts = ask(client, tls_stage.url)
            assert attempts == 1
            assert not isinstance(error, TransportError)
            assert f"check {setting}" in str(error)
            assert error.__cause__ is not None


@pytest.mark.parametrize("names", CERTIFICATES, ids=str)
def test_unusable_certificate_is_raised(
    tls_stage: Stage, files: Path, names: tuple[str, str | None]
) -> None:
    certificate, key = (None if name is None else str(files / name) for name in names)
    authorities = str(files / "ca.pem")
    with (
        requests.Session() as session,
        urllib3.PoolManager(ca_certs=authorities, cert_file=certificate, key_file=key) as pool,
    ):
        session.trust_env, session.verify = False, authorities
        session.cert = certificate if key is None else (certificate, key)  # type: ignore[assignment]
        for client, setting in [(session, "cert"), (pool, "cert_file")]:
            error, attempts = ask(client, tls_stage.url)
            assert attempts == 1
            assert not isinstance(error, TransportError)
            assert f"check {setting}" in str(error)


def test_unusable_key_log_is_raised(
    tls_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a client: by our own transport, sync and asyncio."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    connecting._default_tls.cache_clear()
    with requests.Session() as session, urllib3.PoolManager() as pool:
        for client in (session, pool, None):
            error, attempts = ask(client, tls_stage.url)
            assert attempts == 1
            assert not isinstance(error, TransportError)
            assert "check SSLKEYLOGFILE" in str(error)
            assert error.__cause__ is not None
    error = SOURCES["sse_fast asyncio"].read(tls_stage.url, policy=FAST).error
    assert isinstance(error, SSEError)
    assert "check SSLKEYLOGFILE" in str(error)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_authorities_of_environment_are_named(
    tls_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "missing"))
    for way in OURS:
        error = way.read(tls_stage.url, policy=FAST).error
        assert isinstance(error, TransportError)
        assert error.permanent
        assert str(error).endswith(f"{name} in the environment names a path that does not exist")


def test_file_error_of_hook_is_raised_unchanged(stage: Stage, tmp_path: Path) -> None:
    def read(*args: Any, **options: Any) -> Any:
        return (tmp_path / "missing").read_text()

    class Pool(urllib3.PoolManager):
        urlopen = read

    with requests.Session() as session, Pool() as pool:
        session.hooks["response"] = [read]
        for client in (session, pool):
            error, attempts = ask(client, stage.url)
            assert attempts == 1
            assert isinstance(error.__cause__, FileNotFoundError)
            assert "certificate" not in str(error)
