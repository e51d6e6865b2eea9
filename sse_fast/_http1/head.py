"""The head of a response: status line and header fields, as leniently as other clients (RFC 9112).

Refused is whatever recipients understand differently: a field name with white space before the
colon if it frames the body, lengths that differ, a NUL or a bare CR.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Head", "HeadError", "find_end", "parse_head", "parse_status_line"]

# White space may be missing, doubled or a TAB; the reason phrase may be missing.
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9][ \t]+([1-9][0-9]{2})(?:[ \t][^\r\0]*)?\Z")
_END = re.compile(rb"\n\r?\n")
_FORBIDDEN = re.compile(rb"[\0\r]")
_NAME = re.compile(rb"[^\x00-\x20:\x7f]+\Z")
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_FRAMING = {b"content-length", b"transfer-encoding"}
# Transfer codings that are none: identity is from RFC 2616.
_NO_CODING = {"", "identity", "none"}


class HeadError(Exception):
    """The bytes are no response head, or frame its body in more than one way."""


class Head(NamedTuple):
    """A parsed head.

    Attributes:
        status: the status code.
        fields: names and values, decoded as Latin-1, in their order.
        is_chunked: whether the body is chunked.
        length: the length of a body that is not chunked; None: it ends with the connection.
        unsupported: the transfer codings if they are not supported, otherwise "".
    """

    status: int
    fields: list[tuple[str, str]]
    is_chunked: bool
    length: int | None
    unsupported: str = ""


def find_end(data: bytes | bytearray, start: int) -> int:
    """Return the offset after the empty line that ends a head, or -1.

    Args:
        data: the bytes received so far, without empty lines before the status line.
        start: where to search from: at most 2 bytes before those not searched yet.
    """
    match = _END.search(data, start)
    return -1 if match is None else match.end()


def parse_status_line(line: bytes) -> int:
    """Return the status code.

    Args:
        line: the first line without its end.

    Raises:
        HeadError: the line is no status line of HTTP/1.x.
    """
    match = _STATUS_LINE.match(line)
    if match is None:
        raise HeadError("expected a status line such as HTTP/1.1 200 OK")
    return int(match[1])


def parse_head(data: bytes) -> Head:
    """Parse a complete head.

    Args:
        data: the bytes up to the empty line. Lines end with CRLF or LF.

    Raises:
        HeadError: the head is invalid.
    """
    first, *lines = [line.rstrip(b"\r") for line in data.rstrip(b"\r\n").split(b"\n")]
    status = parse_status_line(first)
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if _FORBIDDEN.search(line):
            raise HeadError("a header field contains a NUL or a CR")
        if line[:1] in (b" ", b"\t") and fields:
            # RFC 9112, 5.2: a folded line continues the value before it.
            name, value = fields[-1]
            fields[-1] = name, (value + b" " + line.strip(b" \t")).strip(b" \t")
            continue
        name, colon, value = line.partition(b":")
        stripped = name.rstrip(b" \t")
        if not colon or not _NAME.match(stripped):
            raise HeadError("a line is no header field")
        if stripped != name and stripped.lower() in _FRAMING:
            raise HeadError(f"white space follows the field name {stripped.decode()}")
        fields.append((stripped, value.strip(b" \t")))
    decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    if status < 200:
        # An interim response has no body (RFC 9110, 15.2).
        return Head(status, decoded, False, 0)
    codings = [coding.lower() for coding in _values(decoded, "transfer-encoding")]
    codings = [coding for coding in codings if coding not in _NO_CODING]
    if set(codings) <= {"chunked"}:
        # RFC 9112, 6.3: Transfer-Encoding overrides Content-Length.
        length = None if codings else _parse_length(_values(decoded, "content-length"))
        return Head(status, decoded, bool(codings), length)
    return Head(status, decoded, False, None, ", ".join(codings))


def _values(fields: list[tuple[str, str]], wanted: str) -> list[str]:
    """Return the members of a list that is the value of a field or of several."""
    values = [value for name, value in fields if name.lower() == wanted]
    return [member.strip(" \t") for value in values for member in value.split(",")]


def _parse_length(lengths: list[str]) -> int | None:
    """Return the Content-Length; repeated values have to be equal (RFC 9110, 8.6)."""
    if not lengths:
        return None
    if not all(map(_LENGTH.match, lengths)) or len(set(map(int, lengths))) > 1:
        raise HeadError("Content-Length is not one number")
    return int(lengths[0])
