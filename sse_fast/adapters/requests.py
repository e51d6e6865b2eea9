"""Responses of requests. With `stream=True`, the urllib3 response inside is read.

`iter_content` would wait for full buffers. A silent stream is waited for without limit unless
`timeout=` sets one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._errors import TransportError
from sse_fast._source import MAX_BODY, FailingChunks, Headers, Response, Source
from sse_fast._wake import drain
from sse_fast.adapters._clients import (
    can_use_auth,
    explain_refusal,
    find_response,
    forbid_cross_origin,
    is_framed,
    iter_exception_chain,
)
from sse_fast.adapters._connecting import (
    CertificateSettings,
    is_about_file,
    wrap_connection_error,
)
from sse_fast.adapters._registry import open_source as open_raw

if TYPE_CHECKING:
    import requests

    from sse_fast._request import Request

_UNSENT = {
    "ConnectTimeout",
    "ConnectTimeoutError",
    "NewConnectionError",
    "ProxyError",
    "SSLCertVerificationError",
}
_CERTIFICATES = CertificateSettings("verify, or REQUESTS_CA_BUNDLE in the environment", "cert")


def open_source(original: requests.Response) -> Source:
    """Return the source of a response of requests."""
    response = Response(
        original.status_code, Headers(original.headers.items()), original.url or "", original
    )
    framed = is_framed(response.headers)
    # No public attribute says whether the body was read, and `content` would read all of it.
    private: Any = original
    if private._content is not False:
        return Source((original.content or b"",), None, response, framed=framed)
    if private._content_consumed:
        return Source(FailingChunks(), None, response)
    raw = open_raw(original.raw)

    def close() -> None:
        if raw.close is not None:
            raw.close()
        original.close()

    return raw._replace(close=close, response=response, framed=framed)


def send(
    session: requests.Session,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through a session, without following redirects.

    Raises:
        TransportError: no response came.
        Exception: whatever requests refuses to send, or a hook of the user raised.
    """
    import requests
    import urllib3

    headers: dict[str, str] = {}
    for name, value in request.fields:
        # requests encodes a str as Latin-1. Repeated fields are joined.
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    names = {name.lower() for name in headers}
    options: dict[str, Any] = {}
    if request.cross_origin:
        session = _make_bare_session(session, request)
    own_auth = session.auth is not None and can_use_auth(session.auth, request)
    authorized = "authorization" in names or "Authorization" in session.headers
    if request.cross_origin or (authorized and not own_auth):
        # Without an auth, requests would use that of netrc.
        options["auth"] = _keep_authorization
    if request.redirected and isinstance(session.params, Mapping):
        # The URL of a redirect is used as it is, without the parameters of the session.
        options["params"] = dict.fromkeys(session.params)
    watcher = _ResponseWatcher()
    hooks = session.hooks.get("response") or []
    hooks = hooks if isinstance(hooks, list) else [hooks]
    options["hooks"] = {"response": [watcher.see, *hooks, watcher.read_redirect]}
    try:
        response = session.request(
            request.method,
            request.url,
            headers=headers,
            data=request.body,
            stream=True,
            allow_redirects=False,
            timeout=(connect_timeout, idle_timeout),
            **options,
        )
    except Exception as error:
        seen, redirect = watcher.take()
        # A hook of the user, or requests on account of the Location, may raise although there is a
        # response.
        if redirect is not None:
            return redirect
        found = find_response(error, requests.Response)
        if found is not None:
            return open_source(found)
        if seen is not None:
            # Nothing else would close it.
            seen.close()
        status = _find_final_status(error)
        if status is not None:
            head = Response(status, Headers(), request.url, error)
            return Source((), None, head, framed=True)
        if isinstance(error, ValueError):
            # requests refuses this URL or header.
            raise explain_refusal(request, error) from error
        # A session that caches reads the body, which raises errors of urllib3.
        is_of_library = isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError))
        if not is_of_library and not isinstance(error, OSError):
            raise
        proxy = _find_proxy(session, request.url)
        failure = wrap_connection_error(request.url, error, _UNSENT, proxy, _CERTIFICATES)
        try:
            if not is_of_library and is_about_file(error) and isinstance(failure, TransportError):
                # A hook or an auth of the user raised.
                raise
            raise failure from error
        finally:
            # The traceback of the failure refers to this frame.
            del failure
    seen, redirect = watcher.take()
    if redirect is not None and seen is response:
        return redirect
    return open_source(response)


def _find_final_status(error: Exception) -> int | None:
    """Return the status at which a `Retry` of the session gave up; None: it was no status."""
    import urllib3

    for each in iter_exception_chain(error):
        if isinstance(each, urllib3.exceptions.ResponseError):
            # This text is all that urllib3 keeps of the response.
            match = re.fullmatch(r"too many (\d{3}) error responses", str(each))
            return None if match is None else int(match[1])
    return None


def _find_proxy(session: requests.Session, url: str) -> str:
    """Return the proxy that the session uses for a URL, or ""."""
    from requests.utils import select_proxy

    # The method may be overridden.
    with suppress(Exception):
        merged = session.merge_environment_settings(url, {}, None, None, None)
        return select_proxy(url, merged["proxies"]) or ""
    return ""


def _keep_authorization(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _make_bare_session(session: requests.Session, request: Request) -> requests.Session:
    """Return a session with the connections of the given one, and nothing else of the caller's.

    It must not be closed, because that would close the connections.
    """
    import requests
    from requests.adapters import HTTPAdapter

    adapter = session.get_adapter(request.url)
    if type(adapter) is not HTTPAdapter:
        name = f"{type(adapter).__module__}.{type(adapter).__qualname__}"
        raise forbid_cross_origin(request, f"the mounted adapter {name}")
    bare = requests.Session()
    for prefix, each in session.adapters.items():
        bare.mount(prefix, each)
    bare.verify = session.verify
    bare.proxies = dict(session.proxies)
    bare.trust_env = session.trust_env
    return bare


class _ResponseWatcher:
    """Response hooks, around those of the user, that see what requests does with a response."""

    def __init__(self) -> None:
        self._seen: requests.Response | None = None
        self._redirect: Source | None = None

    def take(self) -> tuple[requests.Response | None, Source | None]:
        """Return the latest response, and the source of a redirect; forget both.

        A response refers to its hooks, so they must not refer to it any longer.
        """
        taken = self._seen, self._redirect
        self._seen = self._redirect = None
        return taken

    def see(self, response: requests.Response, *args: object, **options: object) -> None:
        """Remember the response, before the hooks of the user get it."""
        self._seen = response

    def read_redirect(self, response: requests.Response, *args: object, **options: object) -> None:
        """Read the body of a redirect for at most 50 ms.

        Even with `allow_redirects=False`, requests reads the whole body before it returns it.
        """
        self._seen = response
        if not response.is_redirect:
            return
        opened = open_source(response)
        assert isinstance(opened.chunks, Iterable)
        body = bytearray()
        chunks = _collect(iter(opened.chunks), body)
        if opened.wake is not None:
            drain(chunks, opened.wake)
        else:
            # Without a connection, for example in a test, the body is in memory.
            while len(body) < MAX_BODY and next(chunks, b""):
                pass
        if opened.close is not None:
            opened.close()
        self._redirect = Source((bytes(body),), None, opened.response, framed=opened.framed)


def _collect(chunks: Iterator[bytes], body: bytearray) -> Iterator[bytes]:
    for chunk in chunks:
        body += chunk[: MAX_BODY - len(body)]
        yield chunk
