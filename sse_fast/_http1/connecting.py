"""What both transports need to connect: argument checks, TLS, socket options, failures."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sse_fast._errors import SSEError, StreamTimeout, TransportError
from sse_fast._http1.message import Message, compose, refuse_proxy
from sse_fast._source import redact_url

if TYPE_CHECKING:
    import ssl

    from sse_fast._request import Request

# Seconds, seconds and probes: a peer that is gone is noticed after some two minutes.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
MAX_SECONDS = 1e9
"""Some thirty years, which every clock can count."""


def prepare_request(
    request: Request,
    uds: Any,
    context: Any,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Message:
    if request.cross_origin and uds is not None:
        raise SSEError(
            "Expected redirects that stay with the server behind the Unix socket, got one to "
            "another origin"
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
    """What can be said of the arguments before anything is connected."""
    if uds is None:
        refuse_proxy(request)
    if context is not None and not hasattr(context, "wrap_socket"):
        raise TypeError(f"Expected an ssl.SSLContext, got {type(context).__name__}")
    for name, value in (("connect_timeout", connect_timeout), ("idle_timeout", idle_timeout)):
        if value is not None and not 0 < value < MAX_SECONDS:
            raise ValueError(f"Expected {name} to be a number of seconds above 0, got {value!r}")


def is_address(host: str) -> bool:
    with suppress(ValueError):
        ip_address(host.partition("%")[0])
        return True
    return False


def server_name(request: Message) -> str:
    return request.host.partition("%")[0]


def tls_context(context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is not None:
        return context
    # What the system's trust is read from.
    return _default_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=1)
def _default_tls(file: str | None, directory: str | None) -> ssl.SSLContext:
    """Kept, as it takes 20 ms to make."""
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def set_socket_options(sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # No system has them all.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connection_error(phase: str, request: Message, error: Exception) -> TransportError:
    # That of asyncio is no TimeoutError before Python 3.11.
    kind = StreamTimeout if "Timeout" in type(error).__name__ else TransportError
    wanted = "connection to" if phase == "connect" else "response of"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return kind(
        f"Expected a {wanted} {redact_url(request.url)}, got: {reason}",
        phase=phase,
        sent=phase != "connect",
    )


def idle_error(seconds: float, phase: str) -> StreamTimeout:
    return StreamTimeout(
        f"Expected a byte within {seconds:g} seconds, got none: raise idle_timeout if the server "
        "may be quiet for longer",
        phase=phase,
    )
