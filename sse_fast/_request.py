"""A request before anybody sends it: its URL, header fields and body, checked."""

from __future__ import annotations

import base64
import json as json_
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

if TYPE_CHECKING:
    from typing import TypeAlias

    HeaderFields: TypeAlias = (
        Mapping[str, str] | Mapping[str, bytes] | Iterable[tuple[str, str | bytes]]
    )
    Data: TypeAlias = bytes | str | Mapping[str, Any]
    Fields: TypeAlias = tuple[tuple[str, bytes], ...]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 9110, 5.5: of the control characters, a field value may hold HTAB.
_CONTROL_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 9110, 5.6.2
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"[0-9A-Za-z._~-]+")
_FRAMING = {"content-length", "transfer-encoding"}
URL_CHARACTERS = "/?%:@!$&'()*+,;=~[]"
_FOREIGN_FIELDS = {"accept", "cache-control", "user-agent", "last-event-id"}
_RESUMED = {"url", "method", "headers", "json", "data"}
_PORTS = {"http": 80, "https": 443}

DEFAULT_FIELDS = {
    "Accept": b"text/event-stream",
    "Accept-Encoding": b"identity",
    "Cache-Control": b"no-store",
}
"""What a request for an event stream says unless the caller does."""

USER_AGENT = {"User-Agent": b"sse-fast"}
"""And what it says if no other library sends it."""


class Request(NamedTuple):
    """What to ask, whoever sends it."""

    method: str
    url: str
    fields: Fields = ()
    body: bytes | None = None
    redirected: bool = False
    """Whether the URL is where a redirect led: nothing is to be added to its query."""
    cross_origin: bool = False
    """Whether it goes to another origin than the caller named: nothing of the client's own goes
    with it."""


class Target(NamedTuple):
    """A URL in the parts that a request is made of."""

    scheme: str
    host: str
    """To connect to."""
    port: int
    authority: str
    """As the field Host names it."""
    path: str
    """Path and query."""
    user: str | None
    """User and password, as basic authorization wants them."""

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host.lower(), self.port


def parse_url(url: str) -> Target:
    """Take an absolute URL apart.

    Raises:
        ValueError: it is none of http or https, or none that can be sent as it is.
    """
    if _CONTROL.search(url):
        raise ValueError("Expected a URL without control characters, got one that has some")
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        # A path in other scripts is sent as browsers do: as percent-encoded UTF-8.
        path = quote(parts.path or "/", safe=URL_CHARACTERS)
        if "?" in url.partition("#")[0]:
            path += "?" + quote(parts.query, safe=URL_CHARACTERS)
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        user.encode()
    except ValueError:
        # Nothing of what was found, as it may be a password that was not escaped.
        raise ValueError(
            "Expected a URL, got one whose user, host, port or path cannot be read"
        ) from None
    if parts.scheme not in _PORTS:
        raise ValueError("Expected a URL that begins with http:// or https://, got another")
    name, authority = _check_host(host, "[" in parts.netloc)
    if port is not None:
        authority = f"{authority}:{port}"
    else:
        port = _PORTS[parts.scheme]
    return Target(parts.scheme, name, port, authority, path, None if user == ":" else user)


def _check_host(host: str, in_brackets: bool) -> tuple[str, str]:
    """The host to connect to, and how the Host field names it."""
    if in_brackets:
        # RFC 6874: the zone is for this end of the connection only.
        address, _, zone = host.replace("%25", "%").partition("%")
        if re.fullmatch(r"[0-9a-f:.]*:[0-9a-f:.]*", address):
            return f"{address}%{zone}" if zone else address, f"[{address}]"
    else:
        with suppress(UnicodeError):
            name = host.encode("idna").decode()
            if _HOST.fullmatch(name):
                return name, name
    raise ValueError("Expected a URL with a host, got one without, or with none that can be")


def strip_userinfo(url: str) -> str:
    """The URL without user, password and fragment."""
    parts = urlsplit(url.strip())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def follow(url: str, location: str) -> str | None:
    """The URL that a Location field leads to; None: none that can be asked."""
    # Servers send UTF-8, which header fields are not read as.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        target = strip_userinfo(urljoin(url, location))
        parse_url(target)
    except ValueError:
        return None
    return target


def check_method(method: str) -> str:
    """Raises:
    ValueError: it is no token (RFC 9110, 9.1).
    """
    if not _TOKEN.fullmatch(method):
        raise ValueError("Expected a request method, got something else")
    return method


