"""A request of HTTP/1.1 as bytes, and the check that no proxy is required (RFC 9112)."""

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
    strip_userinfo,
)

if TYPE_CHECKING:
    from sse_fast._request import Data, HeaderFields

__all__ = ["Message", "compose", "prepare", "refuse_proxy"]


class Message(NamedTuple):
    """A serialized request, and the address to send it to."""

    url: str
    method: str
    tls: bool
    host: str
    port: int
    message: bytes
    one_member: bool = False
    """As in `Request`."""


def prepare(
    url: str,
    method: str,
    headers: HeaderFields | None,
    json: Any,
    data: Data | None,
) -> Message:
    """Check the arguments of `open_stream` and serialize the request.

    Args:
        url: an absolute URL of http or https.
        method: the request method.
        headers: the user's header fields, which replace the default ones.
        json: a body to serialize as JSON, or None.
        data: a body of bytes, text or a mapping, or None.

    Raises:
        ValueError: the URL, the method or a header field is invalid.
        TypeError: both `json` and `data` are given, or `data` has a wrong type.
    """
    check_method(method)
    body, kind = encode_body(json, data)
    user = parse_url(url).user
    own = default_fields({**DEFAULT_FIELDS, **USER_AGENT}, user, kind)
    fields = merge_fields(own, check_fields(headers))
    return compose(Request(method, strip_userinfo(url), fields, body))


def compose(request: Request) -> Message:
    """Serialize a request, adding Host and Content-Length where they are required.

    Raises:
        ValueError: the URL is invalid.
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
    return Message(request.url, method, tls, target.host, target.port, message, request.one_member)


def refuse_proxy(request: Message) -> None:
    """Refuse a request for which the environment names a proxy.

    Bypassing the proxy silently may be what its administrator forbids.

    Raises:
        SSEError: `http_proxy`, `https_proxy` or `all_proxy` applies to the host.
    """
    from urllib.request import (  # type: ignore[attr-defined]
        getproxies_environment,
        proxy_bypass_environment,
    )

    proxies = getproxies_environment()
    scheme = "https" if request.tls else "http"
    for name in (scheme, "all"):
        if proxies.get(name) and not proxy_bypass_environment(f"{request.host}:{request.port}"):
            raise SSEError(
                f"{name}_proxy is set, but open_stream does not support proxies: add "
                f"{request.host} to no_proxy, or pass the response of an HTTP library to "
                "iter_events"
            )
