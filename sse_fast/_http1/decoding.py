"""Decoding of content codings, slice by slice: of a body that is compressed although nobody asked.

`make_decoder` returns a decoder for the value of a Content-Encoding field. It decodes gzip and
deflate, and br and zstd if a library for them is installed. Any other coding counts as no coding,
as in browsers: servers send "none" or "utf-8" to keep a proxy from compressing.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

from sse_fast._errors import TransportError
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Decoder", "make_decoder", "permanent_error"]

_MAX_CODINGS = 5
"""Each coding takes memory, and no server has a reason to apply more than two."""

_ZSTD_WINDOW_LOG = 23
"""The largest window of zstd is 8 MiB, as for browsers (RFC 9659)."""


class Decoder(Protocol):
    """A decoder of one body."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body, in slices because they may expand a thousandfold.

        Args:
            data: encoded bytes, possibly none.

        Yields:
            Decoded bytes, at most `READ_SIZE` of them at a time. Everything that `data` completes
            is yielded before the next bytes are needed.

        Raises:
            TransportError: the data do not have this coding. Everything before the first wrong
                byte was yielded.
        """
        ...

    def check_end(self) -> None:
        """Check that the body may end here.

        Raises:
            TransportError: the body is truncated.
        """
        ...


def make_decoder(content_encoding: str, *, one_member: bool = False) -> Decoder | None:
    """Make the decoder for a Content-Encoding field.

    Args:
        content_encoding: the value of the field: codings in the order in which they were applied.
        one_member: whether to ignore all members of gzip but the first.

    Returns:
        A decoder for one body, or None if the body is to be taken as it is.

    Raises:
        TransportError: no library for the coding is installed, or there are too many codings.
    """
    codings = [coding.strip(" \t").lower() for coding in content_encoding.split(",")]
    known = [coding for coding in codings if coding in _DECODERS]
    if len(known) > _MAX_CODINGS:
        raise permanent_error(f"The body has {len(known)} content codings, which is too many")
    decoders = [_DECODERS[coding](one_member) for coding in reversed(known)]
    if len(decoders) > 1:
        return _Chain(decoders)
    return decoders[0] if decoders else None


def permanent_error(
    message: str, phase: str = "body", cause: BaseException | None = None
) -> TransportError:
    """Make the error for bytes that are no framing or coding, which would come again.

    Args:
        message: what is wrong.
        phase: "head" or "body".
        cause: the exception that told it.
    """
    error = TransportError(message, phase=phase)
    error.permanent = True
    error.__cause__ = cause
    return error


class _Chain:
    """Several codings, the one that was applied last first."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def decode(self, data: bytes) -> Iterator[bytes]:
        return self._decode(data, self._decoders)

    def _decode(self, data: bytes, decoders: list[Decoder]) -> Iterator[bytes]:
        for piece in decoders[0].decode(data):
            if len(decoders) > 1:
                yield from self._decode(piece, decoders[1:])
            else:
                yield piece

    def check_end(self) -> None:
        for decoder in self._decoders:
            decoder.check_end()


def _invalid(coding: str, cause: Exception) -> TransportError:
    return permanent_error(
        f"The body is not valid {coding}, although Content-Encoding names it", cause=cause
    )


def _truncated(coding: str) -> TransportError:
    return TransportError(f"The {coding} body is truncated: it ended before its last byte")


_GZIP_MAGIC = b"\x1f\x8b\x08"
"""The beginning of a member of gzip, with the only method there is (RFC 1952, 2.3)."""


class _Inflater:
    """gzip and deflate.

    A gzip body may have several members (RFC 1952, 2.2), as from servers that compress each piece
    on its own; browsers only decode the first. Other bytes after the end are ignored, as by most
    clients. Deflate has a header of zlib (RFC 9110, 8.4.1.2), which some servers leave out.
    """

    def __init__(self, coding: str, one_member: bool = True) -> None:
        self._coding = coding
        self._one_member = one_member
        # `wbits` of zlib for a gzip header and trailer with the largest window.
        self._inflate: Any = zlib.decompressobj(31) if coding == "gzip" else None
        self._start = b""
        # The bytes after a member that may begin another one.
        self._after = b""
        self._ignores_rest = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if not data or self._ignores_rest:
            return
        if self._inflate is None:
            self._start += data
            if len(self._start) < 2:
                return
            data = self._start
            # RFC 1950, 2.2: the method is 8, and the first two bytes are a multiple of 31.
            has_header = data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        self._start = b"begun"
        while True:
            if self._inflate.eof:
                data = self._begin_member(data)
                if not data:
                    return
            before = self._inflate.copy()
            try:
                piece = self._inflate.decompress(data, READ_SIZE)
            except zlib.error as error:
                # zlib drops the output before the mistake: decode it again, byte by byte.
                yield from self._decode_bytes(before, data)
                raise _invalid(self._coding, error) from error
            yield piece
            if self._inflate.eof:
                data = self._inflate.unused_data
                continue
            data = self._inflate.unconsumed_tail
            # A full slice may leave output in zlib although all input was consumed.
            if not data and len(piece) < READ_SIZE:
                return

    def _begin_member(self, data: bytes) -> bytes:
        """Prepare for the next member if one begins; return its bytes, or b""."""
        self._after += data
        beginning = self._after[: len(_GZIP_MAGIC)]
        self._ignores_rest = self._one_member or not _GZIP_MAGIC.startswith(beginning)
        if self._ignores_rest or len(beginning) < len(_GZIP_MAGIC):
            return b""
        data, self._after = self._after, b""
        self._inflate = zlib.decompressobj(31)
        return data

    @staticmethod
    def _decode_bytes(inflate: Any, data: bytes) -> Iterator[bytes]:
        for byte in data:
            try:
                yield inflate.decompress(bytes([byte]))
            except zlib.error:
                return

    def check_end(self) -> None:
        if self._start and (self._inflate is None or not self._inflate.eof):
            raise _truncated(self._coding)


