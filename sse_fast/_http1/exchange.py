"""A response of HTTP/1.1 from the bytes of its connection, without input and output (RFC 9112).

httptools (llhttp, in C) parses the head and the framing. `Exchange` turns its callbacks into a
head, the body as it arrives, and errors that say what was wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sse_fast._errors import TransportError
from sse_fast._http1.decoding import GzipDecoder
from sse_fast._source import Headers, redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sse_fast._http1.message import Message

__all__ = ["MAX_HEAD", "Exchange", "load_httptools"]

MAX_HEAD = 64 * 1024
"""The largest response head that is accepted, in bytes; trailers have the same limit."""

_PLAIN = {"", "identity"}


def load_httptools() -> Any:
    """Import httptools.

    Raises:
        ImportError: httptools is not installed; it comes with the extra `client`.
    """
    try:
        import httptools
    except ImportError:
        raise ImportError(
            "HTTP over raw sockets needs httptools, which is not installed: pip install "
            "'sse-fast[client]'"
        ) from None
    return httptools


class _Stop(Exception):
    """Raised by a callback to stop the parser, at the end of the response or on an error."""


class Exchange:
    """The response to one request: `receive` takes the bytes and returns the body.

    Attributes:
        status: the status code; 0 until the head is complete.
        headers: the header fields.
        complete: whether the body has ended.
    """

    def __init__(self, request: Message) -> None:
        """Prepare for the response.

        Args:
            request: its method decides whether there is a body, its URL is named in errors.

        Raises:
            ImportError: httptools is not installed.
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
        self._decoder: GzipDecoder | None = None
        self._body: list[bytes] = []
        # httptools finds its callbacks by name, once: this attribute and the four methods on_*.
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser_error = httptools.HttpParserError

    def on_status(self, reason: bytes) -> None:
        """Count the reason phrase (httptools callback)."""
        self._fields_size += len(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field or, after the head, count a trailer (httptools callback)."""
        self._fields_size += len(name) + len(value)
        if self._fields_size > MAX_HEAD:
            self._fail(self._head_too_large())
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Accept a final head, or drop an interim one (httptools callback)."""
        status = self._parser.get_status_code()
        fields, self._fields, self._fields_size = self._fields, [], 0
        if status == 101:
            self._fail(
                TransportError(
                    f"{self._where} switched to another protocol (status 101), which was not "
                    "requested",
                    phase="head",
                )
            )
        # A lower status is an interim response (RFC 9110, 15.2): the final one follows.
        if status >= 200:
            # The parser keeps white space after a value, which is not part of it (RFC 9110, 5.5).
            self.status = status
            self.headers = Headers((name, value.strip(" \t")) for name, value in fields)
            self._check_codings(Headers(fields).get("transfer-encoding", "chunked"))

    def on_message_complete(self) -> None:
        """Stop at the end of the final response (httptools callback)."""
        if self.status:
            self.complete = True
            # Otherwise the parser would read the bytes after it as another response.
            raise _Stop

    def receive(self, data: memoryview) -> Iterator[bytes]:
        """Parse the next bytes of the connection.

        Args:
            data: the bytes; they may be overwritten afterwards.

        Returns:
            The decoded pieces of the body in `data`. An error of the framing is not raised here but
            by `check`, after these pieces were used.
        """
        if self.complete:
            return iter(())
        try:
            self._parser.feed_data(data)
        except self._parser_error as error:
            # Bytes after the end of the body are ignored.
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
        return iter((body,)) if self._decoder is None else self._decoder.decode(body)

    def check(self) -> None:
        """Raise the error that follows the received bytes, if there is one.

        Raises:
            TransportError: the head, the framing or the coding of the body is wrong.
        """
        if self._error is not None:
            raise self._error
        if self.complete and self._decoder is not None:
            self._decoder.check_end()

    def ended(self) -> None:
        """Note that the connection has ended.

        Raises:
            TransportError: the response is incomplete.
        """
        if self.status and not {"content-length", "transfer-encoding"} & set(self.headers):
            self.complete = True
        self.check()
        if self.complete:
            return
        if not self.status:
            raise TransportError(
                f"The connection ended before a complete response head from {self._where}",
                phase="head",
            )
        raise TransportError("The connection ended before the end of the body")

    def _check_codings(self, transfer: str) -> None:
        coding = self.headers.get("content-encoding", "").lower()
        codings = [each for each in map(str.strip, coding.split(",")) if each not in _PLAIN]
        if codings in (["gzip"], ["x-gzip"]):
            self._decoder = GzipDecoder()
        elif codings:
            self._fail(
                TransportError(
                    f"The body has content coding {coding!r}, which was not requested and is not "
                    "supported here: use an HTTP library that decodes it"
                )
            )
        # Compared with its white space: the parser does not recognize "chunked " either.
        if transfer.lower() != "chunked":
            self._fail(TransportError(f"Transfer coding {transfer!r} is not supported"))

    def _fail(self, error: TransportError) -> NoReturn:
        self._error = error
        raise _Stop

    def _head_too_large(self) -> TransportError:
        return TransportError(
            f"The {'trailers' if self.status else 'response head'} from {self._where} exceed"
            f"{'' if self.status else 's'} {MAX_HEAD} bytes",
            phase="body" if self.status else "head",
        )

    def _explain(self, error: Exception) -> TransportError:
        what = "body has invalid framing" if self.status else "response is not HTTP/1.1"
        explained = TransportError(
            f"The {what}, from {self._where}: {error or type(error).__name__}",
            phase="body" if self.status else "head",
        )
        explained.__cause__ = error
        return explained
