"""Responses of requests: those of `stream=True` are read through the urllib3 response below.

A stream may be quiet for ever, unless `timeout=` says otherwise.
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


def open_source(response: requests.Response) -> Source:
    face = Response(
        response.status_code, Headers(response.headers.items()), response.url or "", response
    )
    # Nothing public tells whether the body was read; `content` would read it to its end.
    private: Any = response
    if private._content is not False:
        return Source((response.content or b"",), None, face)
    if private._content_consumed:
        return Source(FailingChunks(), None, face)
    below = open_raw(response.raw)

    def close() -> None:
        if below.close is not None:
            below.close()
        response.close()

    return below._replace(close=close, response=face)


def send(
    session: requests.Session,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    import requests

    # Bytes, as it refuses some values of str; those of one name as one field.
    headers: dict[str, Any] = {}
    for name, value in request.fields:
        headers[name] = b", ".join((headers[name], value)) if name in headers else value
    asked = requests.Request(request.method, request.url, headers, data=request.body)
    authorized = any(name.lower() == "authorization" for name in headers)
    if authorized or ("Authorization" in session.headers and session.auth is None):
        # Else what netrc says would replace it.
        asked.auth = _unchanged
    prepared = asked.prepare() if request.cross_origin else session.prepare_request(asked)
    if request.redirected:
        # Without the parameters of the session.
        prepared.prepare_url(request.url, None)
    options: Any = session.merge_environment_settings(prepared.url or "", {}, True, None, None)
    if request.cross_origin:
        options["cert"] = None
    try:
        response = _without_redirects(session).send(
            prepared, timeout=(connect_timeout, idle_timeout), allow_redirects=False, **options
        )
    except ValueError:
        # A URL or a header that it does not send.
        raise
    except requests.HTTPError as error:
        # By a hook of the user's: nobody else will close that response.
        if error.response is not None:
            error.response.close()
        raise
    except requests.RequestException as error:
        raise wrap_request_error(request.url, error, _UNSENT) from error
    return open_source(response)


def _unchanged(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _without_redirects(session: requests.Session) -> requests.Session:
    """A twin that shares all with the session, but does not read the body of a redirect to prepare
    for where it leads.
    """
    twin: Any = object.__new__(type(session))
    twin.__dict__.update(session.__dict__)
    twin.resolve_redirects = lambda *args, **kwargs: iter(())
    return twin  # type: ignore[no-any-return]
