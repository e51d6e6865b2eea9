"""The parts of `Event` and `Parser` that both cores share, because their speed does not matter."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sse_fast._core.parser_py import Event

_END_OF_LINE = re.compile(r"\r\n|\n|\r")
_NAMES = {"\r": "CR", "\n": "LF", "\0": "NUL"}
MAX_INT = 2**63 - 1
"""The largest `retry` in ms; larger values of a stream count as this."""
NO_TYPES: frozenset[str] = frozenset()
"""Shared by all parsers without `until_event`: each empty set takes 216 bytes."""


def exact_str(name: str, value: object) -> str:
    """Return the text of `value`, which may be a subclass of str, such as an enum."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"Expected {name} to be a str, got {type(value).__name__}")


def _refuse_characters(name: str, value: str, forbidden: str) -> None:
    """Refuse CR and LF, which end a field, and NUL, for which parsers ignore an id."""
    for character in forbidden:
        if character in value:
            raise ValueError(f"{name} must not contain {_NAMES[character]}")


def _refuse_surrogates(name: str, value: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} must not contain a lone surrogate, which has no form in UTF-8")


class Options(NamedTuple):
    """The keywords of `Parser`, checked and prepared for the loops."""

    last_event_id: str
    decode: Callable[[bytes], Any] | None
    decode_types: dict[str, Callable[[bytes], Any]] | None
    until: Callable[[Event[Any]], object] | None
    until_data: bytes | None
    until_types: frozenset[str]


def _check_types(until_event: object) -> frozenset[str]:
    """Return the event types of `until_event`: a str is one type, not its characters."""
    if isinstance(until_event, str):
        until_event = (until_event,)
    elif not isinstance(until_event, Collection) or isinstance(
        until_event, (bytes, bytearray, memoryview)
    ):
        raise TypeError(
            "Expected until_event to be a str or a collection of str, got "
            f"{type(until_event).__name__}: pass an event type, or a tuple of them"
        )
    types = frozenset(exact_str("each type in until_event", each) for each in until_event)
    if not types:
        return NO_TYPES
    for each in types:
        if not each:
            raise ValueError(
                "until_event has an empty event type, which no event has: 'message' is the type of "
                "events without one"
            )
        _refuse_characters("until_event", each, "\r\n")
        _refuse_surrogates("until_event", each)
    return types


def check_options(
    last_event_id: object,
    max_event_size: object,
    on_comment: object,
    decode: Any,
    until: Any,
    until_event: object,
) -> Options:
    """Check the keywords of `Parser`.

    Raises:
        TypeError: a keyword has the wrong type.
        ValueError: `last_event_id` has a CR, LF or NUL, `max_event_size` is less than 1, or
            `until_event` has a type that no event can have.
    """
    last_event_id = exact_str("last_event_id", last_event_id)
    _refuse_characters("last_event_id", last_event_id, "\r\n\0")
    if type(max_event_size) is not int:
        raise TypeError(
            f"Expected max_event_size to be an int, got {type(max_event_size).__name__}"
        )
    if max_event_size < 1:
        raise ValueError(f"Expected max_event_size of at least 1 byte, got {max_event_size}")
    if on_comment is not None and not callable(on_comment):
        raise TypeError(
            f"Expected on_comment to be callable or None, got {type(on_comment).__name__}"
        )
    decode_types = None
    if isinstance(decode, Mapping):
        decode_types, decode = dict(decode), None
        for event_type, function in decode_types.items():
            if not callable(function):
                raise TypeError(
                    f"Expected decode[{event_type!r}] to be callable, got {type(function).__name__}"
                )
    elif decode is not None and not callable(decode):
        raise TypeError(
            "Expected decode to be callable, a mapping from event type to callables or None, "
            f"got {type(decode).__name__}"
        )
    until_data = None
    if isinstance(until, str):
        until_data, until = until.encode(), None
    elif until is not None and not callable(until):
        raise TypeError(f"Expected until to be a str, callable or None, got {type(until).__name__}")
    until_types = _check_types(until_event)
    return Options(last_event_id, decode, decode_types, until, until_data, until_types)


# -- Methods of Event, which both classes have as theirs ----------------------------------------


def json(self: Event[Any], loads: Callable[[Any], Any] | None = None) -> Any:  # noqa: D417
    """Decode the data as JSON.

    Args:
        loads: the decoder, called with the data; `json.loads` by default. Its exceptions are raised
            unchanged.

    Raises:
        TypeError: the data is neither text nor bytes, because `decode` has decoded it already.
    """
    if not isinstance(self.data, (str, bytes, bytearray)):
        raise TypeError(
            f"Expected the data of the event as text, got {type(self.data).__name__}: "
            "decode has decoded it already"
        )
    if loads is None:
        # Imported here because parsing does not need it.
        import json

        loads = json.loads
    return loads(self.data)


def encode(self: Event[Any]) -> bytes:
    """Encode the event as lines of an event stream, with the blank line at the end.

    A parser makes an equal event of them, except that every CR, LF or CRLF in `data` starts a new
    data line and comes back as LF. An `event` of "message" and an empty `id` have no line.

    Raises:
        TypeError: `data` is not a str, because `decode` has decoded it.
        ValueError: `event` or `id` contains CR or LF, which would inject a field; `id` contains
            NUL, for which a parser would ignore it; `event` is empty; or `retry` is not an int
            from 0 to 2**63 - 1.
    """
    if not isinstance(self.data, str):
        raise TypeError(
            f"Expected the data of the event to be a str, got {type(self.data).__name__}: "
            "encode Event(event.event, json.dumps(event.data), event.id), or read without decode="
        )
    lines = []
    if self.event != "message":
        if not self.event:
            raise ValueError("The event type is empty: use 'message' for an event without one")
        _refuse_characters("event", self.event, "\r\n")
        lines.append(f"event: {self.event}\n")
    if self.id:
        _refuse_characters("id", self.id, "\r\n\0")
        lines.append(f"id: {self.id}\n")
    if self.retry is not None:
        if type(self.retry) is not int or not 0 <= self.retry <= MAX_INT:
            raise ValueError(
                f"Expected retry to be an int from 0 to 2**63 - 1 (ms), got {self.retry!r}"
            )
        lines.append(f"retry: {self.retry}\n")
    lines.extend(f"data: {line}\n" for line in _END_OF_LINE.split(self.data))
    lines.append("\n")
    return "".join(lines).encode()


def encode_comment(text: str) -> bytes:
    """Encode a comment, which parsers skip, as lines of an event stream.

    Servers send comments so that a quiet connection is not taken for a dead one. Every line ends,
    and no blank line follows, so that a comment may be sent between any two lines: it dispatches
    nothing, and does not end a block that was begun.

    Args:
        text: the comment; every CR, LF or CRLF in it starts a new comment line. It may be empty.

    Raises:
        TypeError: `text` is not a str.
        ValueError: `text` contains a lone surrogate.
    """
    text = exact_str("text", text)
    _refuse_surrogates("The comment", text)
    return "".join(f": {line}\n" if line else ":\n" for line in _END_OF_LINE.split(text)).encode()


json.__qualname__ = "Event.json"
encode.__qualname__ = "Event.encode"
