"""A request of HTTP/1.1 as bytes, and the refusal of proxies (RFC 9112)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._errors import SSEError
from sse_fast._request import (
    DEFAULT_FIELDS,
    USER_AGENT,
    Request,
    check_fields,
    check_method,
    default_fields,
    encode_body,
    merge_fields,
    parse_url,
)

if TYPE_CHECKING:
    from sse_fast._request import Data, HeaderFields

__all__ = ["Message", "compose", "prepare", "refuse_proxy"]


class Message(NamedTuple):
    """What to connect to, and what to send there."""

    url: str
    method: str
    tls: bool
    host: str
    port: int
    message: bytes


def prepare(
    url: str,
    method: str,
    headers: HeaderFields | None,
    json: Any,
    data: Data | None,
) -> Message:
    """The request, as bytes.

    Raises:
        ValueError: a URL, method or header that cannot be sent as it is.
        TypeError: both bodies, or a `data` that is none.
    """
    check_method(method)
    body, kind = encode_body(json, data)
    user = parse_url(url).user
    own = default_fields({**DEFAULT_FIELDS, **USER_AGENT}, user, kind)
    return compose(Request(method, url.strip(), merge_fields(own, check_fields(headers)), body))


def compose(request: Request) -> Message:
    """The request as bytes, with the fields it has and those that HTTP wants.

    Raises:
        ValueError: the URL cannot be sent as it is.
    """
    method, body, target = request.method, request.body, parse_url(request.url)
    given = {name.lower() for name, _ in request.fields}
    host = [] if "host" in given else [("Host", target.authority.encode())]
    lines = [b"%b: %b\r\n" % (name.encode(), value) for name, value in (*host, *request.fields)]
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines.append(b"Content-Length: %d\r\n" % len(body or b""))
    start = f"{method} {target.path} HTTP/1.1\r\n".encode()
    message = b"".join([start, *lines, b"\r\n", body or b""])
    tls = target.scheme == "https"
    return Message(request.url, method, tls, target.host, target.port, message)


def refuse_proxy(request: Message) -> None:
    """Raise where a proxy variable applies: to go past it in silence may be what it forbids."""
    from urllib.request import (  # type: ignore[attr-defined]
        getproxies_environment,
        proxy_bypass_environment,
    )

    proxies = getproxies_environment()
    scheme = "https" if request.tls else "http"
    for name in (scheme, "all"):
        if proxies.get(name) and not proxy_bypass_environment(f"{request.host}:{request.port}"):
            raise SSEError(
                f"Expected a way to {request.host} without a proxy, got {name}_proxy in the "
                "environment, which raw sockets do not speak to: name the host in no_proxy, or "
                "hand the response of an HTTP library to iter_events"
            )
