"""Events as text: in the form of an event stream, as lines of JSON, or their data alone."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sse_fast import Event
from sse_fast._cli._json_lines import json_line
from sse_fast._cli._terminal import binary_output, visible
from sse_fast._cli._timing_index import time_text

_NAME, _COMMENT, _PLAIN = "\x1b[36m", "\x1b[2m", "\x1b[0m"


class Printer:
    """Prints events to standard output, each immediately."""

    def __init__(self, form: str, *, timestamps: bool, colors: bool) -> None:
        """Choose the form.

        Args:
            form: "stream", "json" or "data".
            timestamps: whether to print when each event arrived.
            colors: whether to color the names of fields.
        """
        self._output = binary_output()
        self._encode: Callable[[Event, str | None], bytes] = {
            "stream": self._as_stream,
            "json": self._as_json,
            "data": self._as_data,
        }[form]
        self._timestamps = timestamps
        self._colors = colors
        # Colors are for terminals, to which a pager may pass them on.
        self._to_terminal = colors or sys.stdout.isatty()
        self._last_id = ""

    def print(self, event: Event, arrival: float | None) -> None:
        """Print an event, which arrived at a time in seconds since the epoch."""
        raw = self._encode(event, None if arrival is None else time_text(arrival))
        if self._to_terminal:
            text = visible(raw.decode("utf-8", "replace"))
            if self._colors:
                text = "".join(map(_colored, text.splitlines(keepends=True)))
            raw = text.encode()
        self._output.write(raw)
        # A person or a pipe may be waiting for it.
        self._output.flush()

    def _as_stream(self, event: Event, arrival: str | None) -> bytes:
        time = b": %b\n" % arrival.encode() if self._timestamps and arrival is not None else b""
        # encode() writes no line for an empty id, but the output needs one to reset the id.
        reset = b"id\n" if self._last_id and not event.id else b""
        self._last_id = event.id
        return time + reset + event.encode()

    def _as_json(self, event: Event, arrival: str | None) -> bytes:
        more = {"arrival": arrival} if self._timestamps else {}
        return json_line(event.event, event.data, event.id, event.retry, more)

    def _as_data(self, event: Event, arrival: str | None) -> bytes:
        time = f"{arrival or ''}\t" if self._timestamps else ""
        return f"{time}{event.data}\n".encode()


def _colored(line: str) -> str:
    """Color the name of a field, or a whole comment."""
    if line.startswith(":"):
        return f"{_COMMENT}{line[:-1]}{_PLAIN}\n"
    name, colon, value = line.partition(":")
    return f"{_NAME}{name}{_PLAIN}{colon}{value}" if colon else line
