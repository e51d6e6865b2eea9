"""The client that reconnects: what `EventSource` and fetch-event-source do in a browser."""

from sse_fast._client.aio import AsyncEventSource, afetch_event_source
from sse_fast._client.policy import ReadyState, ReconnectPolicy
from sse_fast._client.sync import EventSource, fetch_event_source

__all__ = [
    "AsyncEventSource",
    "EventSource",
    "ReadyState",
    "ReconnectPolicy",
    "afetch_event_source",
    "fetch_event_source",
]
