"""The client that the options of `cat` and `record` describe."""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sse_fast import EventSource
from sse_fast._cli._common import standard_input

if TYPE_CHECKING:
    from ssl import SSLContext


def event_source(arguments: argparse.Namespace, **options: Any) -> EventSource:
    """Make the client that the options describe; it is not connected yet."""
    url = arguments.source
    body = None if arguments.body is None else b"&".join(map(_read_data, arguments.body))
    defaults = {} if body is None else {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        return EventSource(
            # Bytes of the command line that are invalid UTF-8 are sent unchanged.
            re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:X}", url),
            method=arguments.request or ("GET" if body is None else "POST"),
            headers=_with_header_lines(defaults, arguments.header),
            data=body,
            last_event_id=arguments.last_event_id,
            until=arguments.until,
            until_event=arguments.until_event,
            check=not arguments.no_check,
            ssl_context=_ssl_context(arguments),
            **options,
        )
    except ValueError as error:
        arguments.fail(f"{error}")
        raise


def _ssl_context(arguments: argparse.Namespace) -> SSLContext | None:
    """Return the context that the options describe; None: the system's authorities.

    Raises:
        OSError: the file cannot be read, or has no certificate.
    """
    if not arguments.cacert and not arguments.insecure:
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=arguments.cacert)
    except ssl.SSLError as error:
        raise OSError(
            errno.EINVAL, "it has no certificate in PEM form", arguments.cacert
        ) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, arguments.cacert) from error
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read_data(data: str) -> bytes:
    """Return the bytes of a `-d` option; like curl, drop line ends and NULs of a file."""
    if not data.startswith("@"):
        return os.fsencode(data)
    if data == "@-":
        content = standard_input().read()
    else:
        with open(data[1:], "rb") as file:
            content = file.read()
    return bytes(content.translate(None, b"\r\n\0"))


def _with_header_lines(
    defaults: dict[str, str], lines: Iterable[str]
) -> list[tuple[str, bytes | None]]:
    """Apply `-H` lines to default fields; like curl, a line replaces, removes or empties one."""
    fields: list[tuple[str, bytes | None]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        emptied = not colon and name.endswith(";")
        if emptied:
            name = name[:-1]
        if not name or not (colon or emptied):
            # The line is not shown, because a value without a name may be a secret.
            raise ValueError("a header line has the form 'Name: value'")
        fields.append((name, os.fsencode(value) if value or emptied else None))
    given = {name.lower() for name, _ in fields}
    kept = [
        (name, os.fsencode(value)) for name, value in defaults.items() if name.lower() not in given
    ]
    return [*kept, *fields]
