"""The check whether a response is an event stream, sync and async.

HTML standard, 9.2.3, and Fetch, "process response": status 200 and the right content type.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from sse_fast._errors import ResponseError
from sse_fast._source import REDIRECTS, Response, Source, redact_url
from sse_fast._stream import Comments, EndReason, EventStream
from sse_fast._wake import await_within, wake_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import TypeVar

    from sse_fast._core.parser import Parser
    from sse_fast._watch import Watch

    T = TypeVar("T")

__all__ = ["acheck_response", "check_response", "open_events", "rejection_reason"]

_MAX_BODY = 64 * 1024
_MAX_BODY_SECONDS = 2.0


def open_events(
    opened: Source,
    parser: Parser[T],
    check: bool,
    on_chunk: Callable[[bytes], object] | None,
    comments: Comments | None = None,
    watch: Watch | None = None,
) -> EventStream[T]:
    """Make the stream of a sync source, and check its response.

    Args:
        opened: the source that an adapter returned.
        parser: the parser to feed.
        check: whether to check the response.
        on_chunk: called with each chunk before it is parsed.
        comments: the queue of the parser's comments.
        watch: the time limits.

    Raises:
        ResponseError: the check failed; the response is closed.
    """
    assert isinstance(opened.chunks, Iterable)
    stream: EventStream[T] = EventStream(opened, parser, on_chunk, comments, watch)
    # The check and the stream read the same iterator.
    opened = opened._replace(chunks=stream._chunks)
    reason = check_response(opened) if check else None
    if reason is not None:
        stream.end_reason = reason
        stream.close()
    return stream


def check_response(opened: Source, objection: str = "") -> EndReason | None:
    """Check the response of a sync source.

    Args:
        opened: the source; without a response, it passes.
        objection: a reason to refuse the response that the caller has found already.

    Returns:
        `NO_CONTENT` if the stream is over before it began, otherwise None.

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
    # Reading to the end frees the connection for the next request.
    with suppress(Exception):
        next(cast("Iterator[bytes]", opened.chunks), None)
    return EndReason.NO_CONTENT


async def acheck_response(opened: Source, objection: str = "") -> EndReason | None:
    """Check the response of an async source, as `check_response` does.

    Args:
        opened: the source; without a response, it passes.
        objection: a reason to refuse the response that the caller has found already.

    Returns:
        `NO_CONTENT` if the stream is over before it began, otherwise None.

    Raises:
        ResponseError: the check failed; the caller has to close the response.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or rejection_reason(response)
    if not objection:
        if response.status != 204:
            return None
        # Reading to the end frees the connection for the next request.
        with suppress(Exception):
            async for _ in cast("AsyncIterable[bytes]", opened.chunks):
                break
        return EndReason.NO_CONTENT
    with suppress(Exception):
        await await_within(_MAX_BODY_SECONDS, _aread_refused(opened, response))
    raise _response_error(objection, response)


def _read_refused(opened: Source, response: Response) -> None:
    """Store the beginning of the body in `response.body`, and close the response."""
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

    if opened.wake is not None:
        with wake_after(_MAX_BODY_SECONDS, opened.wake):
            read()
    else:
        # Nothing can end this read without harm to others, for example over HTTP/2: it continues
        # in a thread of its own.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_MAX_BODY_SECONDS)
    response.body = bytes(body[:_MAX_BODY])


async def _aread_refused(opened: Source, response: Response) -> None:
    async for chunk in cast("AsyncIterable[bytes]", opened.chunks):
        response.body = (response.body + chunk)[:_MAX_BODY]
        if len(response.body) == _MAX_BODY:
            break


def rejection_reason(response: Response) -> str:
    """Return why the response carries no event stream; "" if it does, or is a 204."""
    where = f": {redact_url(response.url)}" if response.url else ""
    if response.status == 204:
        return ""
    if response.status in REDIRECTS and "location" in response.headers:
        return (
            f"Expected status 200 and no redirect, got {response.status}{where}; "
            "response.headers['location'] names the target"
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
    """Make the error; Retry-After is a number of seconds or a date (RFC 9110, 10.2.3)."""
    # Imported late: it loads socket and half of the email package.
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    value = response.headers.get("retry-after", "").strip()
    delay: float | None = None
    if value.isascii() and value.isdigit():
        delay = float(value)
    elif value:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(value)
            # A date without a zone is GMT.
            date = date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
            delay = max(0.0, date.timestamp() - time.time())
    return ResponseError(objection, response, delay)
