"""Text for terminals: control characters from a server are shown, and never obeyed."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

# C0 but TAB and LF, DEL and C1; the line and paragraph separators; and the characters that change
# the direction of text, by which a line can look like another one.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return the text with control characters as escapes of four digits, which JSON allows, too."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def has_colors(choice: str) -> bool:
    """Return whether to write colors to standard output.

    Args:
        choice: the option `--color`: "always", "never", or "auto" for terminals, unless NO_COLOR
            is set (https://no-color.org/) or the terminal is dumb.
    """
    if choice != "auto":
        return choice == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


class VisibleFile(io.RawIOBase):
    """A binary file that writes UTF-8 to another one, with control characters made visible."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.name = "standard output"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(visible(self._decode(bytes(data))).encode())
        return len(data)

    def flush(self) -> None:
        if not self.closed:
            self._file.flush()


def is_terminal(output: str) -> bool:
    """Return whether an output, or - for standard output, is a terminal."""
    if output == "-":
        return sys.stdout.isatty()
    if not Path(output).is_char_device():
        return False
    descriptor = os.open(output, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


class _WholeFile(io.RawIOBase):
    """A binary file without a buffer, which writes everything or raises an error."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        return size


def binary_output() -> Any:
    """Return standard output as a binary file.

    With PYTHONUNBUFFERED, Python's own file may write a part only: if the disk is full or the
    reader leaves, the rest would be lost without an error.
    """
    output = sys.stdout.buffer
    return _WholeFile(output.fileno()) if isinstance(output, io.RawIOBase) else output


def standard_output() -> Any:
    """Return standard output as a binary file, which shows control characters on a terminal."""
    output = binary_output()
    return VisibleFile(output) if sys.stdout.isatty() else output
