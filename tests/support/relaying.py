"""Sources of events for relays; and applications under servers in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import anyio
import uvicorn
from aiohttp import web

from sse_fast import Event

LIMIT = 8.0
EVENTS = [Event("tick", "1", "7", 250), Event("message", "2\n3", "7"), Event("message", "", "8")]
QUIET = b":\n\n"


class Source:
    """Events, pauses in seconds, and an exception; with a note of what happened to it."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.asked = 0
        self.closed = False

    def read(self) -> Iterator[Event[Any]]:
        try:
            for item in self.items:
                if isinstance(item, float):
                    time.sleep(item)
                    continue
                if isinstance(item, threading.Event):
                    item.wait(10)
                    continue
                self.asked += 1
                if isinstance(item, (BaseException, type)):
                    raise item
                yield item
        finally:
            self.closed = True

    async def aread(self) -> AsyncIterator[Event[Any]]:
        try:
            for item in self.items:
                if isinstance(item, float):
                    await anyio.sleep(item)
                    continue
                self.asked += 1
                if isinstance(item, (BaseException, type)):
                    raise item
                yield item
        finally:
            # A source that needs a moment to close.
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            self.closed = True


class AppServer:
    """A running application."""

    def __init__(self, origin: str, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.loop = loop

    def tasks(self) -> int:
        """Return the number of tasks of the server's loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(LIMIT)


@contextmanager
def serve_app(app: Any, **options: Any) -> Iterator[AppServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="off", log_config=None, **options)
        server = uvicorn.Server(config)
        started = threading.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            started.set()
            await server.serve([listener])

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        try:
            assert started.wait(LIMIT)
            yield AppServer(f"http://127.0.0.1:{listener.getsockname()[1]}", loops[0])
        finally:
            server.should_exit = True
            thread.join(LIMIT)
            assert not thread.is_alive()


@contextmanager
def serve_aiohttp(app: web.Application) -> Iterator[AppServer]:
    """Serve an application of aiohttp."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(LIMIT)
        yield AppServer(f"http://127.0.0.1:{runner.addresses[0][1]}", loop)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(LIMIT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


class _WsgiServer(ThreadingMixIn, WSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report no client that left."""


class _WsgiHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def get_stderr(self) -> Any:
        return io.StringIO()


class WsgiAppServer(AppServer):
    def __init__(self, origin: str) -> None:
        self.origin = origin

    def tasks(self) -> int:
        return 0


@contextmanager
def serve_wsgi(app: Any) -> Iterator[AppServer]:
    """Serve an application of WSGI, each request in a thread."""
    make: Any = make_server
    with make("127.0.0.1", 0, app, _WsgiServer, _WsgiHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield WsgiAppServer(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join(LIMIT)


def wait_until(condition: Callable[[], object], seconds: float = LIMIT) -> bool:
    """Return whether the condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def relay_threads() -> int:
    return sum("relay" in thread.name for thread in threading.enumerate())


@contextmanager
def downstream(origin: str, path: str, *, receive_buffer: int | None = None) -> Iterator[Any]:
    """Yield a socket that has asked for a path, as a client that may leave at any moment."""
    host, _, port = origin.removeprefix("http://").partition(":")
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(LIMIT)
        client.connect((host, int(port)))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        yield client


def receive_until(client: socket.socket, part: bytes) -> bytes:
    received = b""
    while part not in received:
        chunk = client.recv(65536)
        assert chunk, received
        received += chunk
    return received
