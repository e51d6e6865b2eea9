"""Files of captures: mapped into memory, or read in chunks where they have to be decompressed."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._errors import TransportError
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class Capture(NamedTuple):
    """What a path leads to: either all bytes of it, or chunks of them; or a buffer without one."""

    name: str | None = None
    content: Any = None
    chunks: Iterator[bytes] | None = None
    close: Callable[[], None] | None = None
    position: Callable[[], int] | None = None
    """How many bytes of the file were read so far; of chunks."""


def open_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a file; what it is, its first bytes tell, which are none of UTF-8 if it is compressed.

    Raises:
        OSError: it could not be opened.
        ImportError: it is one of zstd, and nothing is there to decompress it.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        name = os.fsdecode(path)
        start = file.peek(4)[:4] if file.seekable() else b""
        if start.startswith(_GZIP):
            unpacked: Any = gzip.GzipFile(fileobj=file)
            chunks = _unpack(unpacked, f"the gzip file {name!r}", (OSError, zlib.error))
        elif start == _ZSTD:
            zstd = _import_zstd()
            unpacked = zstd.ZstdFile(file)
            chunks = _unpack(unpacked, f"the zstd file {name!r}", (OSError, zstd.ZstdError))
        else:
            content = _map(file, start)
            if content is not None:
                return Capture(name, content)
            chunks = iter(lambda: file.read1(READ_SIZE), b"")
        stack.pop_all()
        return Capture(name, chunks=chunks, close=file.close, position=_position_of(file))


def _map(file: io.BufferedReader, start: bytes) -> bytes | mmap.mmap | None:
    """All of a file that `start` stands at the beginning of; None: it has to be read."""
    try:
        size = os.fstat(file.fileno()).st_size
        if size:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    # Nothing cannot be mapped; and there are files of the kernel's that only seem to be empty.
    return b"" if file.seekable() and not start else None


def _position_of(file: io.BufferedReader) -> Callable[[], int] | None:
    # Of the file itself, not of what was taken out of its buffer.
    return file.raw.tell if file.seekable() else None


def _unpack(packed: Any, what: str, damages: tuple[type[Exception], ...]) -> Iterator[bytes]:
    """The chunks of a compressed file; whatever is wrong with it comes behind what was right."""
    size = 0
    while True:
        try:
            chunk = packed.read1(READ_SIZE)
        except EOFError as error:
            raise TransportError(
                f"Expected the rest of {what}, got its end behind {size} bytes of its content: "
                "it was cut off"
            ) from error
        except damages as error:
            raise TransportError(
                f"Expected {what} to go on behind {size} bytes of its content, got damaged data "
                f"({error})"
            ) from error
        if not chunk:
            return
        size += len(chunk)
        yield chunk


def _import_zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    raise ImportError(
        "Expected backports.zstd to decompress a file of zstd, got none: "
        "pip install 'sse-fast[zstd]'"
    )
