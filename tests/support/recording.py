"""Commands that record and replay a capture; those that replay run in processes of their own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.commands import INTERRUPTIBLE, run_command

# A BOM, each end of line, a split CRLF and character, invalid UTF-8, an unfinished event.
CHUNKS = [
    b"\xef\xbb\xbfid: 1\r\ndata: \xe6",
    b"\x97\xa5\r",
    b"\n\r\n: comment\ndata: \xff\n\n",
    b"data: c\r\r",
    b"retry: 5\ndata: d\n\n",
    b"data: e",
]
BODY = b"".join(CHUNKS)
DATA = ["日", "\ufffd", "c", "d"]
INDEX = Path("capture.sse.timing")


def record(url: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    output = () if "-o" in arguments else ("-o", "capture.sse")
    return run_command("record", url, *arguments, *output)


def chunks_of(index: Path) -> list[tuple[float, int]]:
    lines = [line.split("\t") for line in index.read_text().splitlines() if line[0] != "#"]
    return [(float(seconds), int(length)) for seconds, length in lines]


@contextmanager
def replaying(
    *arguments: str, status: int | None = None, errors: bytes = b""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `replay` and yield its URL and process; `status` is its exit code unless interrupted."""
    line = [*INTERRUPTIBLE, "replay", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().decode().strip(), process
            if status is None:
                process.send_signal(signal.SIGINT)
                status = 130
            _, said = process.communicate(timeout=20)
            assert (process.returncode, said) == (status, errors)
        finally:
            process.kill()


def read_if_there(path: Path) -> bytes:
    """Return what a file has, b"" if it does not exist.

    A command looks whether it can write its output before it does, and so makes and removes it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
