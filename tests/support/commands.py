"""How tests run the command `sse-fast`, here or in a process of its own, and other programs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from sse_fast._cli import main

COMMAND = [sys.executable, "-m", "sse_fast"]
# Processes inherit an ignored signal from the shell or program that runs the tests.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sse_fast._cli import main
sys.exit(main())
""",
]


def run_command(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in this process, which is faster than to start another.

    A test whose subject is the process takes `COMMAND`: signals, closed streams, the entry point.

    Args:
        arguments: the arguments after the command's name.
        stdin: what standard input, a pipe, gives.
        env: more environment variables.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        status = _run(arguments, stdin, printed.fileno(), said.fileno(), env or {})
        printed.seek(0)
        said.seek(0)
        return subprocess.CompletedProcess([*arguments], status, printed.read(), said.read())


def run_on_terminal(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run the command in this process, with its output and its errors on a terminal.

    Returns:
        The exit code, and what the terminal got.
    """
    import pty

    near, far = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.append(read_terminal(near)))
    reader.start()
    try:
        status = _run(arguments, stdin, far, far, {"TERM": "xterm", **(env or {})})
    finally:
        os.close(far)
        reader.join()
        os.close(near)
    return status, shown[0].decode()


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file of this process get longer, as on a full disk; skip where there is no limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(
    arguments: tuple[str, ...], stdin: bytes, stdout: int, stderr: int, env: dict[str, str]
) -> int:
    """Run the command with other standard streams, and return its exit code."""
    given, far = os.pipe()
    writer = threading.Thread(target=_write, args=(far, stdin))
    writer.start()
    try:
        with _standard_streams(given, stdout, stderr), mock.patch.dict(os.environ, env):
            return main(arguments)
    except SystemExit as stop:
        # argparse exits by itself after a wrong command line.
        return int(stop.code or 0)
    finally:
        os.close(given)
        writer.join()


def _write(descriptor: int, data: bytes) -> None:
    # The command need not read everything.
    with suppress(BrokenPipeError), open(descriptor, "wb") as file:
        file.write(data)


@contextmanager
def _standard_streams(*descriptors: int) -> Iterator[None]:
    """Replace the standard streams of this process, for Python and for /dev/stdout."""
    saved = [os.dup(number) for number in range(3)]
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        with (
            open(0, encoding="utf-8", closefd=False) as given,
            open(1, "w", encoding="utf-8", closefd=False) as printed,
            open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False) as said,
            mock.patch.multiple(sys, stdin=given, stdout=printed, stderr=said),
        ):
            yield
    finally:
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
            os.close(descriptor)


def run_python(code: str, *arguments: str, directory: Path) -> str:
    """Run a program, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def close_output(*command: str) -> tuple[bytes, int, bytes]:
    """Close the output of a command after its first line.

    Returns:
        The line, the exit code, and what the command wrote to standard error.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        return line, process.wait(10), errors


def read_terminal(descriptor: int) -> bytes:
    """Return what is written to a terminal until its other end is closed."""
    written = b""
    # At that end, Linux raises an error, and other systems give b"".
    with suppress(OSError):
        while piece := os.read(descriptor, 65536):
            written += piece
    return written
