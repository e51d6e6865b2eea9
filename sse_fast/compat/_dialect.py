"""What other parsers do otherwise than the standard, as flags: for `compat` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Dialect"]


class Dialect(NamedTuple):
    """How `DialectParser` differs from `Parser`. Without arguments: not at all.

    `default_event` and six flags, which say when a blank line completes an event, and what it
    holds. Private: programs get them by the names that `compat` lends.
    """

    event_class: type | None = None
    """The class of the events, made without its constructor; None: `sse_fast.Event`."""

    attributes: tuple[str, ...] = ("event", "data", "id", "retry")
    """Where an event of `event_class` holds them; with `keep_lines`, of the lines too."""

    default_event: str | None = "message"
    """The event type of a block that names none."""

    dispatch_fields: bool = False
    """A block with an `event`, `id` or `retry` line is an event without a data line too."""

    dispatch_values: bool = False
    """A blank line is an event whenever an event type, a `retry` or a last event ID is set: so
    every one is, once an id came."""

    none_before_id: bool = False
    """`id` is None until the stream has set one, if only to ""."""

    forget_id: bool = False
    """`id` is that of the block's own lines, else None."""

    read_retry: Callable[[str], Any] | None = None
    """Makes `retry` of the value of each such line; one it raises ValueError at does not count."""

    keep_lines: bool = False
    """The text of each of the block's lines too, comments and unknown fields included;
    `max_event_size` does not count it."""

    def check(self) -> None:
        """Refuse what would break at the first event.

        Raises:
            TypeError: `event_class` is not like those that `class` makes.
            ValueError: too few or too many `attributes`.
        """
        if self.event_class is None:
            return
        object.__new__(self.event_class)
        expected = 5 if self.keep_lines else 4
        if len(self.attributes) != expected:
            raise ValueError(f"Expected {expected} attributes, got {self.attributes!r}")
