"""sse-fast demo: a chat completion from a local server, read over every HTTP library.

The server cuts its chunks where parsers tend to fail: within lines, between CR and LF, within UTF-8
sequences.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from sse_fast import ACCELERATED, Event, EventStream, aiter_events, iter_events, open_stream
from sse_fast._cli._server import Handler, Server

_PATH = "/v1/chat/completions"
_TEXT = (
    "Server-Sent Events are lines of text: a field name, a colon, a value, and a blank line that "
    "ends the event. Every line end may be CR, LF or CRLF, every chunk may end anywhere, "
    "even within a character: na\u00efve caf\u00e9, \u6771\u4eac, \U0001f680. "
    "The parser delivers an event as soon as its last byte has arrived.\n"
)
_TOKENS = re.findall(r"\s*\S+|\s+$", _TEXT)
_LIVE_DELAY = 0.02
"""Seconds between the events that are printed."""
_REPEAT = 20
"""Completions in one measured stream."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Start a server on a free loopback port, read a chat completion from it over "
        "a bare socket, every installed HTTP library and sse_fast's own transport, and compare "
        "the events that each of them saw."
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Some terminals cannot encode every character.
        sys.stdout.reconfigure(errors="replace")
    expected = [*map(json.loads, _completions(_REPEAT))]
    same = True
    with _serve() as port:
        print(f"POST http://127.0.0.1:{port}{_PATH} over a bare socket\n", flush=True)
        with _READERS["socket"](port, {"delay": _LIVE_DELAY, "repeat": 1}) as events:
            for event in events:
                for choice in event.data["choices"]:
                    print(choice["delta"].get("content", ""), end="", flush=True)
        print()
        count = 0
        for name, read in _READERS.items():
            started = time.perf_counter()
            try:
                with read(port, {"delay": 0, "repeat": _REPEAT}) as events:
                    seen = [event.data for event in events]
            except ImportError:
                print(f"{name:<9} not installed")
                continue
            seconds = time.perf_counter() - started
            count += 1
            same = same and seen == expected
            remark = "" if seen == expected else "  NOT the events that were sent"
            rate = len(seen) / seconds
            print(f"{name:<9} {len(seen):>6,} events {rate:>9,.0f} events/s{remark}", flush=True)
    if not same:
        verdict = "Not every reader saw the events that were sent"
    elif count == 1:
        verdict = "The one reader saw the events that were sent"
    else:
        verdict = f"All {count} readers saw the same events"
    print(f"{verdict} ({'Cython' if ACCELERATED else 'plain Python'} core).")
    return 0 if same else 1


# -- The server ---------------------------------------------------------------------------------


def _completions(repeat: int) -> Iterator[str]:
    """Yield the data of each event."""
    for index in range(repeat):
        head = {"id": f"chatcmpl-{index}", "object": "chat.completion.chunk", "model": "demo"}
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": token} for token in _TOKENS]
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield json.dumps({**head, "choices": [choice]}, ensure_ascii=False)
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield json.dumps({**head, "choices": [choice]}, ensure_ascii=False)


def _cut(event: bytes, dice: random.Random) -> Iterator[bytes]:
    """Cut within every UTF-8 sequence, within half of the CRLFs, and at some other places."""
    cuts = {0, len(event), dice.randrange(len(event)), dice.randrange(len(event))}
    cuts.update(match.end() for match in re.finditer(rb"[\xc2-\xf4]", event))
    cuts.update(match.end() for match in re.finditer(rb"\r", event) if dice.random() < 0.5)
    for start, stop in pairwise(sorted(cuts)):
        yield event[start:stop]


class _Handler(Handler):
    def do_POST(self) -> None:  # noqa: N802
        options = json.loads(self.read_body())
        self.begin()
        dice = random.Random(0)
        for data in [*_completions(options["repeat"]), "[DONE]"]:
            for chunk in _cut(f"data: {data}\r\n\r\n".encode(), dice):
                self.send(chunk)
            time.sleep(options["delay"])
        self.end()


@contextmanager
def _serve() -> Iterator[int]:
    """Run a server on a free loopback port during the block; yields the port."""
    with Server(_Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.port
        finally:
            server.shutdown()
            thread.join()


# -- The readers --------------------------------------------------------------------------------


@contextmanager
def _socket_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    body = json.dumps(options).encode()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST %b HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (_PATH.encode(), len(body), body)
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                raise ConnectionError("The connection ended before the response head")
            head += byte
        with _events_of(sock) as events:
            yield events


@contextmanager
def _requests_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    import requests

    with requests.Session() as session:
        # Ignore proxies and .netrc: the server is in this process.
        session.trust_env = False
        response = session.post(f"http://127.0.0.1:{port}{_PATH}", json=options, stream=True)
        with _events_of(response) as events:
            yield events


@contextmanager
def _urllib3_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    import urllib3

    with urllib3.PoolManager() as pool:
        response = pool.request(
            "POST", f"http://127.0.0.1:{port}{_PATH}", json=options, preload_content=False
        )
        with _events_of(response) as events:
            yield events


@contextmanager
def _httpx_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    import httpx

    with httpx.Client(trust_env=False) as client, _by(client, port, options) as events:
        yield events


@contextmanager
def _httpx2_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    import httpx2

    with httpx2.Client(trust_env=False) as client, _by(client, port, options) as events:
        yield events


@contextmanager
def _by(client: Any, port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    """Read by a client of httpx or httpx2."""
    with (
        client.stream("POST", f"http://127.0.0.1:{port}{_PATH}", json=options) as response,
        _events_of(response) as events,
    ):
        yield events


@contextmanager
def _aiohttp_reader(port: int, options: dict[str, float]) -> Iterator[list[Event[Any]]]:
    import aiohttp

    async def read() -> list[Event[Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}{_PATH}", json=options) as response,
            aiter_events(response, until="[DONE]", decode=json.loads) as events,
        ):
            return [event async for event in events]

    yield asyncio.run(read())


@contextmanager
def _own_reader(port: int, options: dict[str, float]) -> Iterator[EventStream[Any]]:
    before = os.environ.get("no_proxy")
    # Bypass proxies: they cannot reach a server in this process.
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        events = open_stream(
            f"http://127.0.0.1:{port}{_PATH}",
            method="POST",
            json=options,
            until="[DONE]",
            decode=json.loads,
        )
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
    with events:
        yield events


def _events_of(source: Any) -> EventStream[Any]:
    return iter_events(source, until="[DONE]", decode=json.loads)


_READERS: dict[str, Callable[..., Any]] = {
    "socket": _socket_reader,
    "requests": _requests_reader,
    "urllib3": _urllib3_reader,
    "httpx": _httpx_reader,
    "httpx2": _httpx2_reader,
    "aiohttp": _aiohttp_reader,
    "sse_fast": _own_reader,
}
