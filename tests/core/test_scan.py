"""The C header that finds line ends, against a naive loop, built with each instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.compiling import BUILDS, OTHER_MACHINES, compare_elsewhere, compare_here

HARNESS = ROOT / "tests" / "support" / "scan_harness.c"


@pytest.mark.parametrize(("portable", "sanitize"), BUILDS)
def test_scan_agrees_with_naive_loop(tmp_path: Path, portable: bool, sanitize: bool) -> None:
    assert compare_here(HARNESS, tmp_path, portable, sanitize, []) > 2_000_000


@pytest.mark.sanitize
@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
def test_scan_of_columns_agrees_with_naive_loop(tmp_path: Path, sanitize: bool) -> None:
    flags = ["-DSSE_FAST_BULK"]
    assert compare_here(HARNESS, tmp_path, False, sanitize, flags) > 2_000_000


@pytest.mark.sanitize
@pytest.mark.parametrize(("machine", "portable", "sanitize"), OTHER_MACHINES)
def test_scan_on_other_machines(
    tmp_path: Path, machine: str, portable: bool, sanitize: bool
) -> None:
    # Shorter texts, as emulators are slow.
    flags = ["-DLONGEST=80" if sanitize else "-DLONGEST=140"]
    comparisons = compare_elsewhere(HARNESS, tmp_path, machine, portable, sanitize, flags)
    assert comparisons > 2_000_000
