"""Decoding of gzip, slice by slice: a body that nobody asked to be compressed."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from sse_fast._errors import TransportError
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GzipDecoder"]

_GZIP = 31
"""`wbits` of zlib for a gzip header and trailer with the largest window."""


class GzipDecoder:
    """The first member of a gzip body; everything after it is ignored, as in browsers."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP)
        self._started = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body, in slices because they may expand a thousandfold.

        Args:
            data: encoded bytes, possibly none.

        Yields:
            Decoded bytes, at most `READ_SIZE` of them at a time.

        Raises:
            zlib.error: the data are not gzip. Everything before the mistake was yielded.
        """
        if not data:
            return
        self._started = True
        while not self._inflate.eof:
            before = self._inflate.copy()
            try:
                piece = self._inflate.decompress(data, READ_SIZE)
            except zlib.error:
                # zlib drops the output before the mistake: decode it again, byte by byte.
                for byte in data:
                    yield before.decompress(bytes([byte]))
                raise
            yield piece
            data = self._inflate.unconsumed_tail
            # A full slice may leave output in zlib although all input was consumed.
            if not data and len(piece) < READ_SIZE:
                return

    def check_end(self) -> None:
        """Check that the body may end here: before the member or after it.

        Raises:
            TransportError: the body ended within the member.
        """
        if self._started and not self._inflate.eof:
            raise TransportError("The gzip body is truncated: it ended before its last byte")
