"""The result of every adapter: a `Source` of chunks, and the `Response` that carries them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sse_fast._errors import TransportError
from sse_fast._mime import extract_media_type

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE = 64 * 1024
"""The largest read from a source and the largest slice for one `feed`, in bytes. It bounds the
number of events that are held at a time."""

MAX_BODY = 64 * 1024
"""The most that `Response.body` keeps of a refused body, in bytes."""

REDIRECTS = {301, 302, 303, 307, 308}
"""The statuses of a redirect, provided that the response has a Location (RFC 9110, 15.4)."""

# The beginning of a URL up to its authority, and the authority.
_AUTHORITY = re.compile(r"((?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//)?)([^/]*)")

_MAX_NAMES = 256
"""The most names of header fields that are shared."""

_names: dict[str, str] = {}


def _share_name(name: str) -> str:
    """Return one object for equal names, which many connections have.

    CPython 3.12 never frees interned strings, and a server may send other names each time.
    """
    if len(_names) < _MAX_NAMES and len(name) <= 64:
        return _names.setdefault(name, name)
    return _names.get(name, name)


class Headers(Mapping[str, str]):
    """The header fields of a response: a mapping that ignores the case of names.

    Repeated fields are joined with ", " (RFC 9110, 5.3).
    """

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        """Collect the fields.

        Args:
            fields: pairs of name and value, in the order of the response.
        """
        self._fields: dict[str, str] = {}
        for name, value in fields:
            name = _share_name(name.lower())
            self._fields[name] = f"{self._fields[name]}, {value}" if name in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        # Values are withheld, since they may be secret.
        return f"<Headers {', '.join(self._fields)}>"


class Response:
    """The response that carries a stream, with the same attributes for every HTTP library.

    Attributes:
        status: the status code.
        headers: the header fields, a mapping that ignores the case of names.
        url: the URL as the library reports it; "" if the library does not know it.
        raw: the library's own response object; None in a pickle or a copy, which no connection
            outlives.
        body: the first 64 KiB of the body if the check refused the response; otherwise b"".
    """

    __slots__ = ("body", "headers", "raw", "status", "url")

    def __init__(self, status: int, headers: Mapping[str, str], url: str, raw: Any) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.raw = raw
        self.body = b""

    @property
    def text(self) -> str:
        """The body as text, in the charset of the content type, otherwise in UTF-8.

        Bytes that are invalid in it are replaced by U+FFFD.
        """
        charset = extract_media_type(self.headers.get("content-type", "")).charset or "utf-8"
        # A charset that is unknown, or is the name of a codec for something else.
        with suppress(LookupError, ValueError):
            return self.body.decode(charset, "replace").removeprefix("\ufeff")
        return self.body.decode("utf-8", "replace").removeprefix("\ufeff")

    def json(self) -> Any:
        """Parse the body as JSON.

        Raises:
            ValueError: the body is not JSON, possibly because only its first 64 KiB are kept.
        """
        # Imported late: few programs read a refused response.
        import json

        return json.loads(self.body)

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        state = {"status": self.status, "url": self.url, "raw": None, "body": self.body}
        # The mapping of a library may not allow to be pickled.
        return None, {**state, "headers": Headers(self.headers.items())}

    def __repr__(self) -> str:
        return f"<Response {self.status} {redact_url(self.url)}>"


def redact_url(url: str) -> str:
    """Reduce a URL to scheme, host and path, which logs and messages may show."""
    # urlsplit() refuses some of the URLs that libraries accept.
    match = _AUTHORITY.match(re.split("[?#]", url, maxsplit=1)[0])
    assert match is not None
    return match[1] + match[2].rpartition("@")[2] + match.string[match.end() :]


class Source(NamedTuple):
    """The chunks of a stream, and the means to close it and to wake its reader.

    Every adapter returns one.
    """

    chunks: Iterable[bytes] | AsyncIterable[bytes]
    """Bytes as they arrive; async if the client is async. An empty chunk says that bytes arrived
    which complete no piece of the body, such as framing, so that time limits can be checked."""
    close: Callable[[], Any] | None = None
    """Releases the connection; awaited if the chunks are async. None: the source is borrowed. The
    `close` of http.client returns whether the connection can be used again."""
    response: Response | None = None
    """None for a file, a socket or an iterable."""
    wake: Callable[[], object] | None = None
    """Ends a blocked read by giving up the connection. It may be called from any thread, or, if the
    chunks are async, from their event loop. None: no read can be ended without harm to others."""
    reusable: bool = False
    """Whether the connection can serve another request once the body was read to its end."""
    framed: bool = False
    """Whether the end of the body is marked (chunked, Content-Length, END_STREAM), and so cannot
    be a crash of the server."""
    cut_heads: bool = False
    """Whether the library takes the end of the connection for the end of the head, and the response
    may be such a one: its body is not framed."""
    resumable: bool = False
    """Whether async chunks survive a cancelled read: nothing is lost, and the next read goes on."""
    lends: bool = False
    """Whether chunks may be a `memoryview` of bytes that is valid until the next read."""
    wait: Callable[[float], bool] | None = None
    """Waits up to that many seconds until the next read of sync chunks would not block; returns
    whether it would not. None: this cannot be told without a read."""


def is_reusable(headers: Mapping[str, str]) -> bool:
    """Return whether a connection can outlive this response, if its body is read to the end.

    Args:
        headers: the header fields of the response, which ignore the case of names.
    """
    connection = headers.get("connection", "").lower()
    framed = "content-length" in headers or "transfer-encoding" in headers
    return framed and "close" not in connection


def as_async(opened: Source) -> Source:
    """Return a source whose chunks are async iterable, for one that is read without `await`."""
    chunks = iter(cast("Iterable[bytes]", opened.chunks))
    close = opened.close or getattr(chunks, "close", None)

    async def aclose() -> None:
        if close is not None:
            close()

    return opened._replace(
        chunks=_AsyncChunks(chunks), close=aclose, reusable=False, resumable=True
    )


class _AsyncChunks(AsyncIterator[bytes]):
    """Chunks that are read without `await`, for async iteration."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


class FailingChunks(Iterator[bytes]):
    """Chunks that raise `TransportError` when they are read.

    They stand in for a body that was consumed before or cannot be decoded, which the library would
    present as an empty or an undecoded one.
    """

    def __init__(
        self,
        message: str = "The body was read or closed before, and nothing of it is left: pass a "
        "response whose body was not read yet",
    ) -> None:
        self._message = message

    def __next__(self) -> bytes:
        raise TransportError(self._message)


class AsyncFailingChunks(AsyncIterator[bytes]):
    """`FailingChunks` for async iteration."""

    def __init__(self, *message: str) -> None:
        self._chunks = FailingChunks(*message)

    async def __anext__(self) -> bytes:
        return next(self._chunks)


def qualified_type_name(value: object) -> str:
    """Return the qualified name of a value's type, for messages."""
    cls = type(value)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
