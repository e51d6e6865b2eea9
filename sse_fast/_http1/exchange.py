"""A response of HTTP/1.1 from the bytes of its connection, without input and output (RFC 9112).

`Exchange` finds the head, decodes the body as it arrives, and says what was wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sse_fast._errors import TransportError
from sse_fast._http1.chunked import (
    MAX_FRAMING,
    ChunkedBody,
    FramingTooLargeError,
    load_httptools,
)
from sse_fast._http1.decoding import Decoder, make_decoder, permanent_error
from sse_fast._http1.head import HeadError, find_end, parse_head, parse_status_line
from sse_fast._source import MAX_BODY, Headers, redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sse_fast._http1.chunked import ChunkDecoder
    from sse_fast._http1.message import Message
    from sse_fast._source import Response

__all__ = ["MAX_HEAD", "Exchange", "load_httptools"]

MAX_HEAD = 64 * 1024
"""The largest response head that is accepted, in bytes, with the interim ones before it."""

_WITHOUT_BODY = {204, 304}

_FEW = 16 * 1024
"""A slice of a memoryview costs more than a copy of fewer bytes."""


class _PlainBody:
    """The decoder of a body that is not chunked, with the methods of `ChunkDecoder`."""

    def __init__(self, length: int | None) -> None:
        """Prepare for the body.

        Args:
            length: its length; None: it ends with the connection.
        """
        self.rest = -1
        self._left = length

    def copy(self, data: bytes | memoryview, size: int) -> bytes:
        """Return the bytes of the body in the next `size` bytes of the connection."""
        return bytes(data[: self._count(size)])

    def take(self, buffer: memoryview, size: int) -> bytes | memoryview:
        """Return the bytes of the body in the first `size` bytes of a buffer, copied if few."""
        body = buffer[: self._count(size)]
        return bytes(body) if size < _FEW else body

    def _count(self, size: int) -> int:
        if self._left is None:
            return size
        if size >= self._left:
            # This is the end of the body.
            self.rest = size = self._left
        self._left -= size
        return size


class Exchange:
    """The response to one request: `receive` takes the bytes and returns the body.

    Attributes:
        status: the status code; 0 until the head is complete.
        headers: the header fields.
        complete: whether the body has ended.
        is_framed: whether the response marks the end of its body, instead of the connection.
        response: what the transport made of the head, for errors; it may be None.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_decoder",
        "_error",
        "_head",
        "_head_size",
        "_is_decoded",
        "_is_http",
        "_one_member",
        "_plain",
        "_searched",
        "_undecodable",
        "_where",
        "complete",
        "headers",
        "is_framed",
        "response",
        "status",
    )

    def __init__(self, request: Message) -> None:
        """Prepare for the response.

        Args:
            request: its method decides whether there is a body, its URL is named in errors.

        Raises:
            ImportError: httptools is not installed.
        """
        # The program learns now that it is missing, not when a body is chunked.
        load_httptools()
        self.status = 0
        self.headers = Headers()
        self.complete = False
        self.is_framed = False
        self.response: Response | None = None
        self._where = redact_url(request.url)
        self._bodiless = request.method == "HEAD"
        self._one_member = request.one_member
        # The bytes of an unfinished head, and how many of them were searched for its end.
        self._head = bytearray()
        self._head_size = 0
        self._searched = 0
        self._is_http = False
        self._error: TransportError | None = None
        self._decoder: Decoder | None = None
        self._is_decoded = False
        self._undecodable = b""
        # The body is one of these.
        self._chunked: ChunkedBody | None = None
        self._plain: _PlainBody | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the response was received."""
        return self._head_size > 0

    def receive(self, data: memoryview) -> Iterator[bytes]:
        """Parse the next bytes of the connection.

        Args:
            data: the bytes; they may be overwritten afterwards.

        Returns:
            The decoded pieces of the body in `data`. An error of the framing is not raised here but
            by `check`, after these pieces were used.
        """
        if self.complete or self._error is not None:
            return iter(())
        if self.status:
            body = self._receive_body(data)
        else:
            rest = self._receive_head(data)
            # A response without a body is complete with its head.
            if not self.status or self.complete or self._error is not None:
                return iter(())
            body = self._receive_body(rest)
        return iter((body,)) if self._decoder is None else self._decode(self._decoder, body)

    @property
    def ordinary(self) -> ChunkDecoder | _PlainBody | None:
        """A decoder of the body to use instead of `receive`, or None.

        As long as its `rest` is negative, its `take` and `copy` return what `receive` would, and
        there is nothing to `check`. Otherwise `receive_rest` has to follow.
        """
        if self._decoder is not None or self.complete or self._error is not None:
            return None
        return self._plain if self._chunked is None else self._chunked.ordinary

    def receive_rest(
        self, body: bytes | memoryview, data: bytes | memoryview
    ) -> bytes | memoryview:
        """Go on with an input with which `ordinary` has stopped.

        Args:
            body: the bytes of the body that it has returned.
            data: the whole input.

        Returns:
            All bytes of the body in the input.
        """
        if self._chunked is None:
            self.complete = True
            return body
        body = self._chunked.feed_rest(body, data)
        self._note_chunked(self._chunked)
        return body

    def check(self) -> None:
        """Raise the error that follows the received bytes, if there is one.

        Raises:
            TransportError: the head, the framing or the coding of the body is wrong.
        """
        if self._error is not None:
            self._show_undecodable(self._error)
            raise self._error
        if self.complete and self._decoder is not None:
            self._decoder.check_end()

    def ended(self) -> None:
        """Note that the connection has ended.

        Raises:
            TransportError: the response is incomplete.
        """
        if self.status and self._error is None and not self.complete:
            self.complete = not self.is_framed if self._chunked is None else self._chunked.end()
        self.check()
        if self.complete:
            return
        if not self.status:
            raise TransportError(
                f"The connection ended before a complete response head from {self._where}",
                phase="head",
            )
        raise TransportError("The connection ended before the end of the body")

    # -- The head

    def _receive_head(self, data: memoryview) -> bytes:
        """Collect the head; return the bytes after it once it is complete."""
        self._head_size += len(data)
        self._head += data
        try:
            while not self.status:
                if not self._is_http:
                    # Empty lines before the status line are skipped.
                    self._head = self._head.lstrip(b"\r\n")
                    self._is_http = self._has_status_line()
                end = find_end(self._head, max(0, self._searched - 2))
                self._searched = len(self._head)
                if end < 0:
                    if self._head_size > MAX_HEAD:
                        raise HeadError
                    return b""
                if self._head_size - len(self._head) + end > MAX_HEAD:
                    raise HeadError
                head, self._head = bytes(self._head[:end]), self._head[end:]
                self._searched, self._is_http = 0, False
                self._use_head(head)
        except HeadError as error:
            if self._error is None:
                self._error = self._explain_head(error)
            return b""
        rest, self._head = bytes(self._head), bytearray()
        return rest

    def _has_status_line(self) -> bool:
        """Return whether the status line is complete.

        Another protocol is refused by its first bytes: it may never send an empty line.
        """
        line, ends, _ = self._head.partition(b"\n")
        if ends or not b"HTTP/".startswith(line[:5]):
            parse_status_line(bytes(line.removesuffix(b"\r")))
        return bool(ends)

    def _use_head(self, data: bytes) -> None:
        """Accept a final head, or drop an interim one."""
        head = parse_head(data)
        if head.status == 101:
            self._error = permanent_error(
                f"{self._where} switched to another protocol (status 101), which was not requested",
                "head",
            )
            raise HeadError
        # A lower status is an interim response (RFC 9110, 15.2): the final one follows.
        if head.status < 200:
            return
        self.status = head.status
        self.headers = Headers(head.fields)
        if self._bodiless or head.status in _WITHOUT_BODY or head.length == 0:
            self.complete = self.is_framed = True
            return
        if head.is_chunked:
            self._chunked = ChunkedBody()
        else:
            self._plain = _PlainBody(head.length)
        self.is_framed = head.is_chunked or head.length is not None
        try:
            if head.unsupported:
                raise permanent_error(f"Transfer coding {head.unsupported!r} is not supported")
            self._decoder = make_decoder(
                self.headers.get("content-encoding", ""), one_member=self._one_member
            )
        except TransportError as error:
            self._error = error

    def _explain_head(self, error: HeadError) -> TransportError:
        if error.args:
            return permanent_error(
                f"The response is not HTTP/1.1, from {self._where}: {error}", "head", error
            )
        return permanent_error(
            f"The response head from {self._where} exceeds {MAX_HEAD} bytes", "head"
        )

    # -- The body

    def _receive_body(self, data: bytes | memoryview) -> bytes:
        """Return the bytes of the body in the next bytes of the connection."""
        if self._chunked is not None:
            body = self._chunked.feed(data)
            self._note_chunked(self._chunked)
            return body
        assert self._plain is not None
        body = self._plain.copy(data, len(data))
        self.complete = self._plain.rest >= 0
        return body

    def _note_chunked(self, chunked: ChunkedBody) -> None:
        self.complete = chunked.is_complete
        if chunked.error is not None:
            self._undecodable = chunked.unframed
            self._error = self._explain_framing(chunked.error)

    def _decode(self, decoder: Decoder, body: bytes) -> Iterator[bytes]:
        try:
            for piece in decoder.decode(body):
                self._is_decoded = self._is_decoded or bool(piece)
                yield piece
        except TransportError as error:
            self._error = error
            # A body that was not encoded at all, for example a message of the server, is shown.
            if not self._is_decoded:
                self._undecodable = body
            self._show_undecodable(error)
            raise

    def _explain_framing(self, error: Exception) -> TransportError:
        if isinstance(error, FramingTooLargeError):
            return permanent_error(
                f"The {error} from {self._where} exceed {MAX_FRAMING} bytes", cause=error
            )
        return permanent_error(
            f"The body has invalid framing, from {self._where}: {error or type(error).__name__}",
            cause=error,
        )

    def _show_undecodable(self, error: TransportError) -> None:
        """Show the bytes that are no framing or coding in the response of the error."""
        if self.response is not None and self._undecodable:
            self.response.body = (self.response.body + self._undecodable)[:MAX_BODY]
            self._undecodable = b""
            error.response = self.response
