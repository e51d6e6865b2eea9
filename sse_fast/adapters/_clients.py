"""The supported HTTP clients: which adapter sends by which, and what their errors mean.

A client of the user is used by its public methods only. The tables name classes of libraries, so
that nothing here imports one.
"""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin

from sse_fast._errors import (
    NO_TLS,
    SSEError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
    classify_tls_error,
)
from sse_fast._request import parse_url
from sse_fast._source import qualified_type_name, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from sse_fast._request import Request

__all__ = [
    "KNOWN_CODINGS",
    "AsyncRaisingChunks",
    "Fault",
    "RaisingChunks",
    "can_use_auth",
    "classify_error",
    "explain_refusal",
    "find_response",
    "find_undecoded",
    "forbid_cross_origin",
    "is_framed",
    "is_overridden",
    "iter_exception_chain",
    "join_base_url",
    "library_class",
    "raise_body_error",
    "resolve_send",
    "split_codings",
    "wrap_body_error",
    "wrap_request_error",
]

_CLIENTS: dict[str, tuple[str, bool]] = {
    "aiohttp.client.ClientSession": ("aiohttp", True),
    "httpx.AsyncClient": ("httpx", True),
    "httpx.Client": ("httpx", False),
    "httpx2.AsyncClient": ("httpx", True),
    "httpx2.Client": ("httpx", False),
    "requests.sessions.Session": ("requests", False),
    # The base of pool managers, of pools of one host, and of google.auth's AuthorizedHttp.
    "urllib3._request_methods.RequestMethods": ("urllib3", False),
}
"""Type name of a client -> the name of its library for `_load_send`, and whether it is async."""

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")

_LIBRARIES = {"aiohttp", "httpx", "httpx2", "requests", "urllib3"}


# -- Sending ---------------------------------------------------------------------------------------


def resolve_send(client: Any, *, is_async: bool) -> Callable[..., Any]:
    """Find the function that sends a `Request` by a client.

    Args:
        client: a client of a supported library; None: the transport of sse_fast.
        is_async: whether the function is to be awaited.

    Returns:
        `send(request, connect_timeout, idle_timeout) -> Source`, awaitable if `is_async`. It never
        follows redirects.

    Raises:
        TypeError: the client is not supported, or is sync instead of async or the reverse.
        ImportError: a library is missing: httptools for the own transport, anyio if `is_async`.
    """
    # Missing libraries are reported before anything is sent.
    if is_async:
        try:
            import anyio  # noqa: F401
        except ImportError:
            raise ImportError(
                "AsyncEventSource needs anyio, which is not installed: pip install "
                "'sse-fast[client]'"
            ) from None
    if client is None:
        from sse_fast._http1.exchange import load_httptools

        load_httptools()
        return partial(_load_send("", is_async), None)
    for cls in type(client).__mro__:
        library, awaited = _CLIENTS.get(f"{cls.__module__}.{cls.__qualname__}", ("", is_async))
        if awaited != is_async:
            other = "AsyncEventSource" if awaited else "EventSource"
            raise TypeError(
                f"Expected a client whose calls are {'' if is_async else 'not '}awaited, got "
                f"{qualified_type_name(client)}: use {other}"
            )
        if library:
            return partial(_load_send(library, is_async), client)
    raise TypeError(
        "Expected a requests.Session, a urllib3.PoolManager, a client of httpx or httpx2 or an "
        f"aiohttp.ClientSession, got {qualified_type_name(client)}"
    )


def _load_send(library: str, is_async: bool) -> Callable[..., Any]:
    """Import the function that sends by a library; "" is the transport of sse_fast.

    The imports are written out for freezing tools.
    """
    if library == "aiohttp":
        from sse_fast.adapters import aiohttp

        return aiohttp.asend
    if library == "httpx":
        from sse_fast.adapters import httpx

        return httpx.asend if is_async else httpx.send
    if library == "requests":
        from sse_fast.adapters import requests

        return requests.send
    if library == "urllib3":
        from sse_fast.adapters import urllib3

        return urllib3.send
    assert library == "", f"no branch for the library {library!r}"
    if is_async:
        from sse_fast._http1 import aio

        return aio.asend
    from sse_fast._http1 import blocking

    return blocking.send


