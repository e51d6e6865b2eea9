"""Server-Sent Events: a parser and a client that follow the HTML standard, at native speed.

The calls that most programs need::

    # The events of a response of requests, httpx, urllib3 or http.client. Async: aiter_events.
    for event in sse_fast.iter_events(response): print(event.event, event.data)

    # A chat completion: "[DONE]" ends it; stream.end_reason is UNTIL if it came.
    stream = sse_fast.iter_events(response, until="[DONE]")

    # A URL, read once over the package's own transport. Async: aopen_stream.
    for event in sse_fast.open_stream(url): print(event.json())

    # A URL, followed over as many connections as it takes. Async: AsyncEventSource.
    for event in sse_fast.EventSource(url): print(event.id, event.data)

    # The bytes of a stream to send on, with keep-alive comments, for a web framework's response.
    body = sse_fast.relay(sse_fast.AsyncEventSource(url))

    # A recorded stream, as a table.
    table = pyarrow.table(sse_fast.read_columns("capture.sse"))

Without I/O: `Parser().feed(chunk)` returns the events that a chunk completes.

Errors, all derived from `SSEError`::

    ResponseError     the status is not 200, or the response is not an event stream:
                      .response.status, .response.body, .retry_after
    TransportError    the connection or the HTTP library failed: __cause__ has its exception
    StreamTimeout     nothing came for too long (a TransportError)
    StreamIncomplete  an EventSource cannot resume its stream: repeating the request needs your
                      consent, or the policy allows no further attempt
    EventTooLarge     an event is larger than max_event_size
    DecodeError       decode= raised; next(stream) continues after that event

Read on: `help(sse_fast.iter_events)`, `help(sse_fast.EventSource)`, the project's README and docs/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sse_fast._core.parser import ACCELERATED, Event, Parser
from sse_fast._errors import (
    DecodeError,
    EventTooLarge,
    FatalError,
    ResponseError,
    RetriableError,
    SSEError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)

if TYPE_CHECKING:
    from sse_fast._client import (
        AsyncEventSource,
        EventSource,
        ReadyState,
        ReconnectPolicy,
        afetch_event_source,
        fetch_event_source,
    )
    from sse_fast._core.options import encode_comment
    from sse_fast._http1 import aopen_stream, open_stream
    from sse_fast._relay import relay
    from sse_fast._source import Response
    from sse_fast._stream import AsyncEventStream, EndReason, EventStream
    from sse_fast.adapters import aiter_events, iter_events, register
    from sse_fast.columns import Columns, ColumnStream, iter_columns, read_columns
    from sse_fast.compat import install, uninstall

__all__ = [
    "ACCELERATED",
    "AsyncEventSource",
    "AsyncEventStream",
    "ColumnStream",
    "Columns",
    "DecodeError",
    "EndReason",
    "Event",
    "EventSource",
    "EventStream",
    "EventTooLarge",
    "FatalError",
    "Parser",
    "ReadyState",
    "ReconnectPolicy",
    "Response",
    "ResponseError",
    "RetriableError",
    "SSEError",
    "StreamIncomplete",
    "StreamTimeout",
    "TransportError",
    "afetch_event_source",
    "aiter_events",
    "aopen_stream",
    "encode_comment",
    "fetch_event_source",
    "get_include",
    "install",
    "iter_columns",
    "iter_events",
    "open_stream",
    "read_columns",
    "register",
    "relay",
    "uninstall",
]

_LAZY_EXPORTS = {
    "AsyncEventSource": "_client",
    "AsyncEventStream": "_stream",
    "ColumnStream": "columns",
    "Columns": "columns",
    "EndReason": "_stream",
    "EventSource": "_client",
    "EventStream": "_stream",
    "ReadyState": "_client",
    "ReconnectPolicy": "_client",
    "Response": "_source",
    "afetch_event_source": "_client",
    "aiter_events": "adapters",
    "aopen_stream": "_http1",
    "encode_comment": "_core.options",
    "fetch_event_source": "_client",
    "install": "compat",
    "iter_columns": "columns",
    "iter_events": "adapters",
    "open_stream": "_http1",
    "read_columns": "columns",
    "register": "adapters",
    "relay": "_relay",
    "uninstall": "compat",
}
"""Public name -> module that is imported when the name is first used: many programs only parse."""

_PUBLIC_MODULES = ("adapters", "columns", "compat")

__version__ = "0.1.0"


def get_include() -> str:
    """Return the folder of the C headers, which extensions that `cimport` sse_fast compile with.

    The headers are in every installation, also in one without the compiled core.
    """
    import os

    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "_core")


def __getattr__(name: str) -> Any:
    if name in _LAZY_EXPORTS:
        value = getattr(_load_module(_LAZY_EXPORTS[name]), name)
        globals()[name] = value
        return value
    if name in _PUBLIC_MODULES:
        return _load_module(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load_module(name: str) -> Any:
    """Import a module of the package. The imports are written out for freezing tools.

    `from sse_fast import adapters` would call `__getattr__` again.
    """
    if name == "_client":
        import sse_fast._client as client

        return client
    if name == "_core.options":
        import sse_fast._core.options as options

        return options
    if name == "_http1":
        import sse_fast._http1 as http1

        return http1
    if name == "_relay":
        import sse_fast._relay as relay_module

        return relay_module
    if name == "_source":
        import sse_fast._source as source

        return source
    if name == "_stream":
        import sse_fast._stream as stream

        return stream
    if name == "adapters":
        import sse_fast.adapters as adapters

        return adapters
    if name == "columns":
        import sse_fast.columns as columns

        return columns
    assert name == "compat", f"no branch for the module {name!r}"
    import sse_fast.compat as compat

    return compat


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
