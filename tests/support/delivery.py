"""Events with various ids, and what a resumed stream has to begin with after each of them."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest

from tests.support.eventsources import Way
from tests.support.scripted_server import Play
from tests.support.threaded_reader import (
    wait_until,
    wait_until_blocked,
    wait_until_others_blocked,
)

BLOCKS = [
    b"id: a\n\n",
    b"data: 1\n\n",
    b"id: 2\ndata: 2\n\n",
    b": ping\n\nid: b\n\n",
    b"event: none\nid: c\n\n",
    b"data: 3\n\n",
    b"id\ndata: 4\n\n",
    b"data: 5\n\n",
    "id: é 6\ndata: 6\n\n".encode(),
    b"id: d\n\n",
]
EVENT_IDS = ["a", "2", "c", "", "", "é 6"]
# The last event ID by the number of events that were taken. The blocks without data that follow an
# event count with it, as no later event takes them.
IDS_TAKEN = ["a", "a", "c", "c", "", "", "d"]
COUNT = len(EVENT_IDS)
EVENT_NUMBERS = range(1, COUNT + 1)
# The index of the block of each event, and of the end.
_EVENT_BLOCKS = [index for index, block in enumerate(BLOCKS) if b"data" in block] + [len(BLOCKS)]

# Five events whose ids are their numbers.
NUMBERED = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(1, 6)]

# How blocks are distributed over chunks.
ONE_OR_MANY_CHUNKS = pytest.mark.parametrize(
    "in_many_chunks", [False, True], ids=["one chunk", "chunk by chunk"]
)
NEEDS_SIGNALS = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="there are no signals for threads"
)


def play_blocks(blocks: list[bytes], in_many_chunks: bool = False, **options: Any) -> Play:
    """Play the blocks, and then leave the connection open unless the options say otherwise."""
    body = blocks if in_many_chunks else [b"".join(blocks)]
    return Play(body=body, **{"framing": "chunked", "end": "hang", "delay": 3.0, **options})


def play_until(k: int, **options: Any) -> Play:
    """Play the blocks before event `k`, and leave the connection open."""
    return play_blocks(BLOCKS[: _EVENT_BLOCKS[k - 1]], **options)


def play_from(k: int, **options: Any) -> Play:
    """Play event `k` and the following blocks, and close the connection."""
    return play_blocks(BLOCKS[_EVENT_BLOCKS[k - 1] :], **{"end": "fin", **options})


def numbers_of(events: list[Any]) -> list[int]:
    return [int(event.data) for event in events]


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# -- Waits that are interrupted --------------------------------------------------------------------


@contextmanager
def interrupt(
    condition: Callable[[], object] = lambda: True,
    error: type[BaseException] = KeyboardInterrupt,
) -> Iterator[None]:
    """Interrupt a blocking wait by a signal, whose handler raises `error`."""

    def fire(*_: Any) -> None:
        raise error

    def work() -> None:
        is_started.wait()
        wait_until(condition)
        wait_until_blocked(reader)
        signal.pthread_kill(reader.ident or 0, signal.SIGUSR1)

    reader = threading.current_thread()
    before = signal.signal(signal.SIGUSR1, fire)
    thread = threading.Thread(target=work)
    # start() waits as well.
    is_started = threading.Event()
    try:
        thread.start()
        is_started.set()
        yield
    except error:
        return
    else:
        pytest.fail("the block was not interrupted")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@asynccontextmanager
async def interrupt_wait(
    way: Way, condition: Callable[[], object] = lambda: True
) -> AsyncIterator[None]:
    """Interrupt the block once the condition holds and the block waits.

    A blocking way is interrupted by a signal, an async one is cancelled.
    """
    if not way.is_async:
        with interrupt(condition):
            yield
        return

    async def cancel() -> None:
        await wait_until_others_blocked(condition)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        yield
        pytest.fail("the block was not interrupted")