def encode_body(json: Any, data: Data | None) -> tuple[bytes | None, str | None]:
    """The body, and its content type.

    Raises:
        TypeError: both, or a `data` that is none.
    """
    if json is not None:
        if data is not None:
            raise TypeError("Expected json or data, got both")
        return json_.dumps(json).encode(), "application/json"
    if data is None or isinstance(data, bytes):
        return data, None
    if isinstance(data, str):
        return _encoded(data, "data"), None
    if isinstance(data, Mapping):
        return urlencode(data, doseq=True).encode(), "application/x-www-form-urlencoded"
    raise TypeError(
        f"Expected data to be bytes, a str or a mapping, got {type(data).__name__}: "
        "read what is to be sent into bytes"
    )


def check_fields(headers: HeaderFields | None) -> Iterator[tuple[str, bytes]]:
    """The caller's header fields, a str as UTF-8.

    Raises:
        ValueError: one that cannot be sent as it is.
        TypeError: a wrong type.
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
            # Without it: it may be a whole line, with a secret in it.
            raise ValueError("Expected the name of a header field, got what is none")
        if name.lower() in _FRAMING:
            raise ValueError(f"Expected no {name} of the caller's: it follows from the body")
        octets = _encoded(value, name) if isinstance(value, str) else value
        # RFC 9110, 5.5: they are not part of it, and some libraries refuse them.
        octets = octets.strip(b" \t")
        if _CONTROL_IN_VALUE.search(octets):
            raise ValueError(f"Expected a {name} without control characters, got one that has some")
        hosts += name.lower() == "host"
        if hosts > 1:
            raise ValueError("Expected one Host, got two")
        yield name, octets


def parse_user_fields(headers: Any) -> list[tuple[str, bytes | None]]:
    """Those of the caller of a client; None leaves out what would be sent.

    Raises:
        ValueError, TypeError: as `check_fields`.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
    given = check_fields([(name, value) for name, value in pairs if value is not None])
    # In the first spelling of each name: requests and aiohttp keep one field for another.
    spelled: dict[str, str] = {}
    return [
        *((spelled.setdefault(name.lower(), name), value) for name, value in given),
        *((name, None) for name, value in pairs if value is None),
    ]


def default_fields(
    defaults: Mapping[str, bytes], user: str | None, kind: str | None
) -> list[tuple[str, bytes]]:
    """What is sent unless the caller says otherwise, for a URL with that user and a body of that
    content type.
    """
    fields = list(defaults.items())
    if user is not None:
        fields.append(("Authorization", b"Basic " + base64.b64encode(user.encode())))
    if kind is not None:
        fields.append(("Content-Type", kind.encode()))
    return fields


def merge_fields(
    own: Iterable[tuple[str, bytes]], given: Iterable[tuple[str, bytes | None]]
) -> Fields:
    """The caller's fields in place of our own."""
    given = list(given)
    names = {name.lower() for name, _ in given}
    kept = [each for each in own if each[0].lower() not in names]
    return (*kept, *((name, value) for name, value in given if value is not None))


def build_resume_request(
    answer: Any, first_url: str, defaults: Mapping[str, bytes], fields: Fields
) -> Request:
    """The request that `resume` wants: a URL to GET, or a mapping of what is to be asked. Where it
    says nothing, they are those of the first request; its `fields` are for its own origin.

    Raises:
        TypeError: neither of them.
        ValueError: what cannot be sent as it is.
    """
    if isinstance(answer, str):
        answer = {"url": answer}
    if not isinstance(answer, Mapping) or not answer.keys() <= _RESUMED:
        raise TypeError(
            "Expected resume to return a URL, or a mapping of some of url, method, headers, json "
            f"and data, got {type(answer).__name__}"
        )
    url = answer.get("url", first_url)
    body, kind = encode_body(answer.get("json"), answer.get("data"))
    own = default_fields(defaults, parse_url(url).user, kind)
    given: Any = [each for each in fields if not _is_of_the_first(each[0].lower())]
    # There goes what the program has built for it, and nothing of what it did not say again.
    cross_origin = parse_url(url).origin != parse_url(first_url).origin
    if answer.get("headers") is not None:
        given = parse_user_fields(answer["headers"])
    elif cross_origin:
        given = [each for each in given if each[0].lower() in _FOREIGN_FIELDS]
    method = check_method(answer.get("method", "GET"))
    return Request(
        method, strip_userinfo(url), merge_fields(own, given), body, cross_origin=cross_origin
    )


def _is_of_the_first(name: str) -> bool:
    return name.startswith("content-") or name == "last-event-id"


def strip_credentials(request: Request) -> Request:
    """What another origin gets: nothing of the caller's but what says which stream is wanted."""
    kept = [each for each in request.fields if each[0].lower() in _FOREIGN_FIELDS]
    encoding = ("Accept-Encoding", DEFAULT_FIELDS["Accept-Encoding"])
    return request._replace(fields=(*kept, encoding), body=None, cross_origin=True)


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Whose text would show the rest.
        raise ValueError(f"Expected {what} without lone surrogates, got some") from None