def join_base_url(client: Any, url: Any) -> Any:
    """Return the URL for which a client with a `base_url` would ask, if it is relative.

    Args:
        client: a client of a supported library, or None.
        url: the URL that the user gave.
    """
    base = str(getattr(client, "base_url", None) or "")
    if not isinstance(url, str) or _ABSOLUTE.match(url) or not _ABSOLUTE.match(base):
        return url
    if library_class(client).__module__.startswith("httpx"):
        # The clients of httpx append every path. Sessions of requests resolve it.
        return f"{base.rstrip('/')}/{url.lstrip('/')}"
    return urljoin(base, url)


def library_class(client: object) -> Any:
    """Return the class of a client, or its nearest base class that its library defines itself."""
    for cls in type(client).__mro__:
        if cls.__module__.partition(".")[0] in _LIBRARIES:
            return cls
    raise AssertionError(f"{qualified_type_name(client)} belongs to no known library")


def is_overridden(client: object, name: str) -> bool:
    """Return whether a method of the client is not that of its library."""
    method = getattr(client, name)
    return getattr(method, "__func__", method) is not getattr(library_class(client), name)


def forbid_cross_origin(request: Request, seen_by: str) -> SSEError:
    """Make the error for a request to another origin that code of the caller would see.

    Args:
        request: the request.
        seen_by: what would see it, as the subject of a sentence.
    """
    target = parse_url(request.url)
    origin = f"{target.scheme}://{target.authority}"
    return SSEError(
        f"The request to another origin, {origin}, is not sent: {seen_by} would see it, and might "
        f"add credentials. Add {origin!r} to trusted_origins of the policy if it may have them"
    )


def can_use_auth(auth: object, request: Request) -> bool:
    """Return whether the auth of a client may handle the request.

    An Authorization field of the source replaces a user and a password. Any other auth, for example
    one that signs requests, is used whatever the fields are.
    """
    is_basic = isinstance(auth, tuple) or "BasicAuth" in type(auth).__name__
    return not is_basic or all(name.lower() != "authorization" for name, _ in request.fields)


# -- Responses -------------------------------------------------------------------------------------

KNOWN_CODINGS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})
"""The codings that clients are known to decode. Any other coding is taken for identity."""


def split_codings(headers: Mapping[str, str]) -> list[str]:
    """Return the content codings of a response, in lower case, without those that mean nothing."""
    codings = headers.get("content-encoding", "").lower().split(",")
    return [each.strip() for each in codings if each.strip() not in ("", "identity")]


def find_undecoded(headers: Mapping[str, str], decoded: AbstractSet[str]) -> TransportError | None:
    """Return the error for a body that a library leaves encoded, or None.

    The encoded bytes would look like a stream without events.

    Args:
        headers: the header fields of the response.
        decoded: the codings that the library decodes.
    """
    missing = [each for each in split_codings(headers) if each in KNOWN_CODINGS - decoded]
    if not missing:
        return None
    error = TransportError(
        f"The content coding {', '.join(missing)!r} of the body is not decoded: install what the "
        "library needs for it, or request 'Accept-Encoding: identity'"
    )
    error.permanent = True
    return error


class RaisingChunks(Iterator[bytes]):
    """Chunks that raise an error in the place of the first one."""

    def __init__(self, error: TransportError) -> None:
        self._error = error

    def __next__(self) -> bytes:
        raise self._error


class AsyncRaisingChunks(AsyncIterator[bytes]):
    """`RaisingChunks` for async iteration."""

    def __init__(self, error: TransportError) -> None:
        self._error = error

    async def __anext__(self) -> bytes:
        raise self._error


