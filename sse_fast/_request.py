"""Requests, independent of any library: URL, header fields and body are checked and encoded."""

from __future__ import annotations

import base64
import json as json_
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from sse_fast._hosts import normalize_address, normalize_host

if TYPE_CHECKING:
    from typing import TypeAlias

    HeaderFields: TypeAlias = (
        Mapping[str, str] | Mapping[str, bytes] | Iterable[tuple[str, str | bytes]]
    )
    Data: TypeAlias = bytes | str | Mapping[str, Any]
    Fields: TypeAlias = tuple[tuple[str, bytes], ...]
    Origin: TypeAlias = tuple[str, str, int]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 9110, 5.5: of the control characters, a field value may hold HTAB.
_CONTROL_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 9110, 5.6.2
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Scheme, authority, path and query of an absolute URL without a fragment. urlsplit() is not used:
# what it accepts depends on the version of Python.
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)
# An address in brackets or a name, and a port, which may be empty.
_LOCATION = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::(?:0*([0-9]{1,5}))?)?")
# The scheme of a URL and the slashes that follow.
_BEGINNING = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(/*)")
_NORMALIZED_METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"}
_FRAMING = {"content-length", "transfer-encoding"}
URL_CHARACTERS = "/?%:@!$&'()*+,;=~[]"
_CROSS_ORIGIN_FIELDS = {"accept", "cache-control", "user-agent", "last-event-id"}
_RESUME_KEYS = {"url", "method", "headers", "json", "data"}
_DEFAULT_PORTS = {"http": 80, "https": 443}

DEFAULT_FIELDS = {
    "Accept": b"text/event-stream",
    "Accept-Encoding": b"identity",
    "Cache-Control": b"no-cache",
}
"""The header fields of a request for an event stream, unless the caller sets them."""

USER_AGENT = {"User-Agent": b"sse-fast"}
"""The additional field of requests that our own transport sends."""


class Request(NamedTuple):
    """A request that any client can send."""

    method: str
    url: str
    fields: Fields = ()
    body: bytes | None = None
    redirected: bool = False
    """Whether a redirect led to the URL. If so, no parameters of the client are added to it."""
    cross_origin: bool = False
    """Whether its origin differs from that of the caller's URL. If so, no credentials, cookies or
    other fields of the client are sent with it."""
    one_member: bool = False
    """Whether only the first member of a gzip body is decoded, as in browsers."""


class Target(NamedTuple):
    """The parts of a URL that a request is made of."""

    scheme: str
    host: str
    """The host to connect to."""
    port: int
    authority: str
    """Host and port as the Host field names them."""
    path: str
    """The path and the query."""
    user: str | None
    """`user:password`, as basic authorization encodes them, or None."""

    @property
    def origin(self) -> Origin:
        """Scheme, host and port (HTML standard, 7.1.1)."""
        return self.scheme, self.host, self.port

    @property
    def url(self) -> str:
        """The normalized URL without user and fragment."""
        _, _, zone = self.host.partition("%")
        authority = self.authority.replace("]", f"%25{zone}]") if zone else self.authority
        return f"{self.scheme}://{authority}{self.path}"


def parse_url(url: str) -> Target:
    """Split an absolute URL into the parts of a request, normalized as browsers do.

    Raises:
        ValueError: its scheme is not http or https, or it cannot be sent unchanged.
    """
    if not isinstance(url, str):
        raise TypeError(f"Expected the URL as a str, got {type(url).__qualname__}: pass str(url)")
    if _CONTROL.search(url):
        raise ValueError("The URL contains control characters")
    match = _ABSOLUTE.fullmatch(_replace_backslashes(url.strip(" ").partition("#")[0]))
    if match is None or match[1].lower() not in _DEFAULT_PORTS:
        raise ValueError("The URL has to begin with http:// or https://")
    scheme = match[1].lower()
    # Browsers take the last "@" for the end of the user, and percent-encode the others.
    userinfo, _, location = match[2].rpartition("@")
    name, _, password = userinfo.partition(":")
    try:
        # As in browsers, a path with non-ASCII characters is sent as percent-encoded UTF-8.
        path = quote(_remove_dot_segments(match[3]), safe=URL_CHARACTERS)
        if match[4] is not None:
            path += "?" + quote(match[4], safe=URL_CHARACTERS)
        user = f"{unquote(name)}:{unquote(password)}"
        user.encode()
        match = _LOCATION.fullmatch(location)
        port = int((match[3] or "0") if match is not None else "65536")
        if port > 65535:
            raise ValueError
    except ValueError:
        # The message shows no part of the URL, which may be a password that was not escaped.
        raise ValueError(
            "The URL has an invalid user, host, port or path: percent-encode special characters"
        ) from None
    assert match is not None
    host, authority = _check_host(match[1], match[2])
    if not match[3] or port == _DEFAULT_PORTS[scheme]:
        # RFC 9110, 4.2.3: the default port is left out.
        port = _DEFAULT_PORTS[scheme]
    else:
        authority = f"{authority}:{port}"
    return Target(scheme, host, port, authority, path, None if user == ":" else user)


def _replace_backslashes(url: str) -> str:
    """Return the URL with a slash for each backslash before its query, as browsers read it."""
    before = re.split("[?#]", url, maxsplit=1)[0]
    return before.replace("\\", "/") + url[len(before) :]


def _check_host(address: str | None, name: str) -> tuple[str, str]:
    """Return the host to connect to, and how the Host field names it.

    Args:
        address: the IPv6 address in brackets, or None.
        name: the domain or IPv4 address without one.
    """
    try:
        if address is None:
            host = normalize_host(name)
            return host, host
        text, zone = normalize_address(address)
        return f"{text}%{zone}" if zone else text, f"[{text}]"
    except ValueError as error:
        # A text of this package says more; those of idna show the host.
        message = str(error) if type(error) is ValueError else ""
    raise ValueError(message if message.startswith("The URL ") else "The URL has no valid host")


def _remove_dot_segments(path: str) -> str:
    """Resolve the segments "." and ".." of a path, also percent-encoded (URL standard, 4.4)."""
    segments = path.split("/")[1:] or [""]
    kept: list[str] = []
    for segment in segments:
        dots = segment.replace("%2e", ".").replace("%2E", ".")
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
    if dots in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def strip_userinfo(url: str) -> str:
    """Return the URL, normalized, without user, password and fragment.

    Every library gets it so, and asks the same host for the same resource.

    Raises:
        ValueError: as `parse_url`.
    """
    return parse_url(url).url


def resolve_location(url: str, location: str) -> str | None:
    """Return the URL that a Location field leads to, or None if it is not valid http or https."""
    # Servers send UTF-8, but header fields are decoded as Latin-1.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    # URL standard, 4.4: outer spaces, tabs and line ends are no part of a URL.
    location = re.sub("[\t\n\r]", "", location).strip(" ")
    try:
        return strip_userinfo(_join(parse_url(url), _replace_backslashes(location)))
    except ValueError:
        return None


def _join(base: Target, reference: str) -> str:
    """Return the absolute URL of a reference, not normalized (URL standard, 4.4).

    urljoin() is not used: it loses an empty query, and finds a host of many slashes in the path.
    """
    start = _BEGINNING.match(reference)
    assert start is not None
    scheme, slashes = start[1], start[2]
    rest = reference[start.end() :]
    # Two slashes or more begin a host, and after another scheme, none are necessary.
    if len(slashes) > 1 or (scheme is not None and scheme.lower() != base.scheme):
        return f"{scheme or base.scheme}://{rest}"
    origin = base.url.removesuffix(base.path)
    if slashes:
        return f"{origin}/{rest}"
    path, has_query, query = base.path.partition("?")
    if not rest or rest[0] == "#":
        return f"{origin}{path}{has_query}{query}"
    if rest[0] == "?":
        return f"{origin}{path}{rest}"
    return f"{origin}{path[: path.rindex('/') + 1]}{rest}"


def check_method(method: str) -> str:
    """Return the method.

    Raises:
        ValueError: it is not a token (RFC 9110, 9.1).
    """
    if not _TOKEN.fullmatch(method):
        raise ValueError("The request method is invalid: it has to be a token such as GET")
    # Fetch, "normalize a method": servers expect these in upper case.
    return method.upper() if method.upper() in _NORMALIZED_METHODS else method


def encode_body(json: Any, data: Data | None) -> tuple[bytes | None, str | None]:
    """Return the body and its content type.

    Args:
        json: a value to be sent as JSON, or None.
        data: the bytes, the text or the form to be sent, or None.

    Raises:
        TypeError: both are given, or `data` has a type that cannot be sent.
        ValueError: a text in `data` contains a lone surrogate, or a number in `json` is not finite.
    """
    if json is not None:
        if data is not None:
            raise TypeError("json and data cannot be combined: pass one of them")
        # NaN and the infinities are no JSON.
        return json_.dumps(json, allow_nan=False).encode(), "application/json"
    if data is None or isinstance(data, bytes):
        return data, None
    if isinstance(data, str):
        return _encoded(data, "data"), None
    if isinstance(data, Mapping):
        # As by requests, a field without a value is left out.
        form = {name: value for name, value in data.items() if value is not None}
        return urlencode(form, doseq=True).encode(), "application/x-www-form-urlencoded"
    raise TypeError(
        f"Expected data to be bytes, a str or a mapping, got {type(data).__name__}: "
        "read the content into bytes first"
    )


def check_fields(headers: HeaderFields | None) -> Iterator[tuple[str, bytes]]:
    """Yield the caller's header fields, checked and with values as bytes (a str as UTF-8).

    Raises:
        ValueError: a field cannot be sent unchanged.
        TypeError: a name or a value has a wrong type.
    """
    pairs: Iterable[tuple[str, str | bytes]] = (
        headers.items() if isinstance(headers, Mapping) else headers or ()
    )
    hosts = 0
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, (str, bytes)):
            raise TypeError(
                "Expected header fields with a str as name and a str or bytes as value, got "
                f"{type(name).__name__} and {type(value).__name__}"
            )
        if not _TOKEN.fullmatch(name):
            # The message does not show it, as it may be a whole line with a secret in it.
            raise ValueError("Invalid header field name (not shown, as it may be confidential)")
        if name.lower() in _FRAMING:
            raise ValueError(f"{name} cannot be set: it follows from the body")
        octets = _encoded(value, name) if isinstance(value, str) else value
        # RFC 9110, 5.5: outer blanks are not part of a value, and some libraries refuse them.
        octets = octets.strip(b" \t")
        if _CONTROL_IN_VALUE.search(octets):
            raise ValueError(f"The header field {name} contains control characters")
        hosts += name.lower() == "host"
        if hosts > 1:
            raise ValueError("The header field Host is given twice: pass it once")
        yield name, octets


def parse_user_fields(headers: Any) -> list[tuple[str, bytes | None]]:
    """Return the fields of an `EventSource`, where the value None removes a default field.

    Raises:
        ValueError, TypeError: as `check_fields`.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
    given = check_fields([(name, value) for name, value in pairs if value is not None])
    # Use the first spelling of each name: with several, requests and aiohttp send one field only.
    spelled: dict[str, str] = {}
    return [
        *((spelled.setdefault(name.lower(), name), value) for name, value in given),
        *((name, None) for name, value in pairs if value is None),
    ]


def default_fields(
    defaults: Mapping[str, bytes], user: str | None, content_type: str | None
) -> list[tuple[str, bytes]]:
    """Return the fields that are sent unless the caller sets them.

    Args:
        defaults: the fields of every request.
        user: the `user:password` of the URL, or None.
        content_type: the content type of the body, or None.
    """
    fields = list(defaults.items())
    if user is not None:
        fields.append(("Authorization", b"Basic " + base64.b64encode(user.encode())))
    if content_type is not None:
        fields.append(("Content-Type", content_type.encode()))
    return fields


def merge_fields(
    own: Iterable[tuple[str, bytes]], given: Iterable[tuple[str, bytes | None]]
) -> Fields:
    """Return our own fields, replaced by those of the caller that have the same name."""
    given = list(given)
    names = {name.lower() for name, _ in given}
    kept = [each for each in own if each[0].lower() not in names]
    return (*kept, *((name, value) for name, value in given if value is not None))


def build_resume_request(
    answer: Any,
    first_url: str,
    defaults: Mapping[str, bytes],
    fields: Fields,
    trusted_origins: Collection[Origin] = (),
) -> Request:
    """Build the request from what `resume` returned: a URL to GET, or a mapping.

    Args:
        answer: what `resume` returned. Missing keys default to a GET of the first URL.
        first_url: the URL that the caller named.
        defaults: the fields of every request.
        fields: the caller's fields, which are sent to the origin of the first URL, and to trusted
            ones.
        trusted_origins: the origins that may have the caller's fields.

    Raises:
        TypeError: `answer` is neither a URL nor such a mapping.
        ValueError: the request cannot be sent unchanged.
    """
    if isinstance(answer, str):
        answer = {"url": answer}
    if not isinstance(answer, Mapping) or not answer.keys() <= _RESUME_KEYS:
        raise TypeError(
            "Expected resume to return a URL, or a mapping with keys among url, method, headers, "
            f"json and data, got {type(answer).__name__}"
        )
    url = answer.get("url", first_url)
    body, content_type = encode_body(answer.get("json"), answer.get("data"))
    own = default_fields(defaults, parse_url(url).user, content_type)
    given: Any = [each for each in fields if not _is_of_first_request(each[0].lower())]
    # To another origin, only send what `resume` has returned for it.
    cross_origin = parse_url(url).origin not in {parse_url(first_url).origin, *trusted_origins}
    if answer.get("headers") is not None:
        given = parse_user_fields(answer["headers"])
    elif cross_origin:
        given = [each for each in given if each[0].lower() in _CROSS_ORIGIN_FIELDS]
    method = check_method(answer.get("method", "GET"))
    return Request(
        method, strip_userinfo(url), merge_fields(own, given), body, cross_origin=cross_origin
    )


def _is_of_first_request(name: str) -> bool:
    return name.startswith("content-") or name == "last-event-id"


def parse_origins(origins: Iterable[str]) -> frozenset[Origin]:
    """Return the origins that the texts name, for example "https://api.example.com:8443".

    Raises:
        ValueError: a text is not an origin.
    """
    parsed = set()
    for each in origins:
        try:
            target = parse_url(each)
        except (ValueError, TypeError, AttributeError):
            target = None
        # The text may be a URL with a secret in it.
        if target is None or target.path != "/" or target.user is not None or "#" in each:
            raise ValueError(
                "Invalid origin: pass scheme, host and port, such as 'https://api.example.com:8443'"
            )
        parsed.add(target.origin)
    return frozenset(parsed)


def strip_credentials(request: Request) -> Request:
    """Return the request without its body and the caller's fields, for another origin.

    Accept, Cache-Control, User-Agent and Last-Event-ID are kept.
    """
    kept = [each for each in request.fields if each[0].lower() in _CROSS_ORIGIN_FIELDS]
    encoding = ("Accept-Encoding", DEFAULT_FIELDS["Accept-Encoding"])
    return request._replace(fields=(*kept, encoding), body=None, cross_origin=True)


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # The original error would show the text.
        raise ValueError(f"{what} contains a lone surrogate, which UTF-8 cannot encode") from None
