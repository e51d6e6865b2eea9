"""The reconnecting client: the events of a URL, over as many connections as it takes.

- `reconnect` decides: a state machine that turns outcomes into verdicts, without a clock or a
  socket. Its settings are in `policy`.
- `base` and `losing` drive: they send requests, check responses, call callbacks, and report what
  happened to the state machine. This code exists once, for both clients; what it knows is in
  `state`, what it counts in `stats`.
- `sync` and `aio` wait: for a response, for the next event, for the next attempt. The work goes on
  when a wait is given up: in a thread of `jobs`, or in a `Task`. `watchdog` limits reads that
  nothing can end.
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
