"""Exceptions of signal handlers, between any two lines, lose no chunk and splice no event."""

from __future__ import annotations

import _thread
import asyncio
import dis
import functools
import gc
import itertools
import operator
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import (
    ACCELERATED,
    DecodeError,
    EndReason,
    SSEError,
    _background,
    _stream,
    _stream_base,
    aiter_events,
    iter_columns,
    iter_events,
)
from tests.support.commands import run_python
from tests.support.interrupting import checked_offsets
from tests.support.streams import AsyncClosing

FILES = {_background.__file__, _stream.__file__, _stream_base.__file__}
PIECES = [b"data: 1, which is ", b"long\n\n: c\n\ndata: 2\n\ndata: 3, which is ", b"the end\n\n"]
WHOLE = ["1, which is long", "2", "3, which is the end"]


class Interruption(BaseException):
    """The exception of a signal handler."""


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let no stream of an earlier test be collected, and closed, within a traced one."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Tracer:
    """Raises `Interruption` at the nth place of the files of streams.

    Args:
        at: the number of the place.
        places: "lines", "codes" for bytecodes, or "checks": those at which CPython runs handlers.
    """

    def __init__(self, at: int, places: str = "lines") -> None:
        self.left = at
        self.opcodes = places != "lines"
        self.only_checks = places == "checks"
        self.place = ""
        self.frames: set[Any] = set()

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "call" and _is_finalizing(frame):
            return None
        if frame.f_lineno is None:
            # A generator is closed, whose exceptions the interpreter only reports.
            return self
        if self.opcodes:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        if self.opcodes and _is_return(frame):
            # A result that has left the function is lost, as that of any function.
            return self
        is_place = event == ("opcode" if self.opcodes else "line")
        if self.only_checks:
            # A coroutine that is interrupted when it resumes drops what it has waited for.
            is_first = frame not in self.frames
            self.frames.add(frame)
            is_check = event == "opcode" and frame.f_lasti in checked_offsets(frame.f_code)
            is_place = is_check or (event == "call" and is_first)
        if is_place:
            self.left -= 1
            if self.left == 0:
                self.place = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise Interruption
        return self

    @property
    def has_raised(self) -> bool:
        return self.left <= 0


def _is_finalizing(frame: Any) -> bool:
    """Return whether `__del__` runs, whose exceptions the interpreter only reports."""
    callers = (frame, frame.f_back, frame.f_back and frame.f_back.f_back)
    return any(each is not None and each.f_code.co_name == "__del__" for each in callers)


def _is_return(frame: Any) -> bool:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")


def traced(tracer: Tracer, step: Callable[[], Any]) -> Any:
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        return step()
    finally:
        sys.settrace(before)


def read(step: Callable[[], Any], tracer: Tracer) -> list[Any]:
    """Read to the end and go on after each exception; an SSEError ends the rows."""
    rows: list[Any] = []
    for _ in range(30):
        try:
            event = traced(tracer, step)
        except (Interruption, DecodeError) as error:
            # An exception that is on its way out is the context of the interruption.
            for each in (error, error.__context__):
                if isinstance(each, DecodeError) and each.event.data not in rows:
                    rows.append(each.event.data)
            continue
        except SSEError:
            rows.append("SSEError")
            return rows
        if event is None:
            return rows
        rows.append(event.data)
    raise AssertionError(f"no end: {rows}")


