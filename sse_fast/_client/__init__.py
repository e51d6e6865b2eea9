"""The reconnecting client: the events of a URL, over as many connections as it takes.

- `reconnect` decides: a state machine that turns outcomes into verdicts, without a clock or a
  socket. Its settings are in `policy`.
- `base` drives: it sends requests, checks responses, calls callbacks, and reports what happened to
  the state machine. This code exists once, for both clients.
- `sync` and `aio` wait: for a response, for the next event, for the next attempt; in threads, or in
  an event loop. `watchdog` ends a wait for an event that takes too long (`event_timeout`).
"""

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