def is_framed(headers: Mapping[str, str], http_version: str = "HTTP/1.1") -> bool:
    """Return whether the end of a body is marked, so that a crash cannot be taken for it.

    Args:
        headers: the header fields of the response.
        http_version: as httpx writes it.
    """
    if not http_version.startswith("HTTP/1"):
        # END_STREAM
        return True
    transfer = headers.get("transfer-encoding", "").lower()
    return "chunked" in transfer or ("content-length" in headers and not transfer)


# -- Errors ----------------------------------------------------------------------------------------


class Fault(enum.Enum):
    """The meaning of an error of a library."""

    CUT_OFF = "The connection ended within the response"
    INVALID = "The bytes are not valid HTTP, or not in their content coding"
    CERTIFICATE = "A certificate was refused"
    TLS = NO_TLS
    NAME = "The name of the host was not resolved"
    TIMEOUT = "Nothing arrived in time"
    NETWORK = "The connection failed"

    @property
    def is_permanent(self) -> bool:
        """Whether the same request would fail again."""
        return self in (Fault.INVALID, Fault.CERTIFICATE, Fault.TLS)


_CERTIFICATE_ERRORS = {"SSLCertVerificationError", "CertificateError", "ServerFingerprintMismatch"}
_NAME_ERRORS = {"gaierror", "NameResolutionError", "ClientConnectorDNSError"}
_CODING_ERRORS = {
    "ContentDecodingError",
    "ContentEncodingError",
    "DecodeError",
    "DecodingError",
}


def classify_error(error: BaseException) -> Fault:
    """Tell what an error of a library means; this depends on names and texts of its classes."""
    layers = list(iter_exception_chain(error))
    names = [{cls.__name__ for cls in type(each).__mro__} for each in layers]
    refused = {classify_tls_error(each) for each in layers}
    if "certificate" in refused or any(each & _CERTIFICATE_ERRORS for each in names):
        return Fault.CERTIFICATE
    if "protocol" in refused:
        return Fault.TLS
    if any(each & _NAME_ERRORS for each in names):
        return Fault.NAME
    # The base classes do not count: in urllib3, a refused connection is derived from a timeout.
    if any("Timeout" in type(each).__name__ for each in layers):
        return Fault.TIMEOUT
    # The innermost error knows best.
    for each, bases in zip(reversed(layers), reversed(names), strict=True):
        fault = _classify_layer(each, bases)
        if fault is not None:
            return fault
    return Fault.NETWORK


def _classify_layer(error: BaseException, names: set[str]) -> Fault | None:
    package = type(error).__module__.partition(".")[0]
    text = str(error)
    if names & _CODING_ERRORS:
        return Fault.INVALID
    if "IncompleteRead" in names:
        return Fault.CUT_OFF if _is_end_of_chunks(error) else Fault.INVALID
    if isinstance(error, ConnectionError):
        # RemoteDisconnected is a BadStatusLine too.
        return Fault.CUT_OFF if "RemoteDisconnected" in names else Fault.NETWORK
    if package == "http" and "HTTPException" in names:
        # A status line that was received in full ends with LF.
        is_cut_off = "BadStatusLine" in names and not text.endswith("\n")
        return Fault.CUT_OFF if is_cut_off else Fault.INVALID
    if package == "aiohttp" and "HttpProcessingError" in names:
        is_cut_off = "Not enough data" in text or "ContentLengthError" in names
        # A bare HttpProcessingError only says that the parser has raised another one.
        return Fault.CUT_OFF if is_cut_off else Fault.INVALID
    if package == "h11" and "ProtocolError" in names:
        return Fault.CUT_OFF if "closed connection" in text else Fault.INVALID
    if "InvalidBodyLengthError" in names:
        is_short = getattr(error, "actual_length", 0) < getattr(error, "expected_length", 0)
        return Fault.CUT_OFF if is_short else Fault.INVALID
    if package == "h2" and "ProtocolError" in names:
        # A stream may be closed by either side at any time.
        return None if names & {"NoSuchStreamError", "TooManyStreamsError"} else Fault.INVALID
    return None


