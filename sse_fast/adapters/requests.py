"""Responses of requests. With `stream=True`, the urllib3 response inside is read.

`iter_content` would wait for full buffers. A silent stream is waited for without limit unless
`timeout=` sets one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sse_fast._source import FailingChunks, Headers, Response, Source
from sse_fast.adapters._clients import wrap_request_error
from sse_fast.adapters._registry import open_source as open_raw

if TYPE_CHECKING:
    import requests

    from sse_fast._request import Request

_UNSENT = {
    "ConnectTimeout",
    "ConnectTimeoutError",
    "NewConnectionError",
    "SSLCertVerificationError",
}


def open_source(original: requests.Response) -> Source:
    """Return the source of a response of requests."""
    response = Response(
        original.status_code, Headers(original.headers.items()), original.url or "", original
    )
    # No public attribute says whether the body was read, and `content` would read all of it.
    private: Any = original
    if private._content is not False:
        return Source((original.content or b"",), None, response)
    if private._content_consumed:
        return Source(FailingChunks(), None, response)
    raw = open_raw(original.raw)

    def close() -> None:
        if raw.close is not None:
            raw.close()
        original.close()

    return raw._replace(close=close, response=response)


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

    # Values are bytes, because requests refuses some str; repeated fields are joined.
    headers: dict[str, Any] = {}
    for name, value in request.fields:
        headers[name] = b", ".join((headers[name], value)) if name in headers else value
    unprepared = requests.Request(request.method, request.url, headers, data=request.body)
    authorized = any(name.lower() == "authorization" for name in headers)
    if authorized or ("Authorization" in session.headers and session.auth is None):
        # Without an auth, requests would replace the Authorization by that of netrc.
        unprepared.auth = _keep_authorization
    prepared = unprepared.prepare() if request.cross_origin else session.prepare_request(unprepared)
    if request.redirected:
        # The URL of a redirect is used as it is, without the parameters of the session.
        prepared.prepare_url(request.url, None)
    options: Any = session.merge_environment_settings(prepared.url or "", {}, True, None, None)
    if request.cross_origin:
        options["cert"] = None
    try:
        response = _without_redirects(session).send(
            prepared, timeout=(connect_timeout, idle_timeout), allow_redirects=False, **options
        )
    except ValueError:
        # requests refuses this URL or header.
        raise
    except requests.HTTPError as error:
        # A hook of the user raised it; nothing else will close that response.
        if error.response is not None:
            error.response.close()
        raise
    except requests.RequestException as error:
        raise wrap_request_error(request.url, error, _UNSENT) from error
    return open_source(response)


def _keep_authorization(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _without_redirects(session: requests.Session) -> requests.Session:
    """Return a shallow copy of the session that does not resolve redirects.

    requests would read the body of a redirect even with `allow_redirects=False`.
    """
    copy: Any = object.__new__(type(session))
    copy.__dict__.update(session.__dict__)
    copy.resolve_redirects = lambda *args, **kwargs: iter(())
    return copy  # type: ignore[no-any-return]
