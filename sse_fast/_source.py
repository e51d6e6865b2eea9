"""What an adapter makes of the object that the user holds: a source of chunks, and its response."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from sse_fast._errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE = 64 * 1024
"""The most bytes to ask a source for, and to give to one `feed`, in bytes: no larger batch of
events is ever held."""

REDIRECTS = {301, 302, 303, 307, 308}
"""The statuses that lead elsewhere, where there is a Location."""


class Headers(Mapping[str, str]):
    """The fields of a response head: names in any case; fields of one name joined by ", "."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in fields:
            name = name.lower()
            self._fields[name] = f"{self._fields[name]}, {value}" if name in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        # Names only: values may be secret.
        return f"<Headers {', '.join(self._fields)}>"


class Response:
    """The response that carries a stream: the same face whichever library made it.

    Attributes:
        status: the status code.
        headers: the header fields; their names compare without regard to case.
        url: the URL as the library knows it; "" if it does not.
        raw: the library's own response.
        body: at most the first 64 KiB of the body, if the response was refused; else b"".
    """

    __slots__ = ("body", "headers", "raw", "status", "url")

    def __init__(self, status: int, headers: Mapping[str, str], url: str, raw: Any) -> None:
        self.status = status
        self.headers = headers
        self.url = url
        self.raw = raw
        self.body = b""

    def __repr__(self) -> str:
        return f"<Response {self.status} {redact_url(self.url)}>"


def redact_url(url: str) -> str:
    """Scheme, host and path of a URL: what may be shown in logs and messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Source(NamedTuple):
    """What an adapter makes of the object that the user holds."""

    chunks: Iterable[bytes] | AsyncIterable[bytes]
    """Bytes as they arrive. An async client's are async."""
    close: Callable[[], Any] | None = None
    """Gives the connection free; awaited if the chunks are async. None: the source is borrowed.
    That of http.client tells whether the connection can be used again."""
    response: Response | None = None
    """None: a file, a socket, an iterable."""
    wake: Callable[[], object] | None = None
    """Makes a read that is under way come to an end, at the price of the connection: from any
    thread, or, if the chunks are async, from their event loop. None: nothing can, or not without
    harm to others."""


def as_async(opened: Source) -> Source:
    """The same, with chunks that are awaited."""
    chunks = iter(cast("Iterable[bytes]", opened.chunks))
    close = opened.close or getattr(chunks, "close", None)

    async def each() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def aclose() -> None:
        if close is not None:
            close()

    return opened._replace(chunks=each(), close=aclose)


class FailingChunks(Iterator[bytes]):
    """The chunks of a body that cannot be had: an error, where libraries would show another body.

    By default one that is gone, which looks like an empty one.
    """

    def __init__(
        self,
        message: str = "Expected a body that was not read yet, got one that was read or closed "
        "before: nothing of it is left",
    ) -> None:
        self._message = message

    def __next__(self) -> bytes:
        raise TransportError(self._message)


class AsyncFailingChunks(AsyncIterator[bytes]):
    """The async twin of `FailingChunks`."""

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
