"""What several commands share: how a URL is asked, where output may go, and how it looks."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sse_fast import EventSource
from sse_fast._request import URL_CHARACTERS

# Of one str: at once, without a look at what it is made of.
_quote = json.JSONEncoder(ensure_ascii=False).encode


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """What is asked for, and up to where; `event_source` and `log_if_verbose` heed it."""
    parser.add_argument("-X", "--request", metavar="METHOD", help="the request method")
    parser.add_argument(
        "-H",
        "--header",
        metavar="LINE",
        action="append",
        default=[],
        help="a header field, 'Name: value'; 'Name:' leaves out one that would be sent, "
        "'Name;' sends it empty",
    )
    parser.add_argument(
        "-d",
        "--data",
        metavar="DATA",
        action="append",
        help="the request body, sent by POST; @FILE takes it from a file, @- from standard input; "
        "several are joined with &",
    )
    parser.add_argument(
        "--last-event-id", metavar="ID", default="", help="ask for what follows this event"
    )
    parser.add_argument(
        "--until", metavar="DATA", help="stop at an event of this data; for example '[DONE]'"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on standard error what happens"
    )
    parser.set_defaults(fail=parser.error)


def log_if_verbose(arguments: argparse.Namespace) -> None:
    if arguments.verbose:
        logging.basicConfig(format="sse-fast: %(message)s", level=logging.INFO)
        logging.getLogger("sse_fast").setLevel(logging.DEBUG)


def is_url(arguments: argparse.Namespace) -> bool:
    """Whether the source is one that can be asked; one of another scheme is refused."""
    scheme, colon, _ = arguments.source.partition("://")
    if colon and scheme.lower() not in ("http", "https"):
        arguments.fail(f"expected a URL of http or https, got one of {scheme!r}")
    return bool(colon)


def event_source(arguments: argparse.Namespace, **options: Any) -> EventSource:
    """The client; it is not connected yet."""
    url = arguments.source
    body = None if arguments.data is None else b"&".join(map(_read_data, arguments.data))
    defaults = {} if body is None else {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        parts = urlsplit(url)
        # Bytes that were no UTF-8 on the command line are sent as they are.
        path, query = (
            quote(part, safe=URL_CHARACTERS, errors="surrogateescape")
            for part in (parts.path, parts.query)
        )
        return EventSource(
            parts._replace(path=path, query=query).geturl(),
            method=arguments.request or ("GET" if body is None else "POST"),
            headers=_with_header_lines(defaults, arguments.header),
            data=body,
            last_event_id=arguments.last_event_id,
            until=arguments.until,
            **options,
        )
    except ValueError as error:
        arguments.fail(f"{error}")
        raise


def say(message: str) -> None:
    # Where there is no standard error, print() would take standard output.
    if sys.stderr is not None:
        print(f"sse-fast: {message}", file=sys.stderr, flush=True)


def json_line(
    event: str, data: str, id: str, retry: int | None, offset: int | None = None
) -> bytes:
    """An event as a line of JSON; with an `offset`, if there is one."""
    # Three times as fast as json.dumps, which looks at what each value is.
    retry_text = "null" if retry is None else retry
    more = "" if offset is None else f', "offset": {offset}'
    return (
        f'{{"event": {_quote(event)}, "data": {_quote(data)}, "id": {_quote(id)}, '
        f'"retry": {retry_text}{more}}}\n'
    ).encode()


def standard_input() -> Any:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


def try_to_write(path: Path) -> None:
    """Raises OSError; leaves what is there as it is."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        # A link that leads to it stays.
        path.resolve().unlink()


def _read_data(data: str) -> bytes:
    """`-d` as curl takes it: a file comes without its line ends."""
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
    """`-H` as curl takes it: a line replaces what would be sent, removes it or sends it empty."""
    fields: list[tuple[str, bytes | None]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        emptied = not colon and name.endswith(";")
        if emptied:
            name = name[:-1]
        if not name or not (colon or emptied):
            # Without the line itself: it may be a secret that lost its name.
            raise ValueError("expected a header line 'Name: value', got one without that form")
        fields.append((name, os.fsencode(value) if value or emptied else None))
    given = {name.lower() for name, _ in fields}
    own = [(name, os.fsencode(value)) for name, value in defaults.items()]
    return [*(each for each in own if each[0].lower() not in given), *fields]
