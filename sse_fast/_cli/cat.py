"""sse-fast cat: print the events of a URL, a file or standard input as they arrive."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from sse_fast import EndReason, Event, EventSource, EventStream, ReconnectPolicy, iter_events
from sse_fast._cli._common import (
    add_request_options,
    event_source,
    is_url,
    json_line,
    log_if_verbose,
    standard_input,
)


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
    parser.add_argument("--no-reconnect", action="store_true", help="ask once")
    add_request_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    asks = is_url(arguments)
    if not asks and (arguments.request or arguments.header or arguments.data):
        arguments.fail("-X, -H and -d go with a URL")
    if not asks and (arguments.no_reconnect or arguments.last_event_id):
        arguments.fail("--no-reconnect and --last-event-id go with a URL")
    log_if_verbose(arguments)
    with ExitStack() as stack:
        events: EventSource | EventStream
        if asks:
            policy = ReconnectPolicy.never() if arguments.no_reconnect else ReconnectPolicy()
            events = stack.enter_context(event_source(arguments, policy=policy))
        elif arguments.source == "-":
            events = iter_events(standard_input(), until=arguments.until)
        else:
            file = stack.enter_context(open(arguments.source, "rb"))
            events = iter_events(file, until=arguments.until)
        _print_events(events, as_json=arguments.json)
        if events.end_reason is EndReason.END and events.pending:
            print("sse-fast: the stream ended within an event, which is dropped", file=sys.stderr)
    return 0


def _print_events(events: Iterable[Event], *, as_json: bool) -> None:
    output = sys.stdout.buffer
    last_id = ""
    for event in events:
        if as_json:
            output.write(json_line(event.event, event.data, event.id, event.retry))
        else:
            # encode() has no line for an empty id: here it takes back the one before.
            output.write(b"id\n" if last_id and not event.id else b"")
            output.write(event.encode())
            last_id = event.id
        # At once: somebody may be watching.
        output.flush()
