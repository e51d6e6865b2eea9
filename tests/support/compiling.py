"""Builds and runs the C harnesses of the headers, with each instruction set that they have.

Harnesses for other machines run in QEMU, if it and their compilers are installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PACKAGE

HEADER_DIRECTORY = PACKAGE / "_core"

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
FLAGS = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-std=c99"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BODIES = {"x86_64": "SSE2", "amd64": "SSE2", "aarch64": "NEON", "arm64": "NEON"}
# Machine -> its compiler, its emulator, and the instruction set chosen there. s390x is big-endian.
MACHINES = {
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64", "NEON"),
    "s390x": ("s390x-linux-gnu-gcc", "qemu-s390x", "plain C"),
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # The search for leaks fails under a debugger, and the harnesses have none.
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
    # Sanitizers reserve address space at the start, which some systems refuse.
    if run(*runner, program).returncode:
        pytest.skip("programs with sanitizers do not run here")


def native_body() -> str | None:
    """Return the instruction set chosen here; None if it depends on the compiler's target."""
    return BODIES.get(platform.machine().lower()) if sys.maxsize > 2**32 else None


def compare(
    harness: Path,
    directory: Path,
    compiler: str,
    flags: list[str],
    body: str | None,
    runner: list[str],
    *arguments: Path,
) -> int:
    """Build and run the harness, and check which instruction set it used.

    Returns:
        The number of comparisons that it made.
    """
    program = directory / "harness.exe"
    built = build(compiler, harness, program, flags)
    assert built.returncode == 0, built.stdout

    outcome = run(*runner, program, *arguments)
    assert outcome.returncode == 0, outcome.stdout
    comparisons, used = outcome.stdout.rstrip("\n").split(" comparisons: ")
    assert used == body or body is None
    return int(comparisons)


def compare_here(
    harness: Path,
    directory: Path,
    portable: bool,
    sanitize: bool,
    flags: list[str],
    *arguments: Path,
) -> int:
    if COMPILER is None:
        pytest.skip("no C compiler")
    if sanitize:
        require_sanitizers(directory, COMPILER, [])
        flags = [*flags, *SANITIZE]
    if portable:
        flags = [*flags, "-DSSE_FAST_PLAIN_C"]
    body = "plain C" if portable else native_body()
    if "-DSSE_FAST_BULK" in flags and body == "SSE2" and _has_avx2():
        body = "AVX2"
    return compare(harness, directory, COMPILER, flags, body, [], *arguments)


def _has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        pytest.skip("/proc/cpuinfo is needed to know the processor")


# (portable, sanitize); the default run has one plain native build.
BUILDS = [
    pytest.param(False, False, id="native-plain"),
    pytest.param(True, False, id="portable-plain", marks=pytest.mark.sanitize),
    pytest.param(False, True, id="native-sanitized", marks=pytest.mark.sanitize),
    pytest.param(True, True, id="portable-sanitized", marks=pytest.mark.sanitize),
]

# (machine, portable, sanitize)
OTHER_MACHINES = [
    pytest.param("aarch64", False, False, id="aarch64"),
    pytest.param("aarch64", False, True, id="aarch64-sanitized"),
    pytest.param("aarch64", True, False, id="aarch64-portable"),
    pytest.param("s390x", False, False, id="s390x"),
]


def compare_elsewhere(
    harness: Path,
    directory: Path,
    machine: str,
    portable: bool,
    sanitize: bool,
    flags: list[str],
    *arguments: Path,
) -> int:
    compiler, emulator, body = MACHINES[machine]
    for tool in (compiler, emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    runner = [emulator]
    if sanitize:
        # Sanitizers do not link statically, so the machine's own libraries are needed.
        runner += ["-L", f"/usr/{machine}-linux-gnu"]
        require_sanitizers(directory, compiler, runner)
        flags = [*flags, *SANITIZE]
    else:
        flags = [*flags, "-static"]
    if portable:
        flags, body = [*flags, "-DSSE_FAST_PLAIN_C"], "plain C"
    return compare(harness, directory, compiler, flags, body, runner, *arguments)
