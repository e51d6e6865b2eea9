"""A proxy's life: clients come and go while its upstream stalls and dies.

SSE_FAST_SOAK_SECONDS=600 makes it ten minutes.
"""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

import sse_fast
from tests.relay.test_relay_servers import relaying
from tests.support.relaying import wait_until
from tests.support.scripted_server import Play, Request, serve_stage, stream

SECONDS = float(os.environ.get("SSE_FAST_SOAK_SECONDS", "30"))
CLIENTS = 50
HEARTBEAT = 0.5
PAUSE = 300.0  # ms between the events of an upstream connection


def play_upstream(number: int, request: Request) -> Play:
    """Count on from Last-Event-ID; end well, stall, break off, be busy or reset."""
    after = int(request.get("Last-Event-ID") or b"0")
    head = b"retry: 0\n\n"
    events = [b"id: %d\ndata: %d\n\n" % (at, at) for at in range(after + 1, after + 6)]
    match number % 6:
        case 0:
            return Play(body=[head, *events, b"id: 9"], framing="chunked-truncated", delay=PAUSE)
        case 1:
            return Play(status=503, fields=[("Retry-After", "0")])
        case 2:
            stall = 4 * HEARTBEAT * 1000
            return Play(body=[head, events[0], events[1]], framing="chunked", delay=stall)
        case 3:
            return Play(body=[head, *events], framing="chunked", end="rst", delay=PAUSE)
        case 4:
            return Play(body=[head, *events], delay=PAUSE)
        case _:
            return stream(head, *events, delay=PAUSE)


class Client:
    """Reads numbers, leaves after a random number of events or comments, and comes back."""

    def __init__(self, origin: str, seed: int, deadline: float) -> None:
        self.url = f"{origin}/events"
        self.random = random.Random(seed)
        self.deadline = deadline
        self.received: list[int] = []
        self.comments = 0
        self.visits = 0
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            while time.monotonic() < self.deadline:
                self.visit()
        except BaseException as error:
            self.failure = error

    def visit(self) -> None:
        self.visits += 1
        left = self.random.randint(1, 30)
        last = str(self.received[-1]) if self.received else None
        headers = {} if last is None else {"Last-Event-ID": last}

        def on_comment(text: str) -> None:
            nonlocal left
            self.comments += 1
            # It may leave in a pause, too.
            if left <= 5:
                left -= 1

        try:
            events = sse_fast.open_stream(self.url, headers=headers, on_comment=on_comment)
        except sse_fast.ResponseError as error:
            # The relay could not reach its upstream.
            if error.response.status != 502:
                raise
            return
        with events:
            for event in events:
                self.received.append(int(event.data))
                left -= 1
                if left <= 0 or time.monotonic() > self.deadline:
                    return


@pytest.mark.soak
def test_proxy_loses_no_event_and_leaves_nothing() -> None:
    with (
        serve_stage(play_upstream) as stage,
        relaying("FastAPI", stage, HEARTBEAT) as server,
    ):
        deadline = time.monotonic() + SECONDS
        clients = [Client(server.origin, seed, deadline) for seed in range(CLIENTS)]
        for client in clients:
            client.thread.join(SECONDS + 60)
            assert not client.thread.is_alive()
        # The fixture of the server then looks for tasks, threads and descriptors.
        assert wait_until(lambda: stage.open == 0)
    assert [client.failure for client in clients if client.failure] == []
    for client in clients:
        assert client.received == list(range(1, len(client.received) + 1))
    assert sum(client.visits for client in clients) > CLIENTS * SECONDS / 60
    assert sum(client.comments for client in clients) > CLIENTS
