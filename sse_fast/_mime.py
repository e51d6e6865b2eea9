"""The media type of a response, as browsers find it (Fetch, "extract a MIME type")."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["MediaType", "extract_media_type"]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SPACE = " \t\n\r"
# MIME Sniffing, 4.4: the type, the subtype, and white space before the first parameter. Browsers
# ignore a text after the white space, such as a parameter whose semicolon is missing.
_ESSENCE = re.compile(rf"({_TOKEN}/{_TOKEN})(?:[{_SPACE}][^;]*)?(?:;|\Z)")
# A value, which ends at a comma outside of quotes. An unfinished quoted string ends with the field.
_VALUE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*(?:"|\\?\Z))*', re.DOTALL)
# A parameter: its name, and a quoted or a plain value, which ends at the next semicolon.
_PARAMETER = re.compile(
    r'[ \t\n\r]*([^;=]*)(?:=(?:"((?:\\.|[^"\\])*)(?:"|\\?\Z)[^;]*|([^;]*)))?(?:;|\Z)', re.DOTALL
)
# The code points of a parameter's value that are allowed.
_QUOTABLE = re.compile(r"[\t -~\x80-\xff]*")


class MediaType(NamedTuple):
    """A media type, as far as a stream of text needs it."""

    essence: str
    """`type/subtype` in lower case; "" if no field names a valid one."""
    charset: str | None
    """The parameter `charset`, if there is one."""


def extract_media_type(content_type: str) -> MediaType:
    """Find the media type in a Content-Type field: the last valid one that is not `*/*`.

    Args:
        content_type: the value of the field; repeated fields are joined by commas.
    """
    essence, charset = "", None
    at = 0
    while True:
        match = _VALUE.match(content_type, at)
        assert match is not None
        found = _parse(match[0].strip(_SPACE))
        if found is not None and found.essence != "*/*":
            # The type of an earlier value lends its charset to the same type without one.
            if found.essence != essence or found.charset is not None:
                charset = found.charset
            essence = found.essence
        at = match.end() + 1
        if at > len(content_type):
            return MediaType(essence, charset)


def _parse(value: str) -> MediaType | None:
    """Parse a single media type (MIME Sniffing, 4.4); None if it is invalid."""
    match = _ESSENCE.match(value)
    if match is None:
        return None
    charset = None
    at = match.end()
    while charset is None and at < len(value):
        parameter = _PARAMETER.match(value, at)
        assert parameter is not None
        at = parameter.end()
        name, quoted, plain = parameter.groups()
        if name.lower() != "charset":
            continue
        # Only of a quoted value may be empty.
        if quoted is not None:
            given = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        else:
            given = (plain or "").rstrip(_SPACE)
        if (quoted is not None or given) and _QUOTABLE.fullmatch(given):
            charset = given
    return MediaType(match[1].lower(), charset)