def _is_end_of_chunks(error: BaseException) -> bool:
    """Return whether the end of the connection, not an invalid size, ended a chunked body."""
    length = getattr(error, "length", None)
    if isinstance(length, bytes):
        # InvalidChunkLength of urllib3
        return not length
    # http.client raises IncompleteRead for an invalid size, too, while it handles a ValueError.
    context = error.__context__
    return not isinstance(context, ValueError) or str(context).endswith(" b''")


def wrap_request_error(
    url: str, error: Exception, unsent: AbstractSet[str], via: str = ""
) -> TransportError:
    """Make a `TransportError` of the error that a library raised instead of a response.

    Args:
        url: the URL of the request.
        error: the library's error.
        unsent: names of exception classes which guarantee that no byte of the request was sent.
        via: for the message, the proxy through which the connection failed.
    """
    all_layers = list(iter_exception_chain(error))
    names = {cls.__name__ for each in all_layers for cls in type(each).__mro__}
    sent = not names & unsent
    fault = classify_error(error)
    kind = StreamTimeout if fault is Fault.TIMEOUT else TransportError
    # The text of the library's own errors is withheld, because it may contain the query.
    reasons = (each.strerror for each in all_layers if isinstance(each, OSError))
    reason = next((each for each in reasons if isinstance(each, str)), type(error).__name__)
    if fault in (Fault.INVALID, Fault.TLS):
        reason = f"{fault.value} ({reason})"
    failure = kind(
        f"No {'response from' if sent else 'connection to'} {redact_url(url)}{via}: {reason}",
        phase="head" if sent else "connect",
        sent=sent,
    )
    failure.permanent = fault.is_permanent
    return failure


def wrap_body_error(error: Exception) -> Exception:
    """Return the error to raise for an error of a library in the middle of a body.

    It is the error itself, which the stream wraps, unless another attempt would fail in the same
    way.
    """
    if isinstance(error, SSEError):
        return error
    fault = classify_error(error)
    if not fault.is_permanent:
        return error
    failure = TransportError(f"Reading the stream failed: {fault.value} ({type(error).__name__})")
    failure.permanent = True
    failure.__cause__ = error
    return failure


def raise_body_error(error: Exception) -> NoReturn:
    """Raise what `wrap_body_error` makes of an error, without a cycle through this frame."""
    failure = wrap_body_error(error)
    try:
        raise failure
    finally:
        # The traceback of the failure refers to this frame.
        del error, failure


def explain_refusal(request: Request, error: Exception) -> Exception:
    """Return the error to raise for a request that a library refused to send.

    Args:
        request: the request, of which nothing was sent.
        error: the library's error, which becomes the cause.
    """
    ids = [value for name, value in request.fields if name.lower() == "last-event-id"]
    if any(re.search(rb"[\x00-\x1f\x7f]", each) for each in ids):
        explained: SSEError = StreamIncomplete(
            "The last event ID contains control characters, which the client refuses to send "
            f"({type(error).__name__}): set last_event_id to resume from another one, or to '' to "
            "start anew"
        )
    else:
        explained = SSEError(
            f"The client refuses to send the request: {type(error).__name__} (see __cause__)"
        )
    explained.__cause__ = error
    return explained


def find_response(error: BaseException, cls: type | tuple[type, ...]) -> Any:
    """Return the response that an exception of a hook refers to, if it is one of a bad status.

    Args:
        error: what the library or a hook of the user raised, for example by `raise_for_status`.
        cls: the class of responses.
    """
    if isinstance(error, SSEError):
        # A hook that raises one of our errors says itself what is to follow.
        return None
    for each in iter_exception_chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, cls):
            status: int = getattr(response, "status_code", 0) or getattr(response, "status", 0)
            return response if status >= 300 else None
    return None


def iter_exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that it wraps, as a cause, a reason or an argument."""
    found: list[Any] = [error]
    for each in found:
        if isinstance(each, BaseException):
            yield each
            # __context__ is left out: it may be an error that the caller was already handling.
            if len(found) < 64:
                found += [each.__cause__, getattr(each, "reason", None), *each.args]
