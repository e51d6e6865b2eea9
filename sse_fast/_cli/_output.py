"""Output files: checked before the work begins, and replaced only once they are complete."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO


def is_special(path: Path) -> bool:
    """Return whether the path is a device or a pipe, which is written to and never replaced."""
    return path.is_char_device() or path.is_fifo()


def check_standard_output() -> None:
    """Check that standard output takes bytes, without writing any.

    Raises:
        OSError: it does not.
    """
    _probe(sys.stdout.fileno(), "standard output")


def check_writable(path: Path) -> None:
    """Check that a file can be written, without changing it.

    Links are followed: the file that they lead to may be missing, its folder may not. A pipe is not
    opened, which would wait for its reader.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise _error(errno.EISDIR, str(path))
    if path.is_fifo():
        if not os.access(path, os.W_OK):
            raise _error(errno.EACCES, str(path))
        return
    exists = path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _probe(descriptor, str(path))
        if not exists:
            _reserve(descriptor, str(path))
    finally:
        os.close(descriptor)
        if not exists:
            # If the path is a dangling link, remove its new target and not the link.
            os.unlink(os.path.realpath(path))


def check_distinct(first: Path, second: Path) -> None:
    """Check that two paths are not the same file, by a link or otherwise.

    Raises:
        OSError: they are.
    """
    same = os.path.realpath(first) == os.path.realpath(second)
    if not same and first.exists() and second.exists():
        same = os.path.samefile(first, second)
    if same:
        raise OSError(errno.EEXIST, f"it is the same file as {first}: remove the link", str(second))


def open_new(path: Path) -> FileIO:
    """Create a file without a buffer; a link that leads nowhere gets its target.

    Raises:
        OSError: it exists, or cannot be created.
    """

    def follow(name: str, flags: int) -> int:
        # O_EXCL refuses every link, also one that leads nowhere.
        return os.open(os.path.realpath(name), flags, 0o666)

    return open(path, "xb", buffering=0, opener=follow)


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name once all of it is on the disk.

    Until then it has a name of its own in the same folder, which no other run uses. Whatever ends
    the block early removes it, except for a crash.

    Raises:
        OSError: it cannot be written.
    """
    # Replace the target of a link, not the link.
    target = os.path.realpath(path)
    mode = _mode_of(path)
    if mode is not None and not os.access(target, os.W_OK):
        raise _error(errno.EACCES, path)
    folder, name = os.path.split(target)
    # The longest name that file systems allow has 255 bytes.
    short = os.fsdecode(os.fsencode(name)[:200])
    temporary = os.path.join(folder, f"{short}.{os.urandom(8).hex()}.part")
    try:
        with _naming(path, temporary), open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            # `cat` does without this module.
            import shutil

            shutil.copymode(target, temporary)
        with _naming(path, temporary):
            os.replace(temporary, target)
        _sync_folder(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _mode_of(path: str) -> int | None:
    """Return the mode of an existing file, None if it is missing.

    Raises:
        OSError: it is a folder, or cannot be looked up: a link that leads to itself, for example.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise _error(errno.EISDIR, path)
    return mode


@contextmanager
def _naming(path: str, temporary: str) -> Iterator[None]:
    """Let errors name the output that the user knows."""
    try:
        yield
    except OSError as error:
        if error.filename == temporary:
            raise OSError(error.errno, error.strerror, path) from error
        raise


def _sync_folder(folder: str) -> None:
    """Write the new name to the disk, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _probe(descriptor: int, name: str) -> None:
    """Write no bytes, which a device that is full or an output for reading refuses all the same."""
    try:
        os.write(descriptor, b"")
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def _reserve(descriptor: int, name: str) -> None:
    """Reserve a byte of a new file, for which a full disk has no room."""
    try:
        os.posix_fallocate(descriptor, 0, 1)
    except AttributeError:
        return
    except OSError as error:
        # Other errors mean that the file system cannot reserve.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, name) from None


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
