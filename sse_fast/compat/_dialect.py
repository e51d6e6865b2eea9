"""The deviations of other parsers from the standard, as flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Dialect"]


class Dialect(NamedTuple):
    """How `DialectParser` deviates from `Parser`; by default, it does not.

    The flags say when a blank line completes an event, and what the event holds.
    """

    event_class: type | None = None
    """The class of the events, which are made without calling it; None: `sse_fast.Event`."""

    attributes: tuple[str, ...] = ("event", "data", "id", "retry")
    """The attributes of `event_class` for type, data, id, retry and, with `keep_lines`, lines."""

    default_event: str | None = "message"
    """The event type of a block without one."""

    dispatch_fields: bool = False
    """Whether a block with an `event`, `id` or `retry` line is an event even without data."""

    dispatch_values: bool = False
    """Whether a blank line is an event if an event type, a `retry` or a last event ID is set; so
    every blank line is one after the first id."""

    none_before_id: bool = False
    """Whether `id` is None until the stream sets one, even to ""."""

    forget_id: bool = False
    """Whether `id` is None if the block's own lines do not set it."""

    read_retry: Callable[[str], Any] | None = None
    """Makes `retry` of the value of each such line; ValueError drops the line."""

    keep_lines: bool = False
    """Whether events have the text of all lines of their block, comments and unknown fields
    included; `max_event_size` does not count it."""

    def check(self) -> None:
        """Check the class and its attributes before the first event needs them.

        Raises:
            TypeError: instances of `event_class` cannot be made without its constructor.
            ValueError: there are too few or too many `attributes`.
        """
        if self.event_class is None:
            return
        object.__new__(self.event_class)
        expected = 5 if self.keep_lines else 4
        if len(self.attributes) != expected:
            raise ValueError(f"Expected {expected} attributes, got {self.attributes!r}")
