"""ASGI servers: uvicorn with sse-starlette, and hypercorn with TLS and HTTP/2."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import trustme
import uvicorn
from sse_starlette import EventSourceResponse

# Seconds to wait for anything: fewer than the clients wait, so that the server notices it first.
LIMIT = 8.0
PING = 0.05  # seconds between the comments of sse-starlette


class ApplicationError(Exception):
    """An exception that an answer lets the application raise."""


@dataclass
class Answer:
    """The parts of a body, events to wait for, seconds to pause, and exceptions to raise.

    The parts are dicts for sse-starlette and bytes for hypercorn.
    """

    parts: list[Any]
    status: int = 200
    headers: list[tuple[str, str]] = field(
        default_factory=lambda: [("content-type", "text/event-stream")]
    )


class AsgiServer:
    """The part that both servers share: an answer for each path."""

    def __init__(self, url: str, ca: str | None = None) -> None:
        self.url = url
        self.ca = ca
        self.answers: dict[str, Answer] = {}
        # Whether an answer waited until its time was over: nobody read its parts.
        self.waited_in_vain = False

    async def parts(self, answer: Answer) -> AsyncIterator[Any]:
        for part in answer.parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, float):
                await asyncio.sleep(part)
                continue
            if not isinstance(part, threading.Event):
                yield part
                continue
            limit = time.monotonic() + LIMIT
            while not part.is_set():
                if time.monotonic() > limit:
                    self.waited_in_vain = True
                    return
                await asyncio.sleep(0.005)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the parts as they are (an ASGI application)."""
        answer = self.answers[scope["path"]]
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for part in self.parts(answer):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async def starlette_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the parts by sse-starlette, which ends lines with CRLF and pings by comments."""
        parts = self.parts(self.answers[scope["path"]])
        await EventSourceResponse(parts, ping=PING)(scope, receive, send)


@contextmanager
def _running(serving: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run a coroutine in a thread of its own, and join the thread."""
    thread = threading.Thread(target=asyncio.run, args=(serving,))
    thread.start()
    try:
        yield
    finally:
        # The servers wait for clients that tests left to the garbage collector, and leave the
        # transports of connected ones open.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
            thread.join(2 * LIMIT)
            gc.collect()
        assert not thread.is_alive()


@contextmanager
def serve_uvicorn() -> Iterator[AsgiServer]:
    # The socket listens from the start, so that no test has to wait for the server.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = AsgiServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            server.starlette_app, interface="asgi3", lifespan="off", log_config=None
        )
        running = uvicorn.Server(config)
        with _running(running.serve([listener])):
            try:
                yield server
            finally:
                running.should_exit = True


@contextmanager
def serve_hypercorn(directory: Path) -> Iterator[AsgiServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = directory / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    server = AsgiServer(
        f"https://127.0.0.1:{listener.getsockname()[1]}", ca=str(directory / "ca.pem")
    )
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.certfile = config.keyfile = str(certificate)
    config.alpn_protocols = ["h2", "http/1.1"]
    config.errorlog = None
    config.graceful_timeout = 1.0
    # The client of a broken HTTP/2 stream waits this long for the end.
    config.keep_alive_timeout = 0.2
    stopped = threading.Event()

    async def stop() -> None:
        while not stopped.is_set():
            await asyncio.sleep(0.02)

    serving = hypercorn.asyncio.serve(server.app, config, shutdown_trigger=stop, mode="asgi")
    with _running(serving):
        try:
            yield server
        finally:
            stopped.set()
