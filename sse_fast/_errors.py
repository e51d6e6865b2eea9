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

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from sse_fast._seconds import check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


class SSEError(Exception):
    """Base class of every exception that sse_fast defines.

    All can be copied and pickled, for example to leave a worker process. A pickle holds no
    `__cause__`, as with any exception, and a text in the place of a value that cannot be pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructor is not called: that of a subclass may take other arguments.
        if _is_probing.get():
            return _make_error, (type(self), self.args), self._kept_state()
        portable = self.__dict__.get("_portable") or self._portable_parts({id(self): self})
        return _make_error, (_importable_class(type(self)), portable[0]), portable[1]

    def _kept_state(self) -> dict[str, Any]:
        """Return the attributes that a pickle keeps.

        `read_columns` adds the columns read so far. They refer to memory of this process, so an
        error that crosses to another one travels without them.
        """
        return {name: value for name, value in _attributes(self) if name != "columns"}

    def _portable_parts(self, memo: dict[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments and attributes that can be pickled."""
        args = tuple(_make_portable(each, memo) for each in self.args)
        state = self._kept_state()
        return args, {name: _make_portable(value, memo) for name, value in state.items()}

    def __copy__(self) -> Any:
        return self._copy_with(lambda value: value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        from copy import deepcopy

        def copy(value: Any) -> Any:
            try:
                return deepcopy(value, memo)
            except Exception:
                # For example a socket; the copies share it.
                return value

        return self._copy_with(copy, memo)

    def _copy_with(self, copy: Callable[[Any], Any], memo: dict[int, Any] | None = None) -> Any:
        made = _make_error(type(self), ())
        if memo is not None:
            memo[id(self)] = made
        made.args = tuple(map(copy, self.args))
        for name, value in _attributes(self):
            setattr(made, name, copy(value))
        made.__cause__ = self.__cause__
        made.__suppress_context__ = self.__suppress_context__
        return made


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

    def _kept_state(self) -> dict[str, Any]:
        return {**super()._kept_state(), "_cause_name": self._name_cause()}

    def _name_cause(self) -> str:
        # A pickled error has lost its cause, and an executor puts its own traceback there.
        name: str | None = self.__dict__.get("_cause_name")
        if name is not None:
            return name
        return "an exception" if self.__cause__ is None else type(self.__cause__).__name__

    def __str__(self) -> str:
        # The event may be secret, and messages end up in logs.
        return (
            f"decode raised {self._name_cause()} for an event with {len(self.event.data)} "
            "characters of data: "
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
        response: the `Response`, if its body cannot be decoded and nothing of it was, over our own
            transport: its `body` has the first bytes as they arrived. Otherwise None.
    """

    phase: str
    sent: bool
    response: Any = None
    # Whether the same request would fail again: the bytes are no framing or coding, or TLS was
    # refused. The end or the reset of a connection never is.
    permanent: bool = False

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
        if delay is not None:
            check_seconds(delay, "delay")
        super().__init__(*args)
        self.delay = delay


class FatalError(SSEError):
    """Raised by a callback to stop; it propagates unchanged, as any other exception does."""


# Whether `_can_be_pickled` runs.
_is_probing: ContextVar[bool] = ContextVar("_is_probing", default=False)

_PLAIN_TYPES = (str, bytes, int, float, bool, type(None))


_REFUSED_CERTIFICATE = re.compile("CERTIFICATE|UNKNOWN_CA")
# Bytes that are not TLS, or no version that both sides accept.
_NO_TLS = re.compile(
    "WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST|PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"
)

NO_TLS = "The server does not speak a TLS that the client accepts: check scheme and port"
"""The text for what `classify_tls_error` calls "protocol"."""


def classify_tls_error(error: BaseException) -> Literal["certificate", "protocol", ""]:
    """Return what was refused for good, if the error is of TLS: OpenSSL names it in `reason`."""
    reason = getattr(error, "reason", None)
    if "SSL" not in type(error).__name__ or not isinstance(reason, str):
        return ""
    if _REFUSED_CERTIFICATE.search(reason):
        return "certificate"
    return "protocol" if _NO_TLS.search(reason) else ""


def _make_error(cls: type[SSEError], args: tuple[Any, ...]) -> Any:
    """Make an error without its constructor; its attributes are set afterwards."""
    made = cls.__new__(cls)
    made.args = args
    return made


def _attributes(error: SSEError) -> list[tuple[str, Any]]:
    """Return the attributes of an error, with those that a subclass keeps in slots."""
    slots = [cls.__dict__.get("__slots__", ()) for cls in type(error).__mro__]
    names = [name for each in slots for name in ((each,) if isinstance(each, str) else each)]
    kept = [(name, getattr(error, name)) for name in names if hasattr(error, name)]
    return [*error.__dict__.items(), *kept]


def _importable_class(cls: type[SSEError]) -> type[SSEError]:
    """Return the class, or its nearest base that another process can import."""
    return next(each for each in cls.__mro__ if _can_be_pickled(each))


def _can_be_pickled(value: object) -> bool:
    import pickle

    # Errors within the value are not made portable meanwhile, which could take forever.
    probing = _is_probing.set(True)
    try:
        # Some classes, mostly of exceptions, can be pickled, but not loaded.
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    finally:
        _is_probing.reset(probing)
    return True


def _make_portable(value: Any, memo: dict[int, Any]) -> Any:
    """Return the value, with a text in the place of whatever in it cannot be pickled.

    Args:
        value: any object.
        memo: the results so far, by the id of the object, for objects that refer to themselves.
    """
    if type(value) in _PLAIN_TYPES:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, SSEError):
        made = memo[id(value)] = _make_error(type(value), ())
        made.__dict__["_portable"] = value._portable_parts(memo)
        return made
    if _can_be_pickled(value):
        return value
    # A container that holds itself gets the text in its own place.
    memo[id(value)] = f"<{type(value).__module__}.{type(value).__qualname__}, not pickled>"
    memo[id(value)] = made = _make_portable_parts(value, memo)
    return made


def _make_portable_parts(value: Any, memo: dict[int, Any]) -> Any:
    """Return a container with portable parts; the text in `memo` for any other object."""
    if type(value) in (list, tuple):
        return type(value)(_make_portable(each, memo) for each in value)
    if type(value) is dict:
        return {
            _make_portable(name, memo): _make_portable(each, memo) for name, each in value.items()
        }
    names = getattr(type(value), "__match_args__", ())
    if type(value).__module__ == "sse_fast" and names:
        # An event whose data was decoded to an object of the user.
        return type(value)(*(_make_portable(getattr(value, name), memo) for name in names))
    return memo[id(value)]
