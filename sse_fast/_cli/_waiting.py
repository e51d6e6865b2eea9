"""Messages on standard error about what a command waits for: a connection, or the next attempt."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sse_fast import EventSource, ReadyState
from sse_fast._cli._common import say

_PATIENCE = 3.0
"""Seconds of connecting that pass without a message."""


@contextmanager
def telling(source: EventSource, arguments: argparse.Namespace) -> Iterator[None]:
    """Tell what the source waits for while the block runs; with -v everything, with -q nothing."""
    if arguments.quiet:
        yield
        return
    logger = logging.getLogger("sse_fast")
    before = logger.level
    handler = _Handler(everything=arguments.verbose)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(source, handler, stop), daemon=True)
    if not arguments.verbose:
        watcher.start()
    try:
        yield
    finally:
        stop.set()
        logger.setLevel(before)
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    """Prints the records about waiting, or all, as the commands print their own messages."""

    def __init__(self, *, everything: bool) -> None:
        super().__init__()
        self._everything = everything
        self.next_attempt_at = 0.0
        """When the latest wait ends that was told (monotonic clock)."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        is_wait = "next attempt in" in message
        if is_wait and isinstance(record.args, tuple) and isinstance(record.args[-1], float):
            self.next_attempt_at = time.monotonic() + record.args[-1]
        # A connection that needed no wait is no news.
        if self._everything or is_wait or record.levelno >= logging.WARNING:
            say(message)


def _watch(source: EventSource, handler: _Handler, stop: threading.Event) -> None:
    """Say that the source is connecting, if that takes longer than usual."""
    since: float | None = None
    told = False
    while not stop.wait(0.1):
        now = time.monotonic()
        if source.ready_state is not ReadyState.CONNECTING or now < handler.next_attempt_at:
            since, told = None, False
        elif since is None:
            since = now
        elif not told and now - since > _PATIENCE:
            say(f"connecting to {source.name}")
            told = True
