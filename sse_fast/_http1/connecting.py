"""Parts of a connection that the blocking and the asyncio transport share.

They are the checks of arguments, the TLS context, the socket options, and the errors.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sse_fast._errors import (
    NO_TLS,
    SSEError,
    StreamTimeout,
    TransportError,
    classify_tls_error,
)
from sse_fast._http1.message import Message, compose, refuse_proxy
from sse_fast._seconds import check_timeouts
from sse_fast._source import redact_url

if TYPE_CHECKING:
    import ssl

    from sse_fast._request import Request

# In seconds, and the number of probes: a vanished peer is detected after about two minutes.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


def prepare_request(
    request: Request,
    uds: Any,
    context: Any,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Message:
    """Serialize a request of the client, and check what it takes to send it.

    Raises:
        SSEError: a redirect leads away from a Unix socket, or a proxy is required.
        ValueError: the URL or a timeout is invalid.
        TypeError: `context` is not an `ssl.SSLContext`.
    """
    if request.cross_origin and uds is not None:
        raise SSEError(
            "The server on the Unix socket redirects to another origin, which this socket does "
            "not lead to"
        )
    message = compose(request)
    check_connection(message, uds, context, connect_timeout, idle_timeout)
    return message


def check_connection(
    request: Message,
    uds: Any,
    context: Any,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> None:
    """Check the arguments of a connection before it is made.

    Raises:
        SSEError: a proxy is required.
        ValueError: a timeout is invalid.
        TypeError: `context` is not an `ssl.SSLContext`.
    """
    if uds is None:
        refuse_proxy(request)
    if context is not None and not hasattr(context, "wrap_socket"):
        raise TypeError(f"Expected an ssl.SSLContext, got {type(context).__name__}")
    check_timeouts(connect_timeout=connect_timeout, idle_timeout=idle_timeout)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, possibly with a zone."""
    with suppress(ValueError):
        ip_address(host.partition("%")[0])
        return True
    return False


def server_name(request: Message) -> str:
    """Return the host as TLS names the server: without its zone or its last dot (RFC 6066, 3)."""
    return request.host.partition("%")[0].removesuffix(".")


def tls_context(context: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the caller's context, or one that trusts the authorities of the system.

    Raises:
        SSEError: a file that a variable of the environment names cannot be used.
    """
    if context is not None:
        return context
    try:
        # A change of these variables makes a new context.
        return _default_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    except OSError as error:
        raise SSEError(
            f"The TLS context cannot be made ({type(error).__name__}, see __cause__): check "
            "SSLKEYLOGFILE, SSL_CERT_FILE and SSL_CERT_DIR in the environment, or pass ssl_context"
        ) from error


@lru_cache(maxsize=1)
def _default_tls(file: str | None, directory: str | None) -> ssl.SSLContext:
    """Make a default context; cached, because that takes 20 ms."""
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def set_socket_options(sock: Any) -> None:
    """Send without delay, and detect a peer that vanished."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # No system has all of these options.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connection_error(phase: str, request: Message, error: Exception) -> TransportError:
    """Make the error for an exception of a socket before the response head was complete.

    Args:
        phase: "connect", "send" or "head".
        request: its URL is named, without query.
        error: the exception.
    """
    # asyncio.TimeoutError is not a TimeoutError before Python 3.11.
    kind = StreamTimeout if "Timeout" in type(error).__name__ else TransportError
    failed = "connection to" if phase == "connect" else "response from"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    refused = classify_tls_error(error)
    if refused == "protocol":
        reason = f"{NO_TLS} ({reason})"
    elif refused == "certificate":
        reason += _find_missing_authorities()
    failure = kind(
        f"No {failed} {redact_url(request.url)}: {reason}",
        phase=phase,
        sent=phase != "connect",
    )
    failure.permanent = refused != ""
    return failure


def _find_missing_authorities() -> str:
    """Return the end of a message that tells of a missing file of authorities, or ""."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(name)
        # OpenSSL ignores such a path.
        if path and not os.path.exists(path):
            return f"; {name} in the environment names a path that does not exist"
    return ""


def idle_error(seconds: float, phase: str) -> StreamTimeout:
    """Make the error for a wait that exceeded `idle_timeout`.

    Args:
        seconds: the timeout.
        phase: "head" or "body".
    """
    return StreamTimeout(
        f"No byte arrived within {seconds:g} seconds: increase idle_timeout if the server may be "
        "silent for longer",
        phase=phase,
    )


def head_error(seconds: float, has_begun: bool) -> StreamTimeout:
    """Make the error for a response head that exceeded `idle_timeout`.

    Args:
        seconds: the timeout.
        has_begun: whether a byte of the head arrived.
    """
    if not has_begun:
        return idle_error(seconds, "head")
    return StreamTimeout(
        f"The response head was not complete {seconds:g} seconds after the request: increase "
        "idle_timeout if the server may need longer",
        phase="head",
    )
