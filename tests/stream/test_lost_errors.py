"""Errors that a cancellation, or a signal handler, replaces: none is lost."""

from __future__ import annotations

import _thread
import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sse_fast import (
    EndReason,
    EventStream,
    EventTooLarge,
    ResponseError,
    SSEError,
    TransportError,
    aiter_events,
    iter_events,
)
from sse_fast._source import Response, Source
from sse_fast._stream import AsyncEventStream, make_parser
from tests.stream.test_interruptions import (
    PIECES,
    WHOLE,
    Alarm,
    Interruption,
    Tracer,
    traced,
)
from tests.support.streams import AsyncClosing, Closing

ENDS_BY_ERROR: dict[str, tuple[list[Any], type[SSEError]]] = {
    "source": ([b"data: 1\n\n", OSError("boom")], TransportError),
    "too large": ([b"data: 1\n\n", b"data: " + b"x" * 99], EventTooLarge),
}


class Failing:
    """An async source that fails when told so."""

    def __init__(self) -> None:
        self.failure: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.is_first = True

    def __aiter__(self) -> Failing:
        return self

    async def __anext__(self) -> bytes:
        if self.is_first:
            self.is_first = False
            return b"data: 1\n\n"
        return await self.failure


NEXT: dict[str, Callable[[Any], Any]] = {
    "anext": lambda stream: anext(stream),
    "next_event": lambda stream: stream.next_event(),
    "next_event within": lambda stream: stream.next_event(5),
}


