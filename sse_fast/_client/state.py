"""The state of a source: its options, its public attributes, and what the clients implement."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, cast

from sse_fast._client.options import refuse_async
from sse_fast._client.policy import ReadyState, ReconnectPolicy
from sse_fast._client.reconnect import Reconnection
from sse_fast._client.stats import Stats
from sse_fast._core.parser import ACCELERATED
from sse_fast._errors import ResponseError
from sse_fast._request import (
    DEFAULT_FIELDS,
    USER_AGENT,
    Request,
    check_method,
    encode_body,
    parse_url,
    parse_user_fields,
)
from sse_fast._seconds import check_seconds, check_timeouts
from sse_fast._source import redact_url
from sse_fast._stream import EndReason, make_parser
from sse_fast.adapters._clients import join_base_url, resolve_send

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Collection

    from typing_extensions import TypeVar

    from sse_fast._background import AsyncioLoop, TrioLoop
    from sse_fast._client.options import HeadersArg
    from sse_fast._core.parser import Event, Parser
    from sse_fast._request import Data
    from sse_fast._source import Response, Source
    from sse_fast._stream import Comments
    from sse_fast._watch import Watch

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "CallbackError",
    "ClientState",
    "ConnectionEnded",
    "Opening",
    "SourceExhausted",
    "WaitGivenUp",
    "WaitInterrupted",
    "WaitRefused",
    "log",
]

log = logging.getLogger("sse_fast")
# Without it, Python would print warnings of programs that configure no logging.
log.addHandler(logging.NullHandler())


class ConnectionEnded(Exception):
    """The stream of a connection has ended."""


class SourceExhausted(Exception):
    """The source has ended or was closed: there are no more events."""


class CallbackError(Exception):
    """Carries what a callback raised, to tell it from a failure of the connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class WaitGivenUp(BaseException):
    """The wait for an event has lasted too long for its caller. Everything goes on."""


