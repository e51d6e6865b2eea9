"""Captures: files mapped into memory, and sources that are decompressed while they are read."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._errors import TransportError
from sse_fast._interrupts import make_marks, read_chunk, was_cut_short
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
"""Coding -> its first bytes, which cannot begin valid UTF-8."""


class Capture(NamedTuple):
    """A stream to be read: either all of its bytes, or chunks of them."""

    name: str | None = None
    """Its path, if it is a file."""
    content: Any = None
    chunks: Iterator[bytes] | None = None
    close: Callable[[], None] | None = None
    position: Callable[[], int] | None = None
    """With chunks of a file: returns the number of bytes of the file read so far."""


def open_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a file; map it into memory, or read and decompress it if it is compressed.

    Raises:
        OSError: the file could not be opened.
        ImportError: the file is compressed by zstd, and no library can decompress it.
    """
    name = os.fsdecode(path)
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb", buffering=0))
        content = None
        # Pipes, devices and some file systems cannot be mapped. They are read instead.
        with suppress(OSError, ValueError):
            if os.fstat(file.fileno()).st_size:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if content is not None:
            coding = _detect_coding(content)
            if not coding:
                return Capture(name, content)
            content.close()
            if coding == "zstd":
                # Fail early, before reading anything.
                _import_zstd()
        stack.pop_all()
    position = file.tell if file.seekable() else None
    # A partial, because a signal handler may raise in a Python function, after it has read.
    chunks = Decompressed(iter(partial(file.read, READ_SIZE), b""), name)
    return Capture(name, chunks=chunks, close=file.close, position=position)


def capture_of(buffer: Any) -> Capture:
    """Return a capture of bytes in memory, which are decompressed while they are read."""
    if _detect_coding(buffer):
        return Capture(chunks=Decompressed(iter([bytes(buffer)])))
    return Capture(content=buffer)


def _detect_coding(buffer: Any) -> str:
    """Return "gzip" or "zstd" by the first bytes, or "" if they are neither."""
    with memoryview(buffer) as whole:
        # A buffer with gaps is refused by its reader.
        head = whole.cast("B")[:4].tobytes() if whole.c_contiguous and whole.nbytes else b""
    for coding, magic in _MAGIC.items():
        if head.startswith(magic):
            return coding
    return ""


class Decompressed(Iterator[bytes]):
    """Chunks, decompressed if the first ones begin as gzip or zstd does.

    Raises `TransportError` for damaged or truncated data, after the chunks before it.
    """

    def __init__(self, chunks: Iterable[bytes], name: str | None = None) -> None:
        self._source = iter(chunks)
        self._name = name
        self._chunks: Iterator[bytes] | None = None
        # At most one chunk that was read. It leaves in a step without a call, so that a signal
        # handler that raises loses none.
        self._held: list[Any] = []
        self._marks = make_marks()
        self._start = b""

    def __next__(self) -> bytes:
        held = self._held
        while self._chunks is None:
            self._begin(held)
        if not held:
            self._read(self._chunks)
        if not held:
            raise StopIteration
        chunk: bytes = held[0]
        del held[0]
        return chunk

    @property
    def is_intact(self) -> bool:
        """Whether the latest exception out of `__next__` did not come from the source."""
        return not was_cut_short(self._held, self._marks)

    def _read(self, chunks: Iterator[bytes]) -> None:
        self._marks = make_marks()
        read_chunk(chunks, self._held, self._marks)

    def _begin(self, held: list[Any]) -> None:
        """Read a chunk, and detect the coding if the bytes so far are enough."""
        if not held:
            self._read(self._source)
        if held and isinstance(held[0], (bytes, bytearray, memoryview)):
            start = self._start + bytes(held[0])
            self._start = start
            del held[0]
            for magic in _MAGIC.values():
                if magic.startswith(start):
                    # The bytes so far may be the beginning of a magic number.
                    return
        chunks = self._detect()
        # A chunk that is not bytes may follow: the stream raises the error for it.
        first = [self._start, *held] if self._start and chunks is self._source else held[:]
        self._chunks = chunks
        held[:] = first

    def _detect(self) -> Iterator[bytes]:
        coding = _detect_coding(self._start)
        if coding == "gzip":
            file: Any = gzip.GzipFile(fileobj=self._as_file())
            return self._decompress(file, coding, (gzip.BadGzipFile, zlib.error))
        if coding == "zstd":
            try:
                zstd = _import_zstd()
            except ImportError as error:
                raise TransportError(str(error)) from error
            return self._decompress(zstd.ZstdFile(self._as_file()), coding, (zstd.ZstdError,))
        return self._source

    def _as_file(self) -> io.BufferedReader:
        return io.BufferedReader(_ChunkFile(self._start, self._source), READ_SIZE)

    def _decompress(
        self, file: Any, coding: str, damages: tuple[type[Exception], ...]
    ) -> Iterator[bytes]:
        size = 0
        source = f"The {coding} source" if self._name is None else f"{self._name!r} ({coding})"
        while True:
            try:
                chunk = file.read1(READ_SIZE)
            except EOFError as error:
                raise TransportError(
                    f"{source} is truncated after {size} decompressed bytes: get the whole file"
                ) from error
            except damages as error:
                raise TransportError(
                    f"{source} is damaged after {size} decompressed bytes ({error}): get it again"
                ) from error
            if not chunk:
                return
            size += len(chunk)
            yield chunk


class _ChunkFile(io.RawIOBase):
    """Chunks as a raw binary file, which decompressors read from."""

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
    with suppress(ImportError):
        import compression.zstd  # type: ignore[import-not-found]

        return compression.zstd
    with suppress(ImportError):
        import backports.zstd

        return backports.zstd
    raise ImportError("No library can decompress zstd: pip install 'sse-fast[zstd]'")
