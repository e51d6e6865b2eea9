"""sse-fast cat: print the events of a URL, a file or standard input as they arrive."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote, urlsplit

from sse_fast import (
    EndReason,
    Event,
    EventSource,
    EventStream,
    ReconnectPolicy,
    ResponseError,
    iter_events,
)
from sse_fast._request import URL_CHARACTERS


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "cat",
        help="print events as they arrive",
        description="Print the events of a URL, a file or standard input as they arrive, "
        "in the form of an event stream. A server has 10 seconds to accept the connection, and a "
        "stream may be quiet for 300. One that ends or breaks off is asked for again, as browsers "
        "do, from the last event on, until the server answers 204.",
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
    parser.add_argument("--no-reconnect", action="store_true", help="ask once")
    parser.add_argument(
        "--last-event-id", metavar="ID", default="", help="ask for what follows this event"
    )
    parser.add_argument(
        "--until", metavar="DATA", help="stop at an event of this data; for example '[DONE]'"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on standard error what happens"
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    source: str = arguments.source
    scheme, is_url, _ = source.partition("://")
    if is_url and scheme.lower() not in ("http", "https"):
        arguments.fail(f"expected a URL of http or https, got one of {scheme!r}")
    if not is_url and (arguments.request or arguments.header or arguments.data):
        arguments.fail("-X, -H and -d go with a URL")
    if not is_url and (arguments.no_reconnect or arguments.last_event_id):
        arguments.fail("--no-reconnect and --last-event-id go with a URL")
    if arguments.verbose:
        logging.basicConfig(format="sse-fast: %(message)s", level=logging.INFO)
        logging.getLogger("sse_fast").setLevel(logging.DEBUG)
    try:
        with ExitStack() as stack:
            events: EventSource | EventStream
            if is_url:
                events = stack.enter_context(_source(arguments))
            elif source == "-":
                events = iter_events(_standard_input(), until=arguments.until)
            else:
                events = iter_events(stack.enter_context(open(source, "rb")), until=arguments.until)
            _print_events(events, as_json=arguments.json)
            if events.end_reason is EndReason.END and events.pending:
                print(
                    "sse-fast: the stream ended within an event, which is dropped", file=sys.stderr
                )
    except ResponseError as error:
        # What the server has to say is what the user wants to read.
        text = error.response.body.decode("utf-8", "replace").strip()
        # A terminal would obey some of it.
        body = "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
        print(f"sse-fast: {error}{body and chr(10)}{body}", file=sys.stderr)
        return 1
    return 0


def _print_events(events: Iterable[Event], *, as_json: bool) -> None:
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


def _source(arguments: argparse.Namespace) -> EventSource:
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
            policy=ReconnectPolicy.never() if arguments.no_reconnect else ReconnectPolicy(),
        )
    except ValueError as error:
        arguments.fail(f"{error}")
        raise


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