class _Library(Protocol):
    """A library that decodes a byte at a time."""

    coding: str
    errors: type[Exception]

    def decode_byte(self, byte: bytes) -> Iterator[bytes]:
        """Yield what one more byte completes, in pieces of bounded size."""

    def ignores_rest(self) -> bool:
        """Return whether the coding has ended for good."""

    def may_end(self) -> bool:
        """Return whether the body may end after these bytes."""


class _Brotli:
    """br, by the library brotli or brotlicffi."""

    coding = "br"

    def __init__(self) -> None:
        module: Any = _load_brotli()
        self.errors = module.error
        self._decompressor = module.Decompressor()
        try:
            self._decompressor.process(b"", output_buffer_limit=READ_SIZE)
        except TypeError:
            raise _unsupported("br", "brotli 1.2 or later", "brotli>=1.2") from None

    def decode_byte(self, byte: bytes) -> Iterator[bytes]:
        piece = self._decompressor.process(byte, output_buffer_limit=READ_SIZE)
        # A piece may have been limited; an empty one was not.
        while piece:
            yield piece
            if self._decompressor.is_finished():
                return
            piece = self._decompressor.process(b"", output_buffer_limit=READ_SIZE)

    def ignores_rest(self) -> bool:
        return bool(self._decompressor.is_finished())

    may_end = ignores_rest


class _Zstd:
    """zstd, by the standard library or its backport; each frame has a decompressor of its own."""

    coding = "zstd"

    def __init__(self, module: Any) -> None:
        options = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._make: Callable[[], Any] = lambda: module.ZstdDecompressor(options=options)
        self.errors = module.ZstdError
        self._decompressor = self._make()

    def decode_byte(self, byte: bytes) -> Iterator[bytes]:
        if self._decompressor.eof:
            self._decompressor = self._make()
        yield self._decompressor.decompress(byte, max_length=READ_SIZE)
        while not (self._decompressor.needs_input or self._decompressor.eof):
            yield self._decompressor.decompress(b"", max_length=READ_SIZE)

    def ignores_rest(self) -> bool:
        return False

    def may_end(self) -> bool:
        return bool(self._decompressor.eof)


class _Zstandard(_Zstd):
    """zstd, by the library zstandard. A byte completes at most a block, which has 128 KiB."""

    def __init__(self, module: Any) -> None:
        self._make = module.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_LOG).decompressobj
        self.errors = module.ZstdError
        self._decompressor = self._make()

    def decode_byte(self, byte: bytes) -> Iterator[bytes]:
        if self._decompressor.eof:
            self._decompressor = self._make()
        yield self._decompressor.decompress(byte)


class _ByteDecoder:
    """A decoder by a library that loses the output of a call that fails, so it gets single bytes.

    That is slower, but only bodies that nobody asked to be compressed are decoded here.
    """

    def __init__(self, library: _Library) -> None:
        self._library = library
        self._started = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        library = self._library
        ready: list[bytes] = []
        size = 0
        failure: Exception | None = None
        for byte in data:
            if library.ignores_rest():
                break
            self._started = True
            try:
                for piece in library.decode_byte(bytes((byte,))):
                    ready.append(piece)
                    size += len(piece)
                    if size >= READ_SIZE:
                        yield from _slices(ready)
                        ready.clear()
                        size = 0
            except library.errors as error:
                failure = error
                break
        yield from _slices(ready)
        if failure is not None:
            raise _invalid(library.coding, failure) from failure

    def check_end(self) -> None:
        if self._started and not self._library.may_end():
            raise _truncated(self._library.coding)


def _slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join pieces, and cut them into slices of at most `READ_SIZE`."""
    whole = b"".join(pieces)
    for at in range(0, len(whole), READ_SIZE):
        yield whole[at : at + READ_SIZE]


# The imports are written out for freezing tools.


def _load_brotli() -> Any:
    try:
        import brotli  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        try:
            import brotlicffi as brotli  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise _unsupported("br", "brotli", "brotli") from None
    return brotli


def _load_zstd() -> _Library:
    module: Any
    try:
        import compression.zstd as module  # type: ignore[import-not-found,no-redef,unused-ignore]
    except ImportError:
        try:
            import backports.zstd as module
        except ImportError:
            module = None
    if module is not None:
        return _Zstd(module)
    try:
        import zstandard
    except ImportError:
        raise _unsupported("zstd", "backports.zstd or zstandard", "sse-fast[zstd]") from None
    return _Zstandard(zstandard)


def _unsupported(coding: str, library: str, requirement: str) -> TransportError:
    return permanent_error(
        f"The body has content coding {coding!r}, which was not requested and needs {library}, "
        f"which is not installed: pip install '{requirement}'"
    )


_DECODERS: dict[str, Callable[[bool], Decoder]] = {
    "gzip": lambda one_member: _Inflater("gzip", one_member),
    "x-gzip": lambda one_member: _Inflater("gzip", one_member),
    "deflate": lambda _: _Inflater("deflate"),
    "br": lambda _: _ByteDecoder(_Brotli()),
    "zstd": lambda _: _ByteDecoder(_load_zstd()),
}
