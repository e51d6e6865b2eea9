"""How tests run Python programs, and the command `sse-fast`, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

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
