"""The check whether a response is an event stream, sync and async.

HTML standard, 9.2.3, and Fetch, "process response": status 200 and the right content type.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from sse_fast._errors import ResponseError, TransportError
from sse_fast._interrupts import IgnoredErrors
from sse_fast._mime import extract_media_type
from sse_fast._source import MAX_BODY, REDIRECTS, Response, Source, redact_url
from sse_fast._stream import Comments, EndReason, EventStream
from sse_fast._wake import await_within, wake_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import TypeVar

    from sse_fast._core.parser import Parser
    from sse_fast._watch import Watch

    T = TypeVar("T")

__all__ = ["acheck_response", "check_response", "open_events", "rejection_reason"]

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
        TransportError: it ended within its head, as far as the library tells.
    """
    response = opened.response
    if response is None:
        return None
    objection = objection or rejection_reason(response)
    if objection:
        ended = _read_refused(opened, response)
        if ended and opened.cut_heads and _looks_cut(response):
            raise TransportError(
                "The connection ended with the response head, perhaps within it: it has no content "
                "type, and no body"
            )
        raise _response_error(objection, response)
    if response.status != 204:
        return None
    # Reading to the end frees the connection for the next request.
    with IgnoredErrors():
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
        with IgnoredErrors():
            async for _ in cast("AsyncIterable[bytes]", opened.chunks):
                break
        return EndReason.NO_CONTENT
    with IgnoredErrors():
        await await_within(_MAX_BODY_SECONDS, _aread_refused(opened, response))
    raise _response_error(objection, response)


def _looks_cut(response: Response) -> bool:
    """Return whether the head of a response without a body is the beginning of a stream's head."""
    content_type = response.headers.get("content-type", "")
    return (
        response.status == 200
        and not response.body
        and "text/event-stream".startswith(content_type)
    )


def _read_refused(opened: Source, response: Response) -> bool:
    """Store the beginning of the body in `response.body`, and close the response.

    Returns:
        Whether its end was reached.
    """
    chunks: Iterable[bytes] = cast("Iterable[bytes]", opened.chunks)
    body = bytearray()
    has_ended = False
    deadline = time.monotonic() + _MAX_BODY_SECONDS

    def read() -> None:
        nonlocal has_ended
        try:
            with IgnoredErrors():
                for chunk in chunks:
                    body.extend(chunk)
                    if len(body) >= MAX_BODY or time.monotonic() > deadline:
                        break
                # A read that was woken has not reached the end.
                has_ended = time.monotonic() < deadline
        finally:
            with IgnoredErrors():
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
    # Our transport adds the bytes that are no framing or coding.
    response.body = (bytes(body) + response.body)[:MAX_BODY]
    return has_ended


async def _aread_refused(opened: Source, response: Response) -> None:
    async for chunk in cast("AsyncIterable[bytes]", opened.chunks):
        response.body = (response.body + chunk)[:MAX_BODY]
        if len(response.body) == MAX_BODY:
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
    if 100 <= response.status < 200 and response.status != 101:
        return (
            f"Expected status 200, got {response.status}{where}, an interim response, which the "
            "library takes for the final one: use another library, or EventSource without a client"
        )
    if response.status != 200:
        return f"Expected status 200, got {response.status}{where}"
    content_type = response.headers.get("content-type", "").strip()
    if extract_media_type(content_type).essence != "text/event-stream":
        got = repr(content_type) if content_type else "none"
        return f"Expected content type 'text/event-stream', got {got}{where}"
    return ""


def _response_error(objection: str, response: Response) -> ResponseError:
    headers = response.headers
    return ResponseError(objection, response, _parse_retry_after(headers, time.time()))


def _parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that Retry-After asks to wait: a number or a date (RFC 9110, 10.2.3).

    A date is compared with the clock of the server that sent it, which may be far from ours.

    Args:
        headers: the header fields of the response.
        now: the time to compare a date with if the server sent none, as a Unix time.
    """
    value = headers.get("retry-after", "").strip()
    # Some servers send fractions. Repeated fields are joined by commas.
    number = re.match(r"([0-9]+(?:\.[0-9]*)?)\s*(?:,|\Z)", value)
    if number is not None:
        return float(number[1])
    until = _parse_date(value)
    if until is None:
        return None
    date = _parse_date(headers.get("date", ""))
    if date is not None:
        age = re.match(r"[0-9]{1,9}\Z", headers.get("age", "").strip())
        # A cache adds the seconds since the date (RFC 9111, 5.1).
        now = date + (int(age[0]) if age is not None else 0)
    return max(0.0, until - now)


def _parse_date(value: str) -> float | None:
    """Return the Unix time of a date in one of the three formats (RFC 9110, 5.6.7), or None."""
    # Imported late: it loads socket and half of the email package.
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    with suppress(ValueError, OverflowError, TypeError):
        date = parsedate_to_datetime(value.strip())
        # A date without a zone is GMT.
        return (date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)).timestamp()
    return None
