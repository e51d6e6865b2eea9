"""Server-Sent Events: an incremental parser of event streams, and what surrounds it.

Bytes in any pieces go in, exactly the events that the HTML standard defines come out, whichever
HTTP library carried the bytes.

The one-minute map: bytes enter at `Parser.feed`; lines are found in `_split_lines`
(`_lines.pxd`, with the scan in `_scan.h`); fields are read in `_process_field`; events leave at
`_dispatch` (`_parser_c.pyx`). `_parser_py.py` is the same in plain Python, under the same names.
`_stream.py` is a parser over a source of chunks (`_source.py`); how each HTTP library becomes one
is in `adapters/`, where `sockets.py` is HTTP over sockets of our own.
"""

from sse_fast._errors import (
    DecodeError,
    EventTooLarge,
    ResponseError,
    SSEError,
    StreamTimeout,
    TransportError,
)
from sse_fast._parser import ACCELERATED, Event, Parser
from sse_fast._source import Response
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters import aiter_events, iter_events, register

__all__ = [
    "ACCELERATED",
    "AsyncEventStream",
    "DecodeError",
    "EndReason",
    "Event",
    "EventStream",
    "EventTooLarge",
    "Parser",
    "Response",
    "ResponseError",
    "SSEError",
    "StreamTimeout",
    "TransportError",
    "aiter_events",
    "iter_events",
    "register",
]

__version__ = "0.1.0"
