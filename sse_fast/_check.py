"""Is this response an event stream? The check of a response, sync and async.

Fetch, "process response"; HTML standard, 9.2.3.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from sse_fast._errors import ResponseError
from sse_fast._source import REDIRECTS, Response, Source, redact_url
from sse_fast._stream import EndReason, EventStream
from sse_fast._wake import get_running_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from typing_extensions import TypeVar

    from sse_fast._core.parser import Parser

    T = TypeVar("T")

__all__ = ["acheck_response", "check_response", "open_events", "rejection_reason"]

_MAX_BODY = 64 * 1024
_MAX_BODY_SECONDS = 2.0


def open_events(
    opened: Source,
    parser: Parser[T],
    check: bool,
    on_chunk: Callable[[bytes], object] | None,
) -> EventStream[T]:
    """The stream of what an adapter opened; its response is looked at, if `check` says so.

    Raises:
        ResponseError: the check failed; the response is closed.
    """
    assert isinstance(opened.chunks, Iterable)
    opened = opened._replace(chunks=iter(opened.chunks))
    reason = check_response(opened) if check else None
    stream: EventStream[T] = EventStream(opened, parser, on_chunk)
    if reason is not None:
        stream.end_reason = reason
        stream.close()
    return stream


def check_response(opened: Source, objection: str = "") -> EndReason | None:
    """The check of a source: why its stream is over at once, or None.

    `objection` is what there is to say against the response beforehand.

    Raises:
        ResponseError: the check failed; the response is closed.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or rejection_reason(response)
    if objection:
        _read_refused(opened, response)
        raise _response_error(objection, response)
    if response.status != 204:
        return None
    # Read to its end, so that the connection is free for the next request.
    with suppress(Exception):
        next(cast("Iterator[bytes]", opened.chunks), None)
    return EndReason.NO_CONTENT


async def acheck_response(opened: Source, objection: str = "") -> EndReason | None:
    """The async twin of `check_response`.

    Raises:
        ResponseError: the check failed; the response is still to be closed.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or rejection_reason(response)
    if not objection:
        if response.status != 204:
            return None
        # Read to its end, so that the connection is free for the next request.
        with suppress(Exception):
            async for _ in cast("AsyncIterable[bytes]", opened.chunks):
                break
        return EndReason.NO_CONTENT
    with suppress(Exception):
        await _within(_MAX_BODY_SECONDS, _aread_refused(opened, response))
    raise _response_error(objection, response)


def _read_refused(opened: Source, response: Response) -> None:
    """The beginning of the body, into `response.body`; then the response is closed."""
    chunks: Iterable[bytes] = cast("Iterable[bytes]", opened.chunks)
    body = bytearray()
    deadline = time.monotonic() + _MAX_BODY_SECONDS

    def read() -> None:
        try:
            with suppress(Exception):
                for chunk in chunks:
                    body.extend(chunk)
                    if len(body) >= _MAX_BODY or time.monotonic() > deadline:
                        break
        finally:
            with suppress(Exception):
                if opened.close is not None:
                    opened.close()

    wake = opened.wake
    if wake is not None:

        def wake_quietly() -> None:
            with suppress(Exception):
                wake()

        timer = threading.Timer(_MAX_BODY_SECONDS, wake_quietly)
        timer.daemon = True
        timer.start()
        try:
            read()
        finally:
            timer.cancel()
    else:
        # A read that nothing can end without harm to others, as in HTTP/2, goes on by itself.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_MAX_BODY_SECONDS)
    response.body = bytes(body[:_MAX_BODY])


async def _aread_refused(opened: Source, response: Response) -> None:
    async for chunk in cast("AsyncIterable[bytes]", opened.chunks):
        response.body = (response.body + chunk)[:_MAX_BODY]
        if len(response.body) == _MAX_BODY:
            break


async def _within(seconds: float, what: Coroutine[Any, Any, None]) -> None:
    """Await it for so long; what it is cut short of raises, or ends quietly."""
    if (trio := get_running_trio()) is not None:
        with trio.move_on_after(seconds):
            await what
        return
    # Here, as most programs are synchronous.
    import asyncio

    # Not by wait_for(), which before Python 3.12 may lose a cancellation.
    task = asyncio.ensure_future(what)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        # Nothing else can read or close the source before that has come to its end.
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def rejection_reason(response: Response) -> str:
    """Why the response carries no event stream; "": it does, or is a 204."""
    where = f": {redact_url(response.url)}" if response.url else ""
    if response.status == 204:
        return ""
    if response.status in REDIRECTS and "location" in response.headers:
        return (
            f"Expected status 200 and no redirect, got {response.status}{where}; "
            "response.headers['location'] says where it leads"
        )
    if response.status != 200:
        return f"Expected status 200, got {response.status}{where}"
    content_type = response.headers.get("content-type", "").strip()
    essence = content_type.partition(";")[0].split(maxsplit=1)
    if not essence or essence[0].casefold() != "text/event-stream":
        got = repr(content_type) if content_type else "none"
        return f"Expected content type 'text/event-stream', got {got}{where}"
    return ""


def _response_error(objection: str, response: Response) -> ResponseError:
    """Retry-After is a number of seconds or a date (RFC 9110, 10.2.3)."""
    # Here, as it would bring half the email package and socket into `import sse_fast`.
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    value = response.headers.get("retry-after", "").strip()
    delay: float | None = None
    if value.isascii() and value.isdigit():
        delay = float(value)
    elif value:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(value)
            # Where it names no zone, GMT is meant.
            date = date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
            delay = max(0.0, date.timestamp() - time.time())
    return ResponseError(objection, response, delay)