@pytest.mark.parametrize("ticks", range(5))
@pytest.mark.parametrize("options", [{}, {"idle_timeout": 5}], ids=["plain", "watched"])
@pytest.mark.parametrize("way", NEXT)
def test_error_in_tick_of_cancellation_is_raised_next(
    way: str, options: dict[str, Any], ticks: int
) -> None:
    async def main() -> None:
        source = Failing()
        stream = aiter_events(source, **options)
        assert (await anext(stream)).data == "1"
        task = asyncio.ensure_future(NEXT[way](stream))
        for _ in range(5):
            await asyncio.sleep(0)
        source.failure.set_exception(OSError("boom"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        if error is None:
            with pytest.raises(TransportError) as caught:
                await NEXT[way](stream)
            error = caught.value
        assert isinstance(error.__cause__, OSError)
        with pytest.raises(SSEError, match="has ended already, with OSError"):
            await NEXT[way](stream)

    asyncio.run(main())


@pytest.mark.parametrize("way", NEXT)
@pytest.mark.parametrize("end", ENDS_BY_ERROR)
def test_error_is_raised_after_a_cancelled_close(way: str, end: str) -> None:
    items, error = ENDS_BY_ERROR[end]

    class SlowToClose(AsyncClosing):
        async def aclose(self) -> None:
            if not closing.is_set():
                closing.set()
                await asyncio.sleep(30)

    async def main() -> None:
        stream = aiter_events(SlowToClose(*items), max_event_size=20)
        assert (await anext(stream)).data == "1"
        task = asyncio.ensure_future(NEXT[way](stream))
        await closing.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        with pytest.raises(error):
            await NEXT[way](stream)

    closing = asyncio.Event()
    asyncio.run(main())


@pytest.mark.parametrize("way", ["await", *NEXT])
def test_refusal_is_raised_after_a_cancelled_close(way: str) -> None:
    async def close() -> None:
        if not closing.is_set():
            closing.set()
            await asyncio.sleep(30)

    async def begin(chunks: AsyncIterator[bytes]) -> Any:
        raise ResponseError("refused", response)

    async def wait(stream: Any) -> Any:
        return await (stream if way == "await" else NEXT[way](stream))

    async def main() -> None:
        source = Source(AsyncClosing(), close, response)
        stream = AsyncEventStream(source, make_parser()[0], begin=begin)
        task = asyncio.ensure_future(wait(stream))
        await closing.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        with pytest.raises(ResponseError, match="refused"):
            await wait(stream)

    closing = asyncio.Event()
    response = Response(400, {}, "", None)
    asyncio.run(main())


def test_refused_body_is_whole_after_waits_given_up() -> None:
    """A cancelled read closes the generator that a response of httpx reads from."""
    httpx = pytest.importorskip("httpx")
    body = [b'{"error": ', b'"quota exceeded', b' for this month"}']

    class Body(httpx.AsyncByteStream):  # type: ignore[misc,name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in body:
                await asyncio.sleep(0.01)
                yield chunk

    async def main() -> None:
        raw = httpx.Response(400, stream=Body(), request=httpx.Request("GET", "http://a/"))
        stream = aiter_events(raw)
        timeouts = 0
        refused = None
        while refused is None:
            try:
                await stream.next_event(0.002)
            except TimeoutError:
                timeouts += 1
            except ResponseError as error:
                refused = error.response
        assert refused.body == b"".join(body)
        assert timeouts > 2

    asyncio.run(main())


@pytest.mark.parametrize("end", ENDS_BY_ERROR)
def test_error_is_raised_after_an_interrupted_close(end: str) -> None:
    items, error = ENDS_BY_ERROR[end]

    class Interrupted(Closing):
        def close(self) -> None:
            self.closed += 1
            if self.closed == 1:
                raise KeyboardInterrupt

    stream = iter_events(Interrupted(*items), max_event_size=20)
    assert next(stream).data == "1"
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(error):
        next(stream)
    with pytest.raises(SSEError, match="has ended already"):
        next(stream)


@pytest.mark.parametrize("options", [{}, {"on_chunk": len}, {"on_comment": len}])
def test_error_is_raised_after_interruption_anywhere(options: dict[str, Any]) -> None:
    """A generator has ended by its error, so that the next read would find a clean end."""

    def chunks() -> Iterator[bytes]:
        yield from PIECES
        raise OSError("boom")

    # Kept, because a stream that goes would be closed within a traced one.
    streams: list[Any] = []
    for at in itertools.count(1):
        tracer = Tracer(at, "checks")
        rows: list[Any] = []
        stream = iter_events(chunks(), **options)
        streams.append(stream)
        for _ in range(30):
            try:
                event = traced(tracer, lambda: next(stream, None))  # noqa: B023
            except Interruption as error:
                if isinstance(error.__context__, TransportError):
                    # It was on its way out, and had left the stream.
                    rows.append(type(error.__context__.__cause__))
            except TransportError as error:
                rows.append(type(error.__cause__))
            except SSEError:
                break
            else:
                assert event is not None, tracer.place
                rows.append(event.data)
        assert list(dict.fromkeys(rows)) == [*WHOLE, OSError], tracer.place
        if not tracer.has_raised:
            break
    assert at > 20


# -- Signal handlers -------------------------------------------------------------------------------


@pytest.fixture
def late_signal() -> Iterator[Callable[[type[Exception]], Callable[[], None]]]:
    """Return a function that installs a handler, and returns one that raises the signal."""
    number = getattr(signal, "SIGUSR1", signal.SIGINT)
    before = signal.getsignal(number)

    def install(error: type[Exception]) -> Callable[[], None]:
        def handler(number: int, frame: Any) -> None:
            raise error("from a handler")

        signal.signal(number, handler)
        return lambda: _thread.interrupt_main(number)

    yield install
    signal.signal(number, before)


def wrapping(chunk: Callable[[], None]) -> Iterator[bytes]:
    """Wrap a `TimeoutError` as HTTP libraries do."""
    try:
        chunk()
        yield b""
    except TimeoutError as error:
        raise OSError("Read timed out") from error


@pytest.mark.parametrize("error", [Alarm, TimeoutError])
@pytest.mark.parametrize("where", ["drain", "close"])
def test_handler_error_at_the_end_comes_out(where: str, error: Any, late_signal: Any) -> None:
    """The rest of a body, and the close of its connection, may fail. A handler may not."""
    raise_signal = late_signal(error)

    def chunks() -> Iterator[bytes]:
        yield b"data: 1\n\ndata: [DONE]\n\n"
        if where == "drain":
            yield from wrapping(raise_signal)
        raise OSError("boom")

    def close() -> None:
        closed.append(True)
        if where == "close" and len(closed) == 1:
            raise_signal()
        raise OSError("boom")

    closed: list[bool] = []
    response = Response(200, {}, "", None)
    source = Source(chunks(), close, response, wake=lambda: None, reusable=True)
    stream = EventStream(source, make_parser(until="[DONE]")[0])
    assert next(stream).data == "1"
    with pytest.raises(error, match="from a handler"):
        next(stream)
    assert next(stream, None) is None
    assert stream.end_reason is EndReason.UNTIL
    assert closed


@pytest.mark.parametrize("error", [Alarm, TimeoutError])
def test_handler_error_in_async_drain_comes_out(error: Any, late_signal: Any) -> None:
    raise_signal = late_signal(error)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\ndata: [DONE]\n\n"
        for chunk in wrapping(raise_signal):
            yield chunk

    async def main() -> None:
        response = Response(200, {}, "", None)
        source = Source(chunks(), None, response, reusable=True)
        stream = AsyncEventStream(source, make_parser(until="[DONE]")[0])
        assert (await anext(stream)).data == "1"
        with pytest.raises(error, match="from a handler"):
            await anext(stream)
        assert await anext(stream, None) is None
        assert stream.end_reason is EndReason.UNTIL

    asyncio.run(main())


@pytest.mark.parametrize("error", [Alarm, TimeoutError])
@pytest.mark.parametrize("options", [{}, {"on_chunk": len}])
def test_handler_error_in_source_comes_out(
    error: Any, options: dict[str, Any], late_signal: Any
) -> None:
    """It is no failure of the source; but the source may have ended, so its end is doubtful."""
    raise_signal = late_signal(error)

    def chunks() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        yield from wrapping(raise_signal)
        yield b"data: 2\n\n"

    stream = iter_events(chunks(), **options)
    assert next(stream).data == "1"
    with pytest.raises(error, match="from a handler"):
        next(stream)
    with pytest.raises(TransportError, match="may be incomplete"):
        next(stream)


def test_handled_alarm_is_no_error_of_a_handler(late_signal: Any) -> None:
    """A program that reads on while it handles an alarm gets the errors of the source."""
    raise_signal = late_signal(Alarm)
    stream = iter_events(Closing(OSError("boom")))
    try:
        raise_signal()
        time.sleep(1)
    except Alarm:
        with pytest.raises(TransportError) as caught:
            next(stream)
    assert isinstance(caught.value.__cause__, OSError)
