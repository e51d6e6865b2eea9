"""sse-fast cat: print the events of a URL, a file or standard input as they arrive."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sse_fast import EndReason, SSEError, iter_events
from sse_fast._cli._common import (
    add_request_options,
    has_request_options,
    is_url,
    say,
    standard_input,
)
from sse_fast._cli._inputs import Clock, FieldWatch, chunks_of
from sse_fast._cli._output import check_standard_output
from sse_fast._cli._printing import Printer
from sse_fast._cli._terminal import has_colors

# The client is imported for a URL only: it takes longer to import than all the rest.
if TYPE_CHECKING:
    from sse_fast import EventSource, EventStream


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Print the events of a URL, a file or standard input as they arrive, "
        "in the form of an event stream. Files may be compressed by gzip or zstd; one that has no "
        "line of an event stream is refused. Connecting times out after 10 seconds, and a stream "
        "after 300 seconds of silence. A GET that ends or breaks off is resumed after the last "
        "event, as in browsers, until --until or --until-event is met or the server answers 204. "
        "Any other request ends with its stream, and is not repeated after a break. A URL needs "
        "the extra [client]."
    )
    parser.add_argument("source", metavar="URL|FILE|-", help="what to read; - is standard input")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="form",
        action="store_const",
        const="json",
        default="stream",
        help="print one JSON object per line",
    )
    form.add_argument(
        "--data",
        dest="form",
        action="store_const",
        const="data",
        help="print the data of each event and an end of line, and nothing else",
    )
    parser.add_argument(
        "--timestamps",
        action="store_true",
        help="print when each event arrived: as a comment, with --json as `arrival`, with --data "
        "before a TAB; for a file by its index, FILE.timing, or else when it is read",
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="color the names of fields (default: on terminals, unless NO_COLOR is set)",
    )
    parser.add_argument("--no-reconnect", action="store_true", help="make one attempt, and stop")
    add_request_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    is_request = is_url(arguments)
    if not is_request and (arguments.request or arguments.header or arguments.body):
        arguments.fail("-X, -H and -d need a URL")
    if not is_request and (arguments.no_reconnect or arguments.last_event_id):
        arguments.fail("--no-reconnect and --last-event-id need a URL")
    if not is_request and has_request_options(arguments):
        arguments.fail("--cacert, --insecure and --no-check need a URL")
    check_standard_output()
    colors = arguments.form == "stream" and has_colors(arguments.color)
    printer = Printer(arguments.form, timestamps=arguments.timestamps, colors=colors)
    clock, watch = Clock(), FieldWatch()
    ends = {"until": arguments.until, "until_event": arguments.until_event}
    with ExitStack() as stack:
        events: EventSource | EventStream
        name = arguments.source
        if is_request:
            from sse_fast._cli._waiting import telling

            events = _request(arguments, clock, watch)
            # The URL without its query.
            name = events.name
            stack.enter_context(telling(events, arguments))
            stack.enter_context(events)
        elif arguments.source == "-":
            name = "standard input"
            chunks = chunks_of(standard_input(), None, clock)
            events = iter_events(_watched(chunks, watch), **ends)
        else:
            path = Path(arguments.source)
            file = stack.enter_context(path.open("rb"))
            events = iter_events(_watched(chunks_of(file, path, clock), watch), **ends)
        try:
            for event in events:
                printer.print(event, clock.now)
        except SSEError:
            # A page that is cut off, or a binary file with long lines, fails in other ways first.
            watch.check(name)
            raise
        if events.end_reason is EndReason.END:
            watch.check(name)
            if events.pending:
                say("the stream ended within an event, which was dropped")
    return 0


def _request(arguments: argparse.Namespace, clock: Clock, watch: FieldWatch) -> EventSource:
    """Make the client for a URL."""
    from sse_fast import ReconnectPolicy
    from sse_fast._cli._event_source import event_source

    def see(chunk: bytes) -> None:
        clock.tick(chunk)
        if arguments.no_check:
            watch.see(chunk)

    def check_latest(response: Any) -> None:
        # A page that is not a stream would be requested without end.
        watch.check(source.name)

    policy = ReconnectPolicy.never() if arguments.no_reconnect else ReconnectPolicy()
    source = event_source(arguments, policy=policy, on_chunk=see, on_open=check_latest)
    return source


def _watched(chunks: Iterator[bytes], watch: FieldWatch) -> Iterator[bytes]:
    for chunk in chunks:
        watch.see(chunk)
        yield chunk
