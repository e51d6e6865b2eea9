"""A response of HTTP/1.1 from the bytes of its connection, without input and output.

The framing of the response is httptools' (llhttp's, in C); what is here turns its callbacks into a
head, the body as it arrives, and errors that say what was wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from sse_fast._errors import TransportError
from sse_fast._source import READ_SIZE, Headers, redact_url

if TYPE_CHECKING:
    from sse_fast._http1.message import Message

__all__ = ["MAX_HEAD", "Exchange", "load_httptools"]

MAX_HEAD = 64 * 1024
"""The largest head of a response that is taken, in bytes."""

_PLAIN = {"", "identity"}


def load_httptools() -> Any:
    try:
        import httptools
    except ImportError:
        raise ImportError(
            "Expected httptools for HTTP over raw sockets, got none: pip install 'sse-fast[client]'"
        ) from None
    return httptools


class _Stop(Exception):
    """Raised from a callback: the parser is to stop, as all is there or something is wrong."""


class Exchange:
    """A response from the bytes of its connection: they go in, the head and the body come out.

    Attributes:
        status: the status code; 0 until the head is complete.
        headers: the header fields.
        complete: whether the body has come to its end.
    """

    def __init__(self, request: Message, *, multi_member: bool = True) -> None:
        """`multi_member`: whether a gzip goes on behind its first member (RFC 1952, 2.2), which
        browsers do not look for.
        """
        httptools = load_httptools()
        self.status = 0
        self.headers = Headers()
        self.complete = False
        self._where = redact_url(request.url)
        self._bodiless = request.method == "HEAD"
        self._fields: list[tuple[str, str]] = []
        self._fields_size = 0
        self._head_size = 0
        self._error: TransportError | None = None
        self._inflate: Any = None
        self._within_member = False
        self._all_members = multi_member
        self._is_inflated = False
        self._body: list[bytes] = []
        # httptools looks for its callbacks by name, once: this one and the four below.
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser_error = httptools.HttpParserError

    def on_status(self, reason: bytes) -> None:
        self._fields_size += len(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind the head, these are trailers.
        self._fields_size += len(name) + len(value)
        if self._fields_size > MAX_HEAD:
            self._fail(self._head_too_large())
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        fields, self._fields, self._fields_size = self._fields, [], 0
        if status == 101:
            self._fail(
                TransportError(
                    f"Expected a response of HTTP/1.1 from {self._where}, got 101: not HTTP",
                    phase="head",
                )
            )
        # Others are interim (RFC 9110, 15.2): the response is still to come.
        if status >= 200:
            # The parser leaves white space behind a value where it is (RFC 9110, 5.5).
            self.status = status
            self.headers = Headers((name, value.strip(" \t")) for name, value in fields)
            self._look_at_codings(Headers(fields).get("transfer-encoding", "chunked"))

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            # Else the parser would take what follows for another response.
            raise _Stop

    def receive(self, data: memoryview) -> Iterator[bytes]:
        """What of the body is in `data`, the next bytes of the connection, in pieces to be fed.

        A mistake in the framing is for `check` to raise, behind what came before it.
        """
        if self.complete:
            return iter(())
        try:
            self._parser.feed_data(data)
        except self._parser_error as error:
            # What follows the end of the body is of no interest.
            if not self.complete and self._error is None:
                self._error = self._explain(error)
        if not self.status:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD and self._error is None:
                self._error = self._head_too_large()
        elif self._bodiless:
            self.complete = True
            self._body.clear()
        body = b"".join(self._body)
        self._body.clear()
        return iter((body,)) if self._inflate is None else self._inflated(body)

    def check(self) -> None:
        """Raise the `TransportError` that stands behind what was received."""
        if self._error is not None:
            raise self._error
        if self.complete and self._within_member:
            raise TransportError("Expected the rest of a gzip, got the end of the body before it")

    def ended(self) -> None:
        """The connection has come to its end.

        Raises:
            TransportError: the response had not.
        """
        if self.status and not {"content-length", "transfer-encoding"} & set(self.headers):
            self.complete = True
        self.check()
        if self.complete:
            return
        if not self.status:
            raise TransportError(
                f"Expected a response of {self._where}, got the end of the connection",
                phase="head",
            )
        raise TransportError(
            "Expected the rest of the body, got the end of the connection before it"
        )

    def _look_at_codings(self, transfer: str) -> None:
        coding = self.headers.get("content-encoding", "").lower()
        codings = [each for each in map(str.strip, coding.split(",")) if each not in _PLAIN]
        if codings in (["gzip"], ["x-gzip"]):
            self._inflate = zlib.decompressobj(31)
        elif codings:
            self._fail(
                TransportError(
                    "Expected the body without content coding, as it was asked for, got "
                    f"{coding!r}: use an HTTP library that decodes it"
                )
            )
        # As it stands there: behind white space, the parser does not know it.
        if transfer.lower() != "chunked":
            self._fail(TransportError(f"Expected a chunked body, got one that is {transfer!r}"))

    def _inflated(self, body: bytes) -> Iterator[bytes]:
        """Slice by slice, as a small body may hold a large one."""
        while not self._is_inflated:
            if not self._within_member:
                # Padding between members, or behind the last, is passed over as gzip does.
                body = body.lstrip(b"\0")
                if not body:
                    return
                self._inflate = zlib.decompressobj(31)
                self._within_member = True
            before = self._inflate.copy()
            try:
                piece = self._inflate.decompress(body, READ_SIZE)
            except zlib.error:
                # What stands before the mistake is lost with it: once more, byte by byte.
                for byte in body:
                    yield before.decompress(bytes([byte]))
                raise
            yield piece
            body = self._inflate.unconsumed_tail
            if self._inflate.eof:
                # The next member may follow.
                body = self._inflate.unused_data
                self._within_member = False
                self._is_inflated = not self._all_members
            elif not body and len(piece) < READ_SIZE:
                return

    def _fail(self, error: TransportError) -> NoReturn:
        self._error = error
        raise _Stop

    def _head_too_large(self) -> TransportError:
        return TransportError(
            f"Expected {'trailers' if self.status else 'a response head'} of at most {MAX_HEAD} "
            f"bytes from {self._where}, got more",
            phase="body" if self.status else "head",
        )

    def _explain(self, error: Exception) -> TransportError:
        what = "a body in valid framing" if self.status else "a response of HTTP/1.1"
        explained = TransportError(
            f"Expected {what} from {self._where}, got: {error or type(error).__name__}",
            phase="body" if self.status else "head",
        )
        explained.__cause__ = error
        return explained