def check_every_place(
    open_step: Callable[[], Callable[[], Any]],
    whole: list[Any],
    places: str = "lines",
) -> None:
    """Check the rows after an exception at each place.

    Args:
        open_step: opens a stream, and returns a function for its next event.
        whole: the rows without any exception.
        places: as for `Tracer`.
    """
    bad: dict[str, list[Any]] = {}
    steps: list[Callable[[], Any]] = []
    for at in itertools.count(1):
        tracer = Tracer(at, places)
        # Kept, because a stream that goes would be closed within a traced one.
        steps.append(open_step())
        rows = read(steps[-1], tracer)
        if "x" in rows:
            # The undecodable event may come early, as the context of an interruption.
            rows.remove("x")
            rows.insert(1, "x")
        if rows != whole:
            bad[tracer.place] = rows
        if not tracer.has_raised:
            break
    assert at > 30
    assert bad == {}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "on_chunk": {"on_chunk": lambda chunk: None},
    "on_comment": {"on_comment": lambda text: None},
    "both": {"on_chunk": lambda chunk: None, "on_comment": lambda text: None},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [bytes, pytest.param(bytearray, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("places", ["lines", pytest.param("codes", marks=pytest.mark.matrix)])
def test_interrupted_stream_loses_nothing(options: str, kind: Any, places: str) -> None:
    def step_of(stream: Any) -> Callable[[], Any]:
        def step() -> Any:
            # The Python code that the compiled fast path leaves out.
            try:
                return stream._next()
            except StopIteration:
                return None

        return step

    check_every_place(
        lambda: step_of(iter_events(map(kind, PIECES), **OPTIONS[options])), WHOLE, places
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_interrupted_large_chunk_loses_nothing(
    options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stream_base, "READ_SIZE", 8)

    def open_step() -> Callable[[], Any]:
        stream: Any = iter_events([b"".join(PIECES)], **OPTIONS[options])
        stream._slice_size = min(stream._slice_size, 8)
        return lambda: next(stream, None)

    check_every_place(open_step, WHOLE)


def test_interrupted_stream_keeps_decode_errors() -> None:
    def open_step() -> Callable[[], Any]:
        stream = iter_events(iter([b"data: 1\n\ndata: x\n\n", b"data: 3\n\n"]), decode=int)
        return lambda: next(stream, None)

    check_every_place(open_step, [1, "x", 3])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("options", OPTIONS)
def test_interrupted_async_stream_loses_nothing(options: str) -> None:
    loop = asyncio.new_event_loop()

    def open_step() -> Callable[[], Any]:
        stream = aiter_events(AsyncClosing(*PIECES), check=False, **OPTIONS[options])

        def step() -> Any:
            # Run without a loop: these chunks never wait.
            coroutine = anext(stream, None).__await__()
            try:
                while True:
                    next(coroutine)
            except StopIteration as stop:
                return stop.value

        return step

    try:
        # A handler cannot run at the line that clears a flag after the source has ended.
        check_every_place(open_step, WHOLE, "checks")
    finally:
        loop.close()


def test_interrupted_kept_reads_lose_nothing() -> None:
    """A signal handler raises in the waiting task, or in the task that reads."""
    pieces = PIECES[:2]
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def read_pieces() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read_next(reads: _background.KeptReads, received: list[Any]) -> None:
        try:
            received.append(await reads.__anext__())
        except StopAsyncIteration:
            received.append("end")
        except ConnectionAbortedError:
            received.append("error")

    try:
        for at in itertools.count(1):
            tracer = Tracer(at)
            reads = _background.KeptReads(read_pieces())
            received: list[Any] = []
            for _ in range(len(pieces) + 2):
                with suppress(Interruption):
                    traced(tracer, lambda: loop.run_until_complete(read_next(reads, received)))  # noqa: B023
            whole = [*pieces, "end"]
            # An error may say that the read was interrupted. A missing piece may not pass.
            size = received.index("error") if "error" in received else len(whole)
            assert received[:size] == whole[:size], tracer.place
            if not tracer.has_raised:
                break
        assert at > 30
    finally:
        loop.close()


def test_on_chunk_is_called_once_for_each_chunk() -> None:
    """An interruption before or after the call makes no difference."""
    for at in range(1, 200):
        seen: list[bytes] = []
        stream = iter_events(map(bytearray, PIECES), on_chunk=seen.append)
        assert read(lambda stream=stream: next(stream, None), Tracer(at)) == WHOLE
        assert seen == PIECES


# -- Real signals ----------------------------------------------------------------------------------


@pytest.fixture
def raising_signal() -> Iterator[Any]:
    number = getattr(signal, "SIGUSR1", signal.SIGINT)

    def handler(*_: object) -> None:
        raise Interruption

    before = signal.signal(number, handler)
    yield number
    signal.signal(number, before)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_signal_after_read_loses_nothing(kind: Any, options: str, raising_signal: Any) -> None:
    """The handler runs in the next Python function that is entered."""

    def chunks() -> Iterator[Any]:
        # All in C: no Python function is entered before that of the stream.
        second = map(
            operator.itemgetter(1),
            zip(map(_thread.interrupt_main, [raising_signal]), [kind(PIECES[1])], strict=True),
        )
        return itertools.chain([kind(PIECES[0])], second, [kind(PIECES[2])])

    stream = iter_events(chunks(), **OPTIONS[options])
    rows: list[str] = []
    interruptions = 0
    while True:
        try:
            # extend() keeps what it got before an exception.
            rows.extend(map(operator.attrgetter("data"), stream))
            break
        except Interruption:
            interruptions += 1
    assert rows == WHOLE
    assert interruptions == 1


class Alarm(Exception):
    """The exception of a handler for a time limit."""


class Handlers:
    """Signal handlers in every form that Python takes; each raises `error`."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __call__(self, number: int, frame: Any) -> None:
        raise self.error

    def method(self, number: int, frame: Any) -> None:
        self.help()

    def help(self) -> None:
        raise self.error

    def without_names(self, *_: Any) -> None:
        raise self.error

    def without_frame(self, number: int, frame: Any) -> None:
        del frame
        raise self.error

    def with_more(self, text: str, number: int, frame: Any) -> None:
        raise self.error

    def get(self, form: str) -> Any:
        forms = {
            "object": self,
            "partial": functools.partial(self.with_more, "x"),
            "lambda": lambda *_: self.help(),
        }
        return forms.get(form) or getattr(self, form)


HANDLERS = ["object", "partial", "lambda", "method", "without_names", "without_frame"]


def raise_signal_at_the_end(number: int, chunks: list[bytes]) -> Iterator[bytes]:
    """Return an iterator in C whose end raises the signal: only its reader can run the handler."""
    end: Any = filter(None, map(_thread.interrupt_main, [number]))
    return itertools.chain(chunks, end)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Alarm])
@pytest.mark.parametrize("form", HANDLERS)
@pytest.mark.parametrize("reader", ["fast path", "python", "next_event", "columns"])
def test_signal_at_end_of_source_is_no_doubt(
    reader: str, form: str, error: Any, raising_signal: Any
) -> None:
    """The end of the source stays a clean end, with every form of handler."""
    if reader == "columns" and not ACCELERATED:
        pytest.skip("columns need the compiled extension")
    signal.signal(raising_signal, Handlers(error).get(form))
    rows: list[str] = []
    chunks = raise_signal_at_the_end(raising_signal, PIECES)
    stream: Any
    if reader == "columns":
        # It needs pyarrow.
        from tests.support.columnar import rows_of

        stream = iter_columns(chunks)
        step = lambda: next(stream, None)  # noqa: E731
    else:
        stream = iter_events(chunks, on_chunk=None if reader == "fast path" else len)
        stream._wait = lambda seconds: True
        step = stream.next_event if reader == "next_event" else lambda: next(stream, None)
    interruptions = 0
    for _ in range(30):
        try:
            row = step(1) if reader == "next_event" else step()
        except error:
            interruptions += 1
            continue
        if row is None:
            break
        rows += [row.data] if reader != "columns" else [each[1] for each in rows_of(row)]
    assert rows == WHOLE
    assert interruptions == 1
    assert reader == "columns" or stream.end_reason is EndReason.END


BEGINNING_OF_FEED = """
import sys
from sse_fast import Parser, iter_events

def raise_at(number):
    def trace(frame, event, argument):
        nonlocal number
        if event == "call" and frame.f_code is Parser.feed.__code__:
            number -= 1
            if number == 0:
                raise KeyboardInterrupt
    return trace

for number in range(1, 5):
    stream = iter_events(iter([b"data: 1, which is ", b"long\\n\\ndata: 2\\n", b"\\n"]))
    seen, interruptions = [], 0
    while True:
        sys.settrace(raise_at(number) if not interruptions else None)
        try:
            event = next(stream, None)
        except KeyboardInterrupt:
            interruptions += 1
            continue
        finally:
            sys.settrace(None)
        if event is None:
            break
        seen.append(event.data)
    assert seen == ["1, which is long", "2"], (number, seen)
print("ok")
"""


def test_signal_when_feed_begins_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the Python core, whose feed() is a function in which a handler may run first."""
    monkeypatch.setenv("SSE_FAST_PURE", "1")
    assert run_python(BEGINNING_OF_FEED, directory=tmp_path) == "ok\n"
