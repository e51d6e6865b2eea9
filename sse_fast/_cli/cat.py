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
from sse_fast._cli._output import check_standard_output


def add_to(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "cat",
        help="print events as they arrive",
        description="Print the events of a URL, a file or standard input as they arrive, "
        "in the form of an event stream. Connecting times out after 10 seconds, and a stream "
        "after 300 seconds of silence. A GET that ends or breaks off is resumed after the last "
        "event, as in browsers, until --until is met or the server answers 204. Any other request "
        "ends with its stream, and is not repeated after a break. A URL needs the extra [client].",
    )
    parser.add_argument("source", metavar="URL|FILE|-", help="what to read; - is standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--no-reconnect", action="store_true", help="make one attempt, and stop")
    add_request_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    is_request = is_url(arguments)
    if not is_request and (arguments.request or arguments.header or arguments.data):
        arguments.fail("-X, -H and -d need a URL")
    if not is_request and (arguments.no_reconnect or arguments.last_event_id):
        arguments.fail("--no-reconnect and --last-event-id need a URL")
    log_if_verbose(arguments)
    check_standard_output()
    with ExitStack() as stack:
        events: EventSource | EventStream
        if is_request:
            policy = ReconnectPolicy.never() if arguments.no_reconnect else ReconnectPolicy()
            events = stack.enter_context(event_source(arguments, policy=policy))
        elif arguments.source == "-":
            events = iter_events(standard_input(), until=arguments.until)
        else:
            file = stack.enter_context(open(arguments.source, "rb"))
            events = iter_events(file, until=arguments.until)
        _print_events(events, as_json=arguments.json)
        if events.end_reason is EndReason.END and events.pending:
            print("sse-fast: the stream ended within an event, which was dropped", file=sys.stderr)
    return 0


def _print_events(events: Iterable[Event], *, as_json: bool) -> None:
    output = sys.stdout.buffer
    last_id = ""
    for event in events:
        if as_json:
            output.write(json_line(event.event, event.data, event.id, event.retry))
        else:
            # encode() writes no line for an empty id, but the output needs one to reset the id.
            output.write(b"id\n" if last_id and not event.id else b"")
            output.write(event.encode())
            last_id = event.id
        # Flush each event: a person or a pipe may be waiting for it.
        output.flush()
