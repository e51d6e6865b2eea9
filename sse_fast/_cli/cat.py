"""sse-fast cat: print the events of a URL, a file or standard input as they arrive."""

from __future__ import annotations

import argparse
import base64
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sse_fast import Event, EventStream, ResponseError, TransportError, __version__, iter_events
from sse_fast._source import without_secrets

_CONNECT_TIMEOUT = 10.0
_IDLE_TIMEOUT = 300.0
_URL_CHARACTERS = "/?%:@!$&'()*+,;=~[]"


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "cat",
        help="print events as they arrive",
        description="Print the events of a URL, a file or standard input as they arrive, "
        "in the form of an event stream. A server has 10 seconds to accept the connection, and a "
        "stream may be quiet for 300.",
    )
    parser.add_argument("source", metavar="URL|FILE|-", help="what to read; - is standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
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
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    source: str = arguments.source
    scheme, is_url, _ = source.partition("://")
    if is_url and scheme.lower() not in ("http", "https"):
        arguments.fail(f"expected a URL of http or https, got one of {scheme!r}")
    if not is_url and (arguments.request or arguments.header or arguments.data):
        arguments.fail("-X, -H and -d go with a URL")
    with ExitStack() as stack:
        if is_url:
            try:
                opened: Any = stack.enter_context(_request(arguments))
                events = stack.enter_context(iter_events(opened))
            except ResponseError as error:
                # What the server has to say is what the user wants to read.
                body = error.response.body.decode("utf-8", "replace").strip()
                print(f"sse-fast: {error}{body and chr(10)}{body}", file=sys.stderr)
                return 1
        elif source == "-":
            events = iter_events(_standard_input())
        else:
            events = iter_events(stack.enter_context(open(source, "rb")))
        _print_events(events, as_json=arguments.json)
        if events.pending:
            print("sse-fast: the stream ended within an event, which is dropped", file=sys.stderr)
    return 0


def _print_events(events: EventStream, *, as_json: bool) -> None:
    output = sys.stdout.buffer
    last_id = ""
    for event in events:
        if as_json:
            output.write(_as_json(event))
        else:
            # encode() has no line for an empty id: here it takes back the one before.
            output.write(b"id\n" if last_id and not event.id else b"")
            output.write(event.encode())
            last_id = event.id
        # At once: somebody may be watching.
        output.flush()


def _as_json(event: Event) -> bytes:
    fields = {"event": event.event, "data": event.data, "id": event.id, "retry": event.retry}
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


@contextmanager
def _request(arguments: argparse.Namespace) -> Iterator[HTTPResponse]:
    """Send the request and give the response, whatever its status."""
    try:
        url = urlsplit(arguments.source)
        host, port = url.hostname, url.port
    except ValueError as error:
        arguments.fail(f"expected a URL: {error}")
    if not host:
        arguments.fail("expected a URL with a host")
    where = without_secrets(arguments.source)
    body = None if arguments.data is None else b"&".join(map(_read_data, arguments.data))
    method = arguments.request or ("GET" if body is None else "POST")
    headers = {
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        "Cache-Control": "no-store",
        "User-Agent": f"sse-fast/{__version__}",
    }
    if body is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        headers["Content-Length"] = str(len(body))
    if url.username is not None:
        user = os.fsencode(f"{unquote(url.username)}:{unquote(url.password or '')}")
        headers["Authorization"] = f"Basic {base64.b64encode(user).decode()}"
    try:
        fields = _with_header_lines(headers, arguments.header)
    except ValueError as error:
        arguments.fail(str(error))
    # Bytes that were no UTF-8 on the command line are sent as they are.
    target = quote(
        urlunsplit(("", "", url.path or "/", url.query, "")),
        safe=_URL_CHARACTERS,
        errors="surrogateescape",
    )
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = None
    try:
        try:
            connection = kind(host, port, timeout=_CONNECT_TIMEOUT)
            connection.connect()
            connection.sock.settimeout(_IDLE_TIMEOUT)
            own_host = any(line.lower().startswith(("host:", "host;")) for line in arguments.header)
            connection.putrequest(method, target, skip_host=own_host, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name, os.fsencode(value))
            connection.endheaders(body)
            response = connection.getresponse()
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise TransportError(f"Expected a response of {where}, got: {reason}") from error
        response.url = arguments.source  # as urllib.request does
        yield response
    finally:
        if connection is not None:
            connection.close()


def _standard_input() -> Any:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


def _read_data(data: str) -> bytes:
    """`-d` as curl takes it: a file comes without its line ends."""
    if not data.startswith("@"):
        return os.fsencode(data)
    if data == "@-":
        content = _standard_input().read()
    else:
        with open(data[1:], "rb") as file:
            content = file.read()
    return bytes(content.translate(None, b"\r\n\0"))


def _with_header_lines(headers: dict[str, str], lines: Iterable[str]) -> list[tuple[str, str]]:
    """`-H` as curl takes it: a line replaces what would be sent, removes it or sends it empty."""
    own: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        emptied = not colon and name.endswith(";")
        if emptied:
            name = name[:-1]
        if not name or not (colon or emptied):
            # Without the line itself: it may be a secret that lost its name.
            raise ValueError("expected a header line 'Name: value', got one without that form")
        headers = {key: kept for key, kept in headers.items() if key.lower() != name.lower()}
        if value or emptied:
            own.append((name, value))
    return [*headers.items(), *own]
