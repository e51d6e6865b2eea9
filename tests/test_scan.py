"""The C header that finds ends of line, against a naive loop, built as each of its bodies.

Those of other machines run in QEMU, where it and their compilers are installed.
"""

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
# What compiles for another machine, what runs that, and the body chosen there. On the last one the
# bytes of a word lie the other way round.
MACHINES = {
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64", "NEON"),
    "s390x": ("s390x-linux-gnu-gcc", "qemu-s390x", "plain C"),
}


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


def build(
    compiler: str, source: Path, program: Path, flags: list[str]
) -> subprocess.CompletedProcess[str]:
    return run(compiler, *FLAGS, *flags, "-I", HEADER_DIRECTORY, source, "-o", program)


def require_sanitizers(directory: Path, compiler: str, runner: list[str]) -> None:
    source, program = directory / "trivial.c", directory / "trivial.exe"
    source.write_text("int main(void) { return 0; }\n")
    if build(compiler, source, program, SANITIZE).returncode:
        pytest.skip("the compiler has no sanitizers to link with")
    # They reserve address space at the start, which some systems refuse.
    if run(*runner, program).returncode:
        pytest.skip("programs with sanitizers do not run here")


def native_body() -> str | None:
    """None where it is up to the compiler's target, as on 32-bit systems."""
    return BODIES.get(platform.machine().lower()) if sys.maxsize > 2**32 else None


def compare(
    directory: Path, compiler: str, flags: list[str], body: str | None, runner: list[str]
) -> None:
    """Build the harness, run it, and hold what it says against what is expected."""
    program = directory / "scan_harness.exe"
    built = build(compiler, HARNESS, program, flags)
    assert built.returncode == 0, built.stdout

    outcome = run(*runner, program)
    assert outcome.returncode == 0, outcome.stdout
    comparisons, used = outcome.stdout.rstrip("\n").split(" comparisons: ")
    assert int(comparisons) > 2_000_000
    assert used == body or body is None


@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
def test_agrees_with_a_naive_loop(tmp_path: Path, portable: bool, sanitize: bool) -> None:
    if COMPILER is None:
        pytest.skip("no C compiler")
    if sanitize:
        require_sanitizers(tmp_path, COMPILER, [])
    flags = [*(["-DSSE_FAST_PLAIN_C"] if portable else []), *(SANITIZE if sanitize else [])]
    compare(tmp_path, COMPILER, flags, "plain C" if portable else native_body(), [])


@pytest.mark.parametrize(
    ("machine", "portable", "sanitize"),
    [
        pytest.param("aarch64", False, False, id="aarch64"),
        pytest.param("aarch64", False, True, id="aarch64-sanitized"),
        pytest.param("aarch64", True, False, id="aarch64-portable"),
        pytest.param("s390x", False, False, id="s390x"),
    ],
)
def test_on_other_machines(tmp_path: Path, machine: str, portable: bool, sanitize: bool) -> None:
    compiler, emulator, body = MACHINES[machine]
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    # Two windows, and one with sanitizers: emulators take as long for them as machines for three.
    flags, runner = ["-DLONGEST=140", "-static"], [emulator]
    if sanitize:
        # Sanitizers do not link statically, so that machine's libraries are needed.
        flags, runner = ["-DLONGEST=80", *SANITIZE], [emulator, "-L", f"/usr/{machine}-linux-gnu"]
        require_sanitizers(tmp_path, compiler, runner)
    if portable:
        flags, body = [*flags, "-DSSE_FAST_PLAIN_C"], "plain C"
    compare(tmp_path, compiler, flags, body, runner)
