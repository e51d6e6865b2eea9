"""The awaitable of `AsyncEventStream.__anext__`: every way to await it, give it up or misuse it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import sys
import types
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

import sse_fast
from sse_fast import EndReason, TransportError, aiter_events, iter_events


class Source:
    """Chunks that are given out one by one: those of `put`, each when it is there."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.arrived = asyncio.Event()
        self.waits = 0
        self.is_over = False

    def put(self, chunk: bytes | None) -> None:
        if chunk is None:
            self.is_over = True
        else:
            self.chunks.append(chunk)
        self.arrived.set()

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        while not self.chunks:
            if self.is_over:
                raise StopAsyncIteration
            self.waits += 1
            self.arrived.clear()
            await self.arrived.wait()
        return self.chunks.pop(0)


async def adata(stream: Any) -> list[str]:
    return [event.data async for event in stream]


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def by_anext(stream: Any) -> Any:
    return await anext(stream)


async def by_default(stream: Any) -> Any:
    return await anext(stream, None)


async def by_dunder(stream: Any) -> Any:
    return await stream.__anext__()


async def by_ensure_future(stream: Any) -> Any:
    return await asyncio.ensure_future(anext(stream))


async def by_create_task(stream: Any) -> Any:
    return await asyncio.create_task(anext(stream))


async def by_default_in_task(stream: Any) -> Any:
    return await asyncio.ensure_future(anext(stream, None))


async def by_wait_for(stream: Any) -> Any:
    return await asyncio.wait_for(anext(stream), 10)


async def by_gather(stream: Any) -> Any:
    (event,) = await asyncio.gather(anext(stream))
    return event


async def by_wait(stream: Any) -> Any:
    done, _ = await asyncio.wait({asyncio.ensure_future(anext(stream))})
    return done.pop().result()


async def by_shield(stream: Any) -> Any:
    return await asyncio.shield(anext(stream))


@types.coroutine
def by_generator(stream: Any) -> Iterator[Any]:
    return (yield from stream.__anext__().__await__())


WAYS: list[Callable[[Any], Awaitable[Any]]] = [
    by_anext,
    by_default,
    by_dunder,
    by_ensure_future,
    by_create_task,
    by_default_in_task,
    by_wait_for,
    by_gather,
    by_wait,
    by_shield,
    by_generator,
]


