"""Functions that several commands share: options, messages, standard input."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from typing import Any

from sse_fast._cli._terminal import visible


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
        "--until-event",
        metavar="TYPE",
        action="append",
        default=[],
        help="stop at an event of this type, also without data, such as 'done'; may be repeated",
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
        help="accept a response whose content type is not text/event-stream, and any success (2xx)",
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


def say(message: str) -> None:
    """Print a message to standard error, if there is one; it may contain text from a server."""
    # print(file=None) would print to standard output.
    if sys.stderr is not None:
        print(f"sse-fast: {visible(message)}", file=sys.stderr, flush=True)


def standard_input() -> Any:
    """Return standard input as a binary file.

    Raises:
        OSError: the process has none.
    """
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer
