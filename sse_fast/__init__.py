"""Server-Sent Events: an incremental parser of event streams, and what surrounds it.

Bytes in any pieces go in, exactly the events that the HTML standard defines come out, whichever
HTTP library carried the bytes.

The one-minute map: bytes enter at `Parser.feed`; lines are found in `_split_lines`
(`_core/lines.pxd`, with the scan in `_core/scan.h`); fields are read in `_process_field`; events
leave at `_dispatch` (`_core/parser_c.pyx`). `_core/parser_py.py` is the same in plain Python.
"""

from __future__ import annotations

from importlib import import_module
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
    from sse_fast._http1 import aopen_stream, open_stream
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
    "fetch_event_source",
    "install",
    "iter_columns",
    "iter_events",
    "open_stream",
    "read_columns",
    "register",
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
    "fetch_event_source": "_client",
    "install": "compat",
    "iter_columns": "columns",
    "iter_events": "adapters",
    "open_stream": "_http1",
    "read_columns": "columns",
    "register": "adapters",
    "uninstall": "compat",
}
"""Public name -> module that is imported when the name is first used: many programs only parse."""

_PUBLIC_MODULES = ("adapters", "columns", "compat")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LAZY_EXPORTS:
        value = getattr(import_module(f"sse_fast.{_LAZY_EXPORTS[name]}"), name)
        globals()[name] = value
        return value
    if name in _PUBLIC_MODULES:
        return import_module(f"sse_fast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
