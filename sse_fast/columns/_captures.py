"""Captures: files mapped into memory, and what has to be decompressed as it is read."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._errors import TransportError
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


class Capture(NamedTuple):
    """What is to be read: all bytes of it, or chunks of them."""

    name: str | None = None
    """Its path, if it has one."""
    content: Any = None
    chunks: Iterator[bytes] | None = None
    close: Callable[[], None] | None = None
    position: Callable[[], int] | None = None
    """How many bytes of the file were read so far, of chunks."""


def open_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a file, and map it into memory if it can be parsed as it is there.

    Raises:
        OSError: it could not be opened.
        ImportError: it is zstd, and nothing is there to decompress it.
    """
    name = os.fsdecode(path)
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb", buffering=0))
        content = None
        # A pipe, a device, a system without: they have to be read.
        with suppress(OSError, ValueError):
            if os.fstat(file.fileno()).st_size:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if content is not None:
            coding = _coding_of(content)
            if not coding:
                return Capture(name, content)
            content.close()
            if coding == "zstd":
                # What is missing is missed here, before anything is read.
                _import_zstd()
        stack.pop_all()
    position = file.tell if file.seekable() else None
    chunks = Unpacked(iter(lambda: file.read(READ_SIZE), b""), name)
    return Capture(name, chunks=chunks, close=file.close, position=position)


def capture_of(buffer: Any) -> Capture:
    """The same of bytes at hand."""
    if _coding_of(buffer):
        return Capture(chunks=Unpacked(iter([bytes(buffer)])))
    return Capture(content=buffer)


def _coding_of(buffer: Any) -> str:
    """By the first bytes, which are none of UTF-8 then; "" if it is not compressed."""
    with memoryview(buffer) as whole:
        # With gaps, it is for others to refuse.
        head = whole.cast("B")[:4].tobytes() if whole.c_contiguous and whole.nbytes else b""
    return next((coding for coding, magic in _MAGIC.items() if head.startswith(magic)), "")


class Unpacked(Iterator[bytes]):
    """Chunks as they are, or, if the first begin as gzip or zstd does, what they contain.

    Whatever is wrong with it comes as a `TransportError`, behind what was right.
    """

    def __init__(self, chunks: Iterable[bytes], name: str | None = None) -> None:
        self._packed = iter(chunks)
        self._name = name
        self._start = b""
        self._chunks: Iterator[bytes] | None = None

    def __next__(self) -> bytes:
        while self._chunks is None:
            chunk = next(self._packed, None)
            if isinstance(chunk, (bytes, bytearray, memoryview)):
                self._start += bytes(chunk)
                if any(magic.startswith(self._start) for magic in _MAGIC.values()):
                    # As long as all of it may be the beginning of one.
                    continue
            elif chunk is not None:
                # For others to judge.
                self._packed = chain([chunk], self._packed)
            self._chunks = self._begin()
            if self._start and self._chunks is self._packed:
                start, self._start = self._start, b""
                return start
        return next(self._chunks)

    def _begin(self) -> Iterator[bytes]:
        coding = _coding_of(self._start)
        if coding == "gzip":
            file: Any = gzip.GzipFile(fileobj=self._as_file())
            return self._unpack(file, coding, (gzip.BadGzipFile, zlib.error))
        if coding == "zstd":
            try:
                zstd = _import_zstd()
            except ImportError as error:
                raise TransportError(str(error)) from error
            return self._unpack(zstd.ZstdFile(self._as_file()), coding, (zstd.ZstdError,))
        return self._packed

    def _as_file(self) -> io.BufferedReader:
        return io.BufferedReader(_ChunkFile(self._start, self._packed), READ_SIZE)

    def _unpack(
        self, file: Any, coding: str, damages: tuple[type[Exception], ...]
    ) -> Iterator[bytes]:
        size = 0
        what = (
            f"a source in {coding}" if self._name is None else f"the {coding} file {self._name!r}"
        )
        while True:
            try:
                chunk = file.read1(READ_SIZE)
            except EOFError as error:
                raise TransportError(
                    f"Expected the rest of {what}, got its end behind {size} bytes of its content: "
                    "it was cut off"
                ) from error
            except damages as error:
                raise TransportError(
                    f"Expected {what} to go on behind {size} bytes of its content, got damaged "
                    f"data ({error})"
                ) from error
            if not chunk:
                return
            size += len(chunk)
            yield chunk


class _ChunkFile(io.RawIOBase):
    """Chunks in the form of a file, for those who read files."""

    def __init__(self, start: bytes, chunks: Iterator[bytes]) -> None:
        self._rest = memoryview(start)
        self._chunks = chunks

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk).cast("B")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _import_zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(name)
    raise ImportError(
        "Expected backports.zstd to decompress zstd, got none: pip install 'sse-fast[zstd]'"
    )
