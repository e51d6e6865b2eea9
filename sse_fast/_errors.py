"""Every exception of sse_fast.

::

    SSEError
    ├── EventTooLarge     an event exceeded `max_event_size`
    ├── DecodeError       `decode` raised
    ├── ResponseError     the response is not an event stream
    ├── StreamIncomplete  the stream broke off and may not be requested again
    ├── TransportError    the source of the bytes failed
    │   └── StreamTimeout no byte, or no event, arrived in time
    ├── RetriableError    raised by a callback: reconnect
    └── FatalError        raised by a callback: stop

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
    """Base class of every exception that sse_fast defines."""

    def __reduce__(self) -> tuple[Any, ...]:
        # `read_columns` adds the columns read so far. They refer to memory of this process, so an
        # error that crosses to another one travels without them.
        state = {name: value for name, value in self.__dict__.items() if name != "columns"}
        return type(self), self.args, state


class EventTooLarge(SSEError):
    """An event exceeded `max_event_size`.

    `Parser` refuses input from then on, until `reset()`. `read_columns` and `iter_columns` can skip
    such events instead: `oversize="skip"`.

    Attributes:
        size: bytes that the event would have retained, more than `limit`. The exact number depends
            on how the stream was split into chunks.
        limit: the `max_event_size` in force, in bytes.
        events: the events that the same `feed` had completed before.
        offset: byte offset of the event's block in its source, if columns were read; else None.
        filename: the path of that source, if it is a file; else None.
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
        *,
        offset: int | None = None,
        filename: str | None = None,
    ) -> None:
        super().__init__(size, limit, list(events))
        self.size = size
        self.limit = limit
        self.events = list(events)
        self.offset = offset
        self.filename = filename

    def __str__(self) -> str:
        offset = "" if self.offset is None else f" at offset {self.offset}"
        filename = "" if self.filename is None else f" of {self.filename!r}"
        drop = "" if self.offset is None else ", or drop them with oversize='skip'"
        return (
            f"Event{offset}{filename} takes {self.size} bytes or more, over max_event_size "
            f"({self.limit}): raise max_event_size if events this large are expected{drop}"
        )


class DecodeError(SSEError):
    """`decode` raised for the data of one event; its exception is the `__cause__`.

    Only that event is dropped. The next call of `feed` parses the rest of the chunk; `feed(b"")` is
    enough.

    Attributes:
        event: the event that could not be decoded, with its `data` as text.
        events: the events that the same `feed` had completed before.
    """

    event: Any
    events: list[Any]

    def __init__(self, event: Any, events: Sequence[Any] = ()) -> None:
        super().__init__(event, list(events))
        self.event = event
        self.events = list(events)

    def __str__(self) -> str:
        # The event may be secret, and messages end up in logs.
        cause = "an exception" if self.__cause__ is None else type(self.__cause__).__name__
        return (
            f"decode raised {cause} for an event with {len(self.event.data)} characters of data: "
            "see .event and __cause__; feed(b'') continues with the next event"
        )


class ResponseError(SSEError):
    """The response does not carry an event stream.

    Attributes:
        response: the `Response`, with the first 64 KiB of its body.
        retry_after: seconds that the header Retry-After asks to wait; None without one.
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
    """The stream broke off, and the client may not request it again by itself.

    The `__cause__` is the error that ended the stream, if there was one. `last_event_id` of the
    source is the id after the last event that was taken.
    """


class TransportError(SSEError):
    """The source of the bytes failed; the `__cause__` is its exception, if it raised one.

    Attributes:
        phase: the step that failed: `"connect"`, `"send"`, `"head"` or `"body"`.
        sent: whether a byte of the request may have reached the server.
    """

    phase: str
    sent: bool

    def __init__(self, message: str, *, phase: str = "body", sent: bool = True) -> None:
        super().__init__(message)
        self.phase = phase
        self.sent = sent


class StreamTimeout(TransportError):
    """No byte, or no event, arrived within the timeout."""


class RetriableError(SSEError):
    """Raised by a callback to drop the connection and reconnect.

    It counts as consent to send the request again.

    Attributes:
        delay: seconds to wait before reconnecting; None: as long as the policy says.
    """

    delay: float | None

    def __init__(self, *args: object, delay: float | None = None) -> None:
        if delay is not None and not 0 <= delay < MAX_SECONDS:
            raise ValueError(f"Invalid delay {delay!r}: pass seconds from 0 to below 1e9, or None")
        super().__init__(*args)
        self.delay = delay


class FatalError(SSEError):
    """Raised by a callback to stop; it propagates unchanged, as any other exception does."""
