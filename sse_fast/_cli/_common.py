"""Functions that several commands share: request options, messages, lines of JSON."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sse_fast import EventSource
from sse_fast._cli._terminal import visible

if TYPE_CHECKING:
    from ssl import SSLContext

# Encodes one str three times as fast as json.dumps, which inspects each value's type.
_quote = json.JSONEncoder(ensure_ascii=False).encode


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a request, which `event_source` and `telling` read."""
    parser.add_argument("-X", "--request", metavar="METHOD", help="the request method")
    parser.add_argument(
        "-H",
        "--header",
        metavar="LINE",
        action="append",
        default=[],
        help="a header field, 'Name: value'; 'Name:' removes a default field, "
        "'Name;' sends an empty one",
    )
    parser.add_argument(
        "-d",
        "--body",
        metavar="DATA",
        action="append",
        help="the request body, sent by POST; @FILE reads it from a file, @- from standard input; "
        "several bodies are joined with &",
    )
    parser.add_argument(
        "--last-event-id", metavar="ID", default="", help="resume after the event with this id"
    )
    parser.add_argument(
        "--until", metavar="DATA", help="stop at an event with this data, for example '[DONE]'"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="log connections and reconnects to standard error",
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="print no messages about waiting and no summary, only errors",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--cacert", metavar="FILE", help="trust the authorities in this PEM file for https"
    )
    trust.add_argument(
        "-k",
        "--insecure",
        action="store_true",
        help="accept any certificate for https: the server may be anyone",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="accept a response whose content type is not text/event-stream",
    )
    parser.set_defaults(fail=parser.error)


def has_request_options(arguments: argparse.Namespace) -> bool:
    """Return whether an option was given that needs a URL."""
    wanted = ("request", "header", "body", "last_event_id", "cacert", "insecure", "no_check")
    return any(getattr(arguments, name) for name in wanted)


def is_url(arguments: argparse.Namespace) -> bool:
    """Return whether the source is a URL; exit if its scheme is neither http nor https."""
    scheme, colon, _ = arguments.source.partition("://")
    if colon and scheme.lower() not in ("http", "https"):
        arguments.fail(f"only http and https URLs are supported, not {scheme!r}")
    return bool(colon)


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


def say(message: str) -> None:
    """Print a message to standard error, if there is one; it may contain text from a server."""
    # print(file=None) would print to standard output.
    if sys.stderr is not None:
        print(f"sse-fast: {visible(message)}", file=sys.stderr, flush=True)


def json_line(
    event: str,
    data: str,
    id: str,
    retry: int | None,
    more: Mapping[str, str | int | None] = {},
) -> bytes:
    """Return an event as a line of JSON, with more keys at its end."""
    retry_text = "null" if retry is None else retry
    rest = ""
    if more:
        rest = "".join([f', "{name}": {_quote(value)}' for name, value in more.items()])
    return (
        f'{{"event": {_quote(event)}, "data": {_quote(data)}, "id": {_quote(id)}, '
        f'"retry": {retry_text}{rest}}}\n'
    ).encode()


def standard_input() -> Any:
    """Return standard input as a binary file.

    Raises:
        OSError: the process has none.
    """
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


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