@pytest.mark.parametrize("way", WAYS)
def test_event_is_had_in_every_way(way: Any) -> None:
    async def main() -> None:
        source = Source(b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n")
        stream = aiter_events(source)
        # The events are in a new chunk, the same one, the next one, and one that is to come.
        assert [(await way(stream)).data for _ in range(3)] == ["1", "2", "3"]
        asyncio.get_running_loop().call_soon(source.put, b"data: 4\n\n")
        assert (await way(stream)).data == "4"
        source.put(None)
        if way in (by_default, by_default_in_task):
            assert await way(stream) is None
        else:
            with pytest.raises(StopAsyncIteration):
                await way(stream)
        assert stream.end_reason is EndReason.END

    asyncio.run(main())


def test_event_is_taken_when_awaited_not_when_made() -> None:
    async def main() -> None:
        stream = aiter_events(Source(b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n"))
        assert (await anext(stream)).id == "1"
        second, third = anext(stream), anext(stream)
        assert stream.last_event_id == "1"
        # In the order of the waits.
        assert (await third).id == "2"
        assert stream.last_event_id == "2"
        assert (await second).id == "3"

    asyncio.run(main())


def test_step_that_was_awaited_is_refused() -> None:
    async def main() -> None:
        stream = aiter_events(Source(b"data: 1\n\ndata: 2\n\ndata: 3\n\n"))
        step: Any = anext(stream)
        assert (await step).data == "1"
        with pytest.raises(RuntimeError, match="already"):
            await step
        assert (await anext(stream)).data == "2"
        with pytest.raises(RuntimeError, match="already"):
            await step
        assert (await anext(stream)).data == "3"

    asyncio.run(main())


def test_second_waiter_raises_and_first_goes_on() -> None:
    async def main() -> None:
        source = Source()
        stream = aiter_events(source)
        first = asyncio.ensure_future(anext(stream))
        await settle()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="already waiting"):
                await anext(stream)
        source.put(b"data: 1\n\n")
        assert (await first).data == "1"

    asyncio.run(main())


def test_cancelled_step_loses_nothing() -> None:
    async def main() -> None:
        source = Source()
        stream = aiter_events(source)
        for number in range(20):
            task = asyncio.ensure_future(anext(stream))
            await settle()
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            source.put(b"data: %d\n\n" % number)
            assert (await anext(stream)).data == str(number)

    asyncio.run(main())


def test_step_never_awaited_leaves_no_trace() -> None:
    async def main() -> None:
        source = Source(b"data: 1\n\ndata: 2\n\n")
        source.put(None)
        stream = aiter_events(source)
        steps: Any = [anext(stream) for _ in range(3)]
        for step in steps:
            step.close()
        del step, steps
        assert await adata(stream) == ["1", "2"]

    asyncio.run(main())


def test_dropped_stream_is_freed_without_collector() -> None:
    async def main() -> None:
        source = Source(b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n")
        stream: Any = aiter_events(source)
        async for event in stream:
            if event.data == "3":
                break
        step = anext(stream)
        task = asyncio.ensure_future(step)
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        freed = weakref.ref(stream)
        del stream, step, task
        await settle()
        assert freed() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_dropped_step_gives_up_the_read() -> None:
    async def main() -> None:
        source = Source()
        stream: Any = aiter_events(source)
        step = stream.__anext__()
        step.send(None)
        assert stream.is_being_read
        del step
        assert not stream.is_being_read
        source.put(b"data: 1\n\n")
        assert (await anext(stream)).data == "1"

    asyncio.run(main())


def test_closed_step_closes_what_it_awaits() -> None:
    async def main() -> None:
        seen: list[str] = []

        class Noting(Source):
            async def __anext__(self) -> bytes:
                try:
                    return await super().__anext__()
                except GeneratorExit:
                    seen.append("closed")
                    raise

        source = Noting(b"data: 1\n\n")
        stream: Any = aiter_events(source)
        await anext(stream)
        step = stream.__anext__()
        step.send(None)
        step.close()
        step.close()
        assert seen == ["closed"]
        source.put(None)
        # The source may have lost a chunk.
        with pytest.raises(TransportError, match="right after a cancelled read"):
            await anext(stream)

    asyncio.run(main())


def test_step_has_the_protocol_of_coroutines() -> None:
    async def main() -> None:
        source = Source(b"data: 1\n\ndata: 2\n\n")
        stream: Any = aiter_events(source)
        step = stream.__anext__()
        with pytest.raises(TypeError, match="can't send non-None value"):
            step.send(1)
        step.close()
        step = stream.__anext__()
        with pytest.raises(StopIteration) as sent:
            step.send(None)
        assert sent.value.value.data == "1"
        step = stream.__anext__()
        with pytest.raises(ZeroDivisionError):
            step.throw(ZeroDivisionError("before the start"))
        with pytest.raises(RuntimeError, match="already"):
            step.send(None)
        # The exception came before anything was awaited, so nothing was lost.
        assert (await anext(stream)).data == "2"
        step = stream.__anext__()
        step.send(None)
        with pytest.raises(TransportError) as failed:
            step.throw(ZeroDivisionError("in the source"))
        assert isinstance(failed.value.__cause__, ZeroDivisionError)

    asyncio.run(main())


def throws(*arguments: Any) -> list[tuple[Any, Any]]:
    """Return what comes out of a step, and of a coroutine, that these arguments are thrown into."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> list[tuple[Any, Any]]:
        stream: Any = aiter_events(Source())
        found: list[tuple[Any, Any]] = []
        for awaitable in (stream.__anext__(), wait()):
            try:
                awaitable.throw(*arguments)
            except BaseException as error:
                found.append((type(error), error.args))
            awaitable.close()
        return found

    return asyncio.run(main())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_step_takes_exceptions_as_a_coroutine_does() -> None:
    for arguments in (
        (ValueError,),
        (ValueError("a"),),
        (ValueError, "a"),
        (ValueError, ("a", "b")),
        (ValueError, ValueError("a")),
        (ValueError("a"), "b"),
    ):
        step, coroutine = throws(*arguments)
        assert step == coroutine, arguments
    for wrong in (3, "text", int):
        assert {kind for kind, _ in throws(wrong)} == {TypeError}


def test_step_can_be_referred_to_weakly() -> None:
    async def main() -> None:
        step = anext(aiter_events(Source(b"data: 1\n\n")))
        refer = weakref.ref(step)
        assert refer() is step
        assert (await step).data == "1"

    asyncio.run(main())


@pytest.mark.parametrize("chunk", [b"", b":\n\n", b": x"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_source_without_events_can_be_interrupted(chunk: bytes, is_async: bool) -> None:
    class Endless(Future):
        def __anext__(self) -> Any:
            future = asyncio.get_running_loop().create_future()
            future.set_result(chunk)
            return future

    def interrupt(number: int, frame: object) -> None:
        raise ZeroDivisionError

    def read() -> None:
        stream = iter_events(itertools.repeat(chunk))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        next(stream)

    async def aread() -> None:
        stream = aiter_events(Endless())
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        await anext(stream)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(ZeroDivisionError):
            asyncio.run(aread()) if is_async else read()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_source_that_catches_the_cancellation_goes_on() -> None:
    class Stubborn(Source):
        async def __anext__(self) -> bytes:
            try:
                return await super().__anext__()
            except asyncio.CancelledError:
                return b"data: caught\n\n"

    async def main() -> None:
        stream = aiter_events(Stubborn())
        task = asyncio.ensure_future(anext(stream))
        await settle()
        task.cancel()
        assert (await task).data == "caught"

    asyncio.run(main())


class Future:
    """A source whose `__anext__` returns futures."""

    def __init__(self) -> None:
        self.number = 0

    def __aiter__(self) -> Future:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        self.number += 1
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if self.number == 4:
            raise StopAsyncIteration
        loop.call_soon(future.set_result, b"data: %d\n\n" % self.number)
        return future


class Custom(Future):
    """A source whose awaitables are iterators in Python, without `send`, `throw` and `close`."""

    def __anext__(self) -> Any:
        future = super().__anext__()

        class Waiting:
            def __await__(self) -> Iterator[Any]:
                return future.__await__()

        return Waiting()


class Generator(Future):
    """A source whose awaitables are generators."""

    def __anext__(self) -> Any:
        future = super().__anext__()

        @types.coroutine
        def wait() -> Iterator[Any]:
            return (yield from future.__await__())

        return wait()


class Ready(Future):
    """A source whose awaitables never suspend, and are iterators in Python."""

    def __anext__(self) -> Any:
        if self.number == 3:
            raise StopAsyncIteration
        self.number += 1
        number = self.number

        class Iterating:
            def __await__(self) -> Any:
                return self

            def __iter__(self) -> Any:
                return self

            def __next__(self) -> Any:
                raise StopIteration(b"data: %d\n\n" % number)

        return Iterating()


@pytest.mark.parametrize("source", [Future, Custom, Generator, Ready])
def test_source_with_any_awaitable_is_read(source: Any) -> None:
    async def main() -> list[str]:
        return await adata(aiter_events(source()))

    assert asyncio.run(main()) == ["1", "2", "3"]


@pytest.mark.parametrize("value", [None, 1, b"data: 1\n\n", iter([])])
def test_source_without_awaitable_raises(value: Any) -> None:
    class Wrong(Source):
        def __anext__(self) -> Any:
            return value

    async def main() -> None:
        stream = aiter_events(Wrong())
        with pytest.raises(TransportError) as caught:
            await anext(stream)
        assert isinstance(caught.value.__cause__, TypeError)
        assert stream.end_reason is EndReason.ERROR

    asyncio.run(main())


def test_source_that_raises_before_an_awaitable_is_told() -> None:
    class Failing(Source):
        def __anext__(self) -> Any:
            raise OSError("no route")

    async def main() -> None:
        stream = aiter_events(Failing())
        with pytest.raises(TransportError) as caught:
            await anext(stream)
        assert isinstance(caught.value.__cause__, OSError)

    asyncio.run(main())


def test_source_interrupted_before_an_awaitable_goes_on() -> None:
    class Interrupted(Source):
        is_first = True

        def __anext__(self) -> Any:
            if self.is_first:
                self.is_first = False
                raise KeyboardInterrupt
            return super().__anext__()

    async def main() -> None:
        stream = aiter_events(Interrupted(b"data: 1\n\n"))
        with pytest.raises(KeyboardInterrupt):
            await anext(stream)
        assert not stream.is_being_read
        assert (await anext(stream)).data == "1"

    # asyncio.run() would end at the interruption.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_step_works_under_trio() -> None:
    async def main() -> None:
        send, receive = trio.open_memory_channel[bytes](0)
        stream = aiter_events(receive)

        async def produce() -> None:
            for number in range(3):
                await send.send(b"data: %d\n\n" % number)
                await trio.sleep(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            with trio.move_on_after(0):
                await anext(stream)
            got = [(await anext(stream)).data for _ in range(3)]
            assert got == ["0", "1", "2"]

    trio.run(main)


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="the plain core makes a coroutine")
def test_loop_over_ready_events_makes_no_coroutine() -> None:
    async def main() -> None:
        stream = aiter_events(Source(b"data: 1\n\n" * 1000))
        await anext(stream)
        calls = []

        def note(frame: Any, event: str, argument: object) -> None:
            if event == "call":
                calls.append(frame.f_code)

        sys.setprofile(note)
        try:
            for _ in range(999):
                with pytest.raises(StopIteration):
                    stream.__anext__().send(None)
        finally:
            sys.setprofile(None)
        assert not [
            code
            for code in calls
            if "sse_fast" in code.co_filename and "test" not in code.co_filename
        ]

    asyncio.run(main())
