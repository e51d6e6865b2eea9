"""The C header that finds ends of line, against a naive loop, built as each of its bodies."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "scan_harness.c"
HEADER_DIRECTORY = Path(__file__).parent.parent / "sse_fast"

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
FLAGS = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-std=c99"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BODIES = {"x86_64": "SSE2", "amd64": "SSE2", "aarch64": "NEON", "arm64": "NEON"}

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # Leaks are not in question, and the search for them fails under a debugger.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
        env=environment,
    )


def build(source: Path, program: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    return run(COMPILER, *FLAGS, *flags, "-I", HEADER_DIRECTORY, source, "-o", program)


def require_sanitizers(directory: Path) -> None:
    source, program = directory / "trivial.c", directory / "trivial.exe"
    source.write_text("int main(void) { return 0; }\n")
    if build(source, program, SANITIZE).returncode:
        pytest.skip("the compiler has no sanitizers to link with")
    # They reserve address space at the start, which some systems refuse.
    if run(program).returncode:
        pytest.skip("programs with sanitizers do not run here")


def native_body() -> str | None:
    """None where it is up to the compiler's target, as on 32-bit systems."""
    return BODIES.get(platform.machine().lower()) if sys.maxsize > 2**32 else None


@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
def test_agrees_with_a_naive_loop(tmp_path: Path, portable: bool, sanitize: bool) -> None:
    if sanitize:
        require_sanitizers(tmp_path)
    flags = [*(["-DSSE_FAST_PLAIN_C"] if portable else []), *(SANITIZE if sanitize else [])]
    program = tmp_path / "scan_harness.exe"
    built = build(HARNESS, program, flags)
    assert built.returncode == 0, built.stdout

    outcome = run(program)
    assert outcome.returncode == 0, outcome.stdout
    comparisons, _, body = outcome.stdout.strip().partition(" comparisons: ")
    assert int(comparisons) > 10_000_000
    expected = "plain C" if portable else native_body()
    assert body == expected or expected is None
