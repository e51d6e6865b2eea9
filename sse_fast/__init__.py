"""Server-Sent Events: an incremental parser of event streams, and what surrounds it.

Bytes in any pieces go in, exactly the events that the HTML standard defines come out, whichever
HTTP library carried the bytes.

The one-minute map: bytes enter at `Parser.feed`; lines are found in `_split_lines`
(`_lines.pxd`, with the scan in `_scan.h`); fields are read in `_process_field`; events leave at
`_dispatch` (`_parser_c.pyx`). `_parser_py.py` is the same in plain Python, under the same names.
`_stream.py` is a parser over a source of chunks (`_source.py`); how each HTTP library becomes one
is in `adapters/`, where `sockets.py` is HTTP over sockets of our own. `_client.py` reconnects, as
`_reconnect.py` decides. `compat/` has names and decoders of other libraries; `_dialect.py` is what
they do otherwise than the standard. `columns.py` makes Arrow's columns of whole captures
(`_columns_c.pyx`, `_rows.pxd`), which `_captures.py` opens. `_bench/` is what `sse-fast bench` and
the benchmarks share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from sse_fast._parser import ACCELERATED, Event, Parser
from sse_fast._source import Response
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters import aiter_events, iter_events, register

if TYPE_CHECKING:
    from sse_fast._client import (
        AsyncEventSource,
        EventSource,
        ReadyState,
        ReconnectPolicy,
        afetch_event_source,
        fetch_event_source,
    )
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
    "fetch_event_source",
    "install",
    "iter_columns",
    "iter_events",
    "read_columns",
    "register",
    "uninstall",
]

_LATER = {
    "AsyncEventSource": "_client",
    "ColumnStream": "columns",
    "Columns": "columns",
    "EventSource": "_client",
    "ReadyState": "_client",
    "ReconnectPolicy": "_client",
    "afetch_event_source": "_client",
    "fetch_event_source": "_client",
    "install": "compat",
    "iter_columns": "columns",
    "read_columns": "columns",
    "uninstall": "compat",
}
"""What is loaded when it is first named, and from where: most programs only parse."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"sse_fast.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