class WaitInterrupted(BaseException):
    """Carries what a signal handler raised in a wait, to tell it from a failure of the work."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class WaitRefused(WaitInterrupted):
    """Carries the `TypeError` of a wait that is not possible, which is no failure of the stream."""


def _no_reader() -> None:
    """Stand for a weak reference whose object is gone."""


class Opening:
    """An attempt under way: what a wait that was given up leaves for the next one."""

    __slots__ = (
        "end_reason",
        "is_announced",
        "is_checked",
        "is_final",
        "job",
        "next_request",
        "rejected",
        "rejection",
        "request",
        "source",
        "watch",
    )

    def __init__(self, request: Request, watch: Watch) -> None:
        # The request of the current hop.
        self.request = request
        # That of the next hop, until the body of the redirect was read.
        self.next_request: Request | None = None
        # The time limit of the whole attempt, and of its stream.
        self.watch = watch
        # The job that sends the request, or reads the body of a refused response.
        self.job: Any = None
        # The response of the current hop.
        self.source: Source | None = None
        self.is_final = False
        # Why a redirect is not followed, or "".
        self.rejection = ""
        # The result of the check.
        self.is_checked = False
        self.rejected: ResponseError | None = None
        self.end_reason: EndReason | None = None
        # Whether `on_open` has returned.
        self.is_announced = False

    def has_failed(self, error: BaseException) -> bool:
        """Return whether the job has raised this error, or the one that it wraps."""
        job, cause = self.job, error.__cause__
        return job is not None and (
            job.has_failed(error) or (cause is not None and job.has_failed(cause))
        )

    def release_job(self) -> None:
        """Drop the job, whose result is stored."""
        if self.job is not None:
            self.job.release()
            self.job = None


class _ChosenId(NamedTuple):
    """The id that the program has set while a stream was open."""

    value: str
    replaced: Collection[str]
    """The ids of the stream that it replaces: after the last event taken and the last delivered."""
    delivered: str
    """The latter. A later event with another id replaces the id that was set."""


_OWN_FIELDS = {**DEFAULT_FIELDS, **USER_AGENT}
"""The default fields of requests by our own transport."""


class _PlainSource:
    """The attributes that the fast paths of `_source_c` read and set."""

    __slots__ = (
        "_bytes_seen",
        "_chosen_id",
        "_event_at",
        "_events",
        "_is_reading",
        "_kept_event",
        "_stream",
    )


if TYPE_CHECKING or not ACCELERATED:
    _Source = _PlainSource
else:
    # The extension imports this one. Freezing tools see imports of Python files only.
    from sse_fast._client._source_c import FastSource as _Source
    from sse_fast._stream_c import _FastStream  # noqa: F401


class ClientState(_Source, Generic[T]):
    """The attributes of a source, and the methods that wait for nothing."""

    # A dictionary of as many attributes takes 1.5 KiB.
    __slots__ = (
        # The public attributes: a slot would be an attribute of the class, too.
        "__dict__",
        "__weakref__",
        "_bytes_before",
        "_checks_type",
        "_common_fields",
        "_connect_timeout",
        "_connections",
        "_content_type",
        "_deferred_error",
        "_ended_by",
        "_event_timeout",
        "_events_before",
        "_has_clean_end",
        "_has_own_transport",
        "_has_until",
        "_headers",
        "_id_lock",
        "_idle_timeout",
        "_is_accepting",
        "_is_closed",
        "_is_exhausted",
        "_is_framed",
        "_loop",
        "_make_parser",
        "_on_chunk",
        "_on_close",
        "_on_error",
        "_on_open",
        "_opening",
        "_pending",
        "_progress",
        "_reader",
        "_reconnection",
        "_requested_delay",
        "_resume",
        "_retry_after",
        "_send_request",
        "_sends_id",
        "_signals",
        "_sleep_interrupt",
        "_user",
        "_wait_until",
    )

    _is_async: bool
    # The stream of the open connection, or None.
    _stream: Any
    # Sends a request by the user's client or our own transport, and returns its `Source`.
    _send_request: Callable[..., Any]
    # Wakes a thread that waits for a response or for the next attempt; in the sync client only.
    _signals: SimpleQueue[None]

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: HeadersArg | Callable[[], HeadersArg | Awaitable[HeadersArg]] | None = None,
        json: Any = None,
        data: Data | None = None,
        client: Any = None,
        uds: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        last_event_id: str | None = "",
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008
        until: Any = None,
        until_event: str | Collection[str] = (),
        decode: Any = None,
        resume: str | Callable[[str], Any] | None = None,
        resend: bool = False,
        check: bool = True,
        name: str | None = None,
        on_open: Callable[[Response], object] | None = None,
        on_error: Callable[[Exception], Any] | None = None,
        on_comment: Callable[[str], object] | None = None,
        on_chunk: Callable[[bytes], object] | None = None,
        connect_timeout: float | None = 10.0,
        idle_timeout: float | None = 300.0,
        event_timeout: float | None = None,
        progress: Callable[[Event[T]], object] | None = None,
        max_event_size: int = 16 * 2**20,
    ) -> None:
        if not isinstance(policy, ReconnectPolicy):
            raise TypeError(f"Expected policy to be a ReconnectPolicy, got {type(policy).__name__}")
        if resume not in (None, "get") and not callable(resume):
            raise TypeError(f"Expected resume to be None, 'get' or a callable, got {resume!r}")
        if client is not None and (uds is not None or ssl_context is not None):
            raise TypeError(
                "uds and ssl_context cannot be combined with client: configure them on the client"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"Expected name to be a str or None, got {type(name).__name__}")
        check_timeouts(
            connect_timeout=connect_timeout, idle_timeout=idle_timeout, event_timeout=event_timeout
        )
        if progress is not None and not callable(progress):
            raise TypeError(f"Expected progress to be callable, got {type(progress).__name__}")
        if progress is not None and event_timeout is None:
            raise ValueError(
                "progress says which events event_timeout counts: set event_timeout too"
            )
        refuse_async(on_comment=on_comment, on_chunk=on_chunk, progress=progress)
        if not self._is_async:
            refuse_async(headers=headers, resume=resume, on_open=on_open, on_error=on_error)
        self._send_request = resolve_send(client, is_async=self._is_async)
        self._has_own_transport = client is None
        if uds is not None or ssl_context is not None:
            self._send_request = partial(self._send_request, uds=uds, ssl_context=ssl_context)
        url = join_base_url(client, url)
        target = parse_url(url)
        self.url = url
        self.name = redact_url(url) if name is None else name
        # None before the first response; see `response` of a stream.
        self.response: Response | Any = None
        self.end_reason: EndReason | None = None
        body, self._content_type = encode_body(json, data)
        self._headers = headers if callable(headers) else tuple(parse_user_fields(headers))
        # The fields of every request, and the `user:password` of the URL, or None.
        self._common_fields = _OWN_FIELDS if client is None else DEFAULT_FIELDS
        self._user = target.user
        self._resume = resume
        self._has_until = until is not None or bool(until_event)
        self._checks_type = check
        self._on_open = on_open
        self._on_error = on_error
        self._on_close: Callable[[], object] | None = None
        self._on_chunk = on_chunk
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._event_timeout = event_timeout
        self._progress = progress
        self._make_parser: Callable[..., tuple[Parser[Any], Comments | None]] = partial(
            make_parser,
            max_event_size=max_event_size,
            on_comment=on_comment,
            decode=decode,
            until=until,
            until_event=until_event,
        )
        # Refuse invalid options now, not at the first connection.
        last_event_id = "" if last_event_id is None else last_event_id
        self._make_parser(last_event_id=last_event_id)
        self._reconnection = Reconnection(
            policy,
            Request(check_method(method), target.url, (), body),
            resend=resend,
            resume="call" if callable(resume) else resume,
        )
        self._reconnection.last_event_id = last_event_id
        self._stream = None
        # The id that the program has set while a stream was open.
        self._chosen_id: _ChosenId | None = None
        # Held while a stream comes or goes, and while the program sets `last_event_id`. Reentrant,
        # because a signal handler may set it.
        self._id_lock = threading.RLock()
        if self._is_async:
            # The event loop of the latest wait, and the event that ends the wait for an attempt.
            self._loop: AsyncioLoop | TrioLoop | None = None
            self._sleep_interrupt: Any = None
        else:
            self._signals = SimpleQueue()
        # Whether the previous connection ended within an event.
        self._pending = False
        # What `stats` shows: streams opened, events delivered, bytes of the earlier streams, and
        # the time when the chunk of the latest event arrived.
        self._connections = self._events = self._bytes_before = 0
        self._event_at = 0.0
        # The bytes of the stream when its latest event was delivered.
        self._bytes_seen = 0
        # The number of events before the current connection, and whether its end is marked.
        self._events_before = 0
        self._is_framed = False
        # The attempt under way, and the event that an exception has kept from its reader.
        self._opening: Opening | None = None
        self._kept_event: Event[T] | None = None
        # Whether the stream has ended cleanly, and `on_close` has not returned yet.
        self._has_clean_end = False
        # Whether `_advance` or `_open` runs, and a weak reference to its coroutine.
        self._is_reading = False
        self._reader: Callable[[], Any] = _no_reader
        # Whether `on_open` runs for a response that will be accepted.
        self._is_accepting = False
        self._is_closed = False
        self._is_exhausted = False
        # The name of the error that has ended the source. The error itself would refer to frames.
        self._ended_by: str | None = None
        # When the wait of `next_event` is over (`time.monotonic()`), or None.
        self._wait_until: float | None = None
        # The delay that reconnect() asked for.
        self._requested_delay: float | None = None
        # The consequence of a wait that was cancelled, raised when the program reads on.
        self._deferred_error: Exception | None = None
        # The Retry-After of a refused response, for a failure that does not carry it.
        self._retry_after: float | None = None
        # Whether the next request may carry the last event ID.
        self._sends_id = True

    def __repr__(self) -> str:
        where = redact_url(self.url)
        name = "" if self.name == where else f"{self.name!r} "
        return f"<{type(self).__name__} {name}{where} {self.ready_state.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it is a connection")

    @property
    def ready_state(self) -> ReadyState:
        """The `ReadyState`: CONNECTING, OPEN or CLOSED."""
        if self._is_closed or self._is_exhausted:
            return ReadyState.CLOSED
        if self._is_accepting:
            return ReadyState.OPEN
        state = self._reconnection.state
        is_lost = self._stream is None or self._requested_delay is not None
        return ReadyState.CONNECTING if state is ReadyState.OPEN and is_lost else state

    @property
    def last_event_id(self) -> str:
        """The id to resume from, as of the last event taken.

        It can be set at any time and from any thread, to resume from another id. "" or None forgets
        the id, for example one that the server refuses. The next connection resumes from the id
        that was set, unless an event that is delivered later, from this connection or its buffer,
        brings another id than the event before it. That id then counts once the event is taken. An
        event without an id leaves the one that was set.
        """
        stream = self._stream
        if stream is None:
            return self._reconnection.last_event_id
        taken = cast("str", stream.taken_id)
        chosen = self._chosen_id
        return chosen.value if chosen is not None and taken in chosen.replaced else taken

    @last_event_id.setter
    def last_event_id(self, value: str | None) -> None:
        value = "" if value is None else value
        # Raises if it is no str.
        self._make_parser(last_event_id=value)
        with self._id_lock:
            stream = self._stream
            if stream is None:
                self._reconnection.last_event_id = value
            else:
                delivered = stream.last_event_id
                self._chosen_id = _ChosenId(value, (stream.taken_id, delivered), delivered)

    def _review_chosen_id(self) -> None:
        """Let go of the id that the program has set if an event taken since has brought another.

        It is called whenever events were taken, because a later id may equal an earlier one.
        """
        with self._id_lock:
            chosen = self._chosen_id
            if chosen is None or self._stream is None:
                return
            if self._stream.taken_id == chosen.delivered:
                self._chosen_id = chosen._replace(replaced=(chosen.delivered,))
            else:
                self._chosen_id = None

    @property
    def stats(self) -> Stats:
        """A snapshot of what the source has done: connections, failures, events, bytes.

        It may be read at any time and from any thread. `seconds_since_event` is counted from the
        arrival of the last event; a stream that is wedged behind its keep-alive comments shows in
        it.
        """
        with self._id_lock:
            stream, received = self._stream, self._bytes_before
            received += 0 if stream is None else stream._bytes_read
        failures, events = self._reconnection.failure_count, self._events
        seconds = max(0.0, time.monotonic() - self._event_at) if events else None
        return Stats(self.name, self._connections, failures, events, received, seconds)

    def _note_arrival(self, stream: Any) -> None:
        """Note when the chunk of an event arrived, if the event is the first one of its chunk."""
        if stream._bytes_read != self._bytes_seen:
            self._bytes_seen = stream._bytes_read
            self._event_at = time.monotonic()

    @property
    def retry(self) -> int | None:
        """The reconnection time that the server asked for, in ms, or None."""
        stream = self._stream
        retry: int | None = None if stream is None else stream.retry
        return self._reconnection.retry if retry is None else retry

    @property
    def pending(self) -> bool:
        """Whether the bytes received on this connection end within an event."""
        return self._pending if self._stream is None else cast("bool", self._stream.pending)

    def reconnect(self, delay: float | None = None) -> None:
        """Drop the connection and connect again. Thread-safe; works after the end or an error, too.

        It counts as consent to send the request again, whatever its method. It has no effect while
        an attempt is under way, or after `close()`.

        Args:
            delay: seconds to wait before; None: the `min_delay` of the policy.
        """
        delay = 0.0 if delay is None else check_seconds(delay, "delay")
        with self._id_lock:
            stream = self._stream
            if self._is_closed:
                return
            self._requested_delay = delay
        self._end_stream(stream)

    def close(self) -> None:
        """Close the source for good. Thread-safe and idempotent; returns immediately.

        It interrupts a wait for an event, for a response or for the next attempt.
        """
        self._mark_closed()
        self._end_stream(self._stream)

    def _mark_closed(self) -> None:
        if not self._is_closed:
            log.debug("%s: closed", self.name)
        self._is_closed = True
        if self.end_reason is None:
            self.end_reason = EndReason.CLOSED

    # -- Implemented by the sync and the async client

    def _end_stream(self, stream: Any) -> None:
        """End the stream, if there is one, and wake a reader, which finds out why."""
        raise NotImplementedError

    async def _send(self, opening: Opening) -> Source:
        """Send the request of the attempt by a job, interrupted by `close()`; return its source.

        If there is a job already, it is waited for.
        """
        raise NotImplementedError

    async def _end_job(self, job: Any) -> None:
        """Give up the work of an attempt, and discard its result."""
        raise NotImplementedError

    async def _check(self, opening: Opening, source: Source, rejection: str) -> EndReason | None:
        """Check the response; raise a `ResponseError` if `rejection`, or the check, rejects it.

        Returns:
            The `EndReason` of a response without a stream (204), or None.
        """
        raise NotImplementedError

    async def _drain_source(self, source: Source) -> None:
        """Read the body of a redirect, so that its connection can serve the next request."""
        raise NotImplementedError

    async def _close_source(self, source: Source) -> None:
        """Close a source that no stream owns yet; ignore errors."""
        raise NotImplementedError

    def _make_stream(self, source: Source, watch: Watch | None) -> Any:
        """Return the stream of events of a source.

        Args:
            source: the source of an accepted response.
            watch: the limit of the wait for an event, or None.
        """
        raise NotImplementedError

    async def _release(self, stream: Any) -> None:
        """Close the stream; ignore errors."""
        raise NotImplementedError

    async def _read(self) -> None:
        """Store the next event of the stream in `_kept_event`, or raise `ConnectionEnded`."""
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        """Wait for that time, or until `close()` or `reconnect()` is called."""
        raise NotImplementedError

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Call a callback, and return its result (awaited, in the async client)."""
        raise NotImplementedError
