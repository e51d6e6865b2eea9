"""Responses of urllib3, read by `read1`, which returns what has arrived.

`stream()` would wait for whole chunks or full buffers, and decompress a chunk in one piece. An
uncompressed body is read from the http.client response inside, at a third of the cost. A silent
stream is waited for without limit unless `timeout=` sets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from sse_fast._errors import SSEError
from sse_fast._request import parse_url
from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source
from sse_fast.adapters._clients import (
    KNOWN_CODINGS,
    RaisingChunks,
    explain_refusal,
    find_response,
    find_undecoded,
    forbid_cross_origin,
    is_framed,
    is_overridden,
    raise_body_error,
    split_codings,
    wrap_body_error,
)
from sse_fast.adapters._connecting import (
    CertificateSettings,
    is_about_file,
    wrap_connection_error,
)
from sse_fast.adapters._registry import open_source as open_raw

if TYPE_CHECKING:
    import urllib3

    from sse_fast._request import Request

_UNSENT = {
    "ConnectTimeoutError",
    "EmptyPoolError",
    "NewConnectionError",
    "ProxyError",
    "SSLCertVerificationError",
}
_CERTIFICATES = CertificateSettings(
    "ca_certs, ca_cert_dir and ca_cert_data", "cert_file, key_file and key_password"
)


def open_source(original: urllib3.HTTPResponse) -> Source:
    """Return the source of a response of urllib3."""
    headers = Headers(original.headers.items())
    response = Response(original.status, headers, original.geturl() or "", original)
    framed = is_framed(headers)
    if original.closed and original.status != 204 and headers.get("content-length") != "0":
        # No public attribute tells a body that was read into memory, as `preload_content=True` does
        # by default, from one that was consumed.
        is_consumed = getattr(original, "_body", None) is None
        body = FailingChunks() if is_consumed else (original.data,)
        return Source(body, None, response, framed=framed)
    # No public attribute leads to the http.client response. Caches and tests replace it by a file.
    raw = getattr(original, "_fp", None)
    opened = open_raw(raw) if isinstance(raw, HTTPResponse) else Source(())
    undecoded = find_undecoded(headers, set(original.CONTENT_DECODERS))
    chunks: Iterator[bytes]
    if undecoded is not None:
        chunks = RaisingChunks(undecoded)
    elif not isinstance(raw, HTTPResponse) or (
        split_codings(headers) and not _has_meaningless_coding(headers)
    ):
        chunks = _Chunks(partial(original.read1, READ_SIZE, decode_content=True))
    else:
        chunks = _RawChunks(original, raw, cast("Iterator[bytes]", opened.chunks))
    close_raw, shut_down = opened.close, opened.wake

    def close() -> None:
        is_finished = close_raw is not None and close_raw()
        if not is_finished:
            original.close()
        # A closed connection goes back too: a pool may be waiting for it, and reopens it.
        original.release_conn()
        original.close()

    def wake() -> None:
        # After the end of the body, the connection may already carry another response.
        if original.connection is not None:
            (shut_down or original.shutdown)()

    connection: Any = original.connection
    if original.status < 200 and connection is not None:
        # http.client skips no interim response but 100. The final one is still to come, and the
        # next request on this connection would get it.
        connection.close()
    has_connection = connection is not None
    return Source(
        chunks,
        close,
        response,
        wake if shut_down is not None or has_connection else None,
        opened.reusable,
        framed,
        cut_heads=opened.cut_heads and not framed,
    )


def _has_meaningless_coding(headers: Headers) -> bool:
    """Return whether a list of codings has one that urllib3 takes for deflate."""
    codings = headers.get("content-encoding", "").lower().split(",")
    return len(codings) > 1 and not KNOWN_CODINGS.issuperset(map(str.strip, codings))


class _Chunks(Iterator[bytes]):
    """The pieces that a function returns, up to an empty one."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read

    def __next__(self) -> bytes:
        try:
            chunk = self._read()
        except Exception as error:
            raise_body_error(error)
        if chunk:
            return chunk
        raise StopIteration


class _RawChunks(Iterator[bytes]):
    """The chunks of the http.client response inside, whose adapter decodes them."""

    def __init__(
        self, original: urllib3.HTTPResponse, raw: HTTPResponse, chunks: Iterator[bytes]
    ) -> None:
        self._original = original
        self._raw = raw
        self._chunks = iter(chunks)

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            # The connection is free for the next request.
            self._raw.close()
            self._original.release_conn()
            raise
        except (HTTPException, OSError) as error:
            failure = wrap_body_error(error)
            if failure is error and not isinstance(error, TimeoutError):
                # The error that urllib3 raises itself, and that its users know.
                from urllib3.exceptions import ProtocolError

                failure = ProtocolError(f"Connection broken: {error!r}", error)
            try:
                if failure is error:
                    raise
                raise failure from error
            finally:
                # The traceback of the failure refers to this frame.
                del failure


def send(
    pool: urllib3.PoolManager,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through a pool manager, without retries or redirects.

    Raises:
        TransportError: no response came.
        Exception: whatever urllib3 refuses to send, or an override of the user raised.
    """
    import urllib3

    if request.cross_origin:
        for name in ("urlopen", "request"):
            if is_overridden(pool, name):
                raise forbid_cross_origin(request, f"the method {name!r} of {type(pool).__name__}")
    # urllib3 uses the header fields of the pool only if there are no others, and encodes a str as
    # Latin-1. Repeated fields are joined, whatever the case of their names.
    headers: dict[str, tuple[str, str]] = {}
    if not request.cross_origin:
        headers = {name.lower(): (name, value) for name, value in pool.headers.items()}
    own: dict[str, tuple[str, str]] = {}
    for name, value in request.fields:
        before, text = own.get(name.lower()), value.decode("latin-1")
        own[name.lower()] = (name, text if before is None else f"{before[1]}, {text}")
    try:
        response: Any = pool.request(
            request.method,
            _locate(pool, request),
            body=request.body,
            headers=urllib3.HTTPHeaderDict({**headers, **own}.values()),
            redirect=False,
            retries=False,
            preload_content=False,
            pool_timeout=connect_timeout,
            timeout=urllib3.Timeout(connect=connect_timeout, read=idle_timeout),
        )
    except Exception as error:
        found = find_response(error, urllib3.BaseHTTPResponse)
        if found is not None:
            return _open_with_url(found, request)
        if isinstance(error, (urllib3.exceptions.LocationValueError, ValueError)):
            # urllib3 refuses this URL or header.
            raise explain_refusal(request, error) from error
        is_of_network = isinstance(error, OSError) and not is_about_file(error)
        if not is_of_network and not isinstance(error, urllib3.exceptions.HTTPError):
            # An override of the user raised.
            raise
        proxy = str(getattr(pool, "proxy", None) or "")
        raise wrap_connection_error(request.url, error, _UNSENT, proxy, _CERTIFICATES) from error
    return _open_with_url(response, request)


def _locate(pool: Any, request: Request) -> str:
    """Return the URL, or its path for the pool of a single host."""
    import urllib3

    if not isinstance(pool, urllib3.HTTPConnectionPool):
        return request.url
    if not pool.is_same_host(request.url):
        raise SSEError(
            f"{type(pool).__name__} only reaches one host, and the request is for another: pass a "
            "urllib3.PoolManager"
        )
    return parse_url(request.url).path


def _open_with_url(original: Any, request: Request) -> Source:
    # A cassette may put another type of response in the place of urllib3's.
    opened = open_raw(original)
    if opened.response is not None:
        # urllib3 knows only the path.
        opened.response.url = request.url
    return opened
