"""Every exception of sse_fast.

::

    SSEError
    ├── EventTooLarge     an event over `max_event_size`
    ├── DecodeError       `decode` raised
    ├── ResponseError     not a response with an event stream
    ├── StreamIncomplete  the stream broke off, and may not be asked for again
    ├── TransportError    the source of the bytes failed
    │   └── StreamTimeout nothing came for too long
    ├── RetriableError    raised by a callback: ask again
    └── FatalError        raised by a callback: give up

Event streams have no syntax errors: every sequence of bytes is one (HTML standard, 9.2.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DecodeError",
    "EventTooLarge",
    "FatalError",
    "ResponseError",
    "RetriableError",
    "SSEError",
    "StreamIncomplete",
    "StreamTimeout",
    "TransportError",
]

MAX_SECONDS = 1e9
"""Upper bound of every duration: some thirty years, which any clock can represent."""


class SSEError(Exception):
    """The base of every exception that sse_fast defines.

    Attributes:
        columns: if `read_columns` raised it, what came before; else None. Pickles do without.
    """

    columns: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "columns": None}


class EventTooLarge(SSEError):
    """An event grew over `max_event_size`.

    Attributes:
        size: what would have been retained, in bytes; more than `limit`. How much more depends
            on how the bytes were cut into chunks.
        limit: the `max_event_size` of the parser, in bytes.
        events: the events that the same `feed` had completed before.
        offset: where in its source the block of the event begins, in bytes, if columns were read;
            else None.
        filename: the path of its source, if that was one; else None.
    """

    size: int
    limit: int
    events: list[Any]
    offset: int | None
    filename: str | None

    def __init__(
        self,
        size: int,
        limit: int,
        events: Sequence[Any] = (),
        offset: int | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(size, limit, list(events), offset, filename)
        self.size = size
        self.limit = limit
        self.events = list(events)
        self.offset = offset
        self.filename = filename

    def __str__(self) -> str:
        if self.offset is not None:
            of_file = "" if self.filename is None else f" of {self.filename!r}"
            return (
                f"Expected an event of at most {self.limit} bytes, got one of {self.size} or more "
                f"at offset {self.offset}{of_file}: raise max_event_size if events this large are "
                "wanted; on_error='skip' leaves them out"
            )
        return (
            f"Expected an event of at most {self.limit} bytes, got one of {self.size} or more: "
            "raise max_event_size if events this large are wanted; "
            "the parser takes no more input until reset()"
        )


class DecodeError(SSEError):
    """`decode` raised for the data of one event; what it raised is the `__cause__`.

    Attributes:
        event: the event at fault, its `data` as text.
        events: the events that the same `feed` had completed before.

    The event is dropped and nothing else: the rest of the chunk follows at the next `feed`,
    for which `feed(b"")` is enough.
    """

    event: Any
    events: list[Any]

    def __init__(self, event: Any, events: Sequence[Any] = ()) -> None:
        super().__init__(event, list(events))
        self.event = event
        self.events = list(events)

    def __str__(self) -> str:
        # Nothing of the event itself: it may be secret, and messages end up in logs.
        cause = type(self.__cause__).__name__ if self.__cause__ is not None else "an exception"
        return (
            f"Expected decode to take the data of an event ({len(self.event.data)} characters), "
            f"got {cause}: see .event and __cause__; feed(b'') goes on behind it"
        )


class ResponseError(SSEError):
    """A response that does not carry an event stream.

    Attributes:
        response: the `Response`, with the first 64 KiB of its body.
        retry_after: seconds to wait, as the header Retry-After asks, or None.
    """

    response: Any
    retry_after: float | None

    def __init__(self, message: str, response: Any, retry_after: float | None = None) -> None:
        super().__init__(message, response, retry_after)
        self.response = response
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class StreamIncomplete(SSEError):
    """The stream broke off before its end, and may not be asked for again by the client itself.

    What ended it, if that was an error, is the `__cause__`. `last_event_id` of the source says up
    to where its events were taken.
    """


class TransportError(SSEError):
    """The source of the bytes failed; what it raised, if it raised, is the `__cause__`.

    Attributes:
        phase: what was going on: `"connect"`, `"send"`, `"head"` or `"body"`.
        sent: whether a byte of the request may have reached the server.
    """

    phase: str
    sent: bool

    def __init__(self, message: str, *, phase: str = "body", sent: bool = True) -> None:
        super().__init__(message)
        self.phase = phase
        self.sent = sent


class StreamTimeout(TransportError):
    """No byte, or no event, came within the time that was set."""


class RetriableError(SSEError):
    """For callbacks to raise: drop the connection and ask again, which counts as consent.

    Attributes:
        delay: seconds to wait before; None: as long as the policy says.
    """

    delay: float | None

    def __init__(self, *args: object, delay: float | None = None) -> None:
        if delay is not None and not 0 <= delay < MAX_SECONDS:
            raise ValueError(f"Expected delay to be a number of seconds from 0, got {delay!r}")
        super().__init__(*args)
        self.delay = delay


class FatalError(SSEError):
    """For callbacks to raise: end it all. It comes out unchanged, like any other exception."""
