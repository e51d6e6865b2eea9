"""An ASGI application under uvicorn in a thread, whose tasks and descriptors can be counted."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

LIMIT = 8.0


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
