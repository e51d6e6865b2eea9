"""The C header that finds ends of line, against a naive loop, built as each of its bodies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.compiling import ELSEWHERE, compare_elsewhere, compare_here

HARNESS = ROOT / "tests" / "support" / "scan_harness.c"


@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
def test_agrees_with_a_naive_loop(tmp_path: Path, portable: bool, sanitize: bool) -> None:
    assert compare_here(HARNESS, tmp_path, portable, sanitize, []) > 2_000_000


@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
def test_as_columns_have_it(tmp_path: Path, sanitize: bool) -> None:
    flags = ["-DSSE_FAST_BULK"]
    assert compare_here(HARNESS, tmp_path, False, sanitize, flags) > 2_000_000


@pytest.mark.parametrize(("machine", "portable", "sanitize"), ELSEWHERE)
def test_on_other_machines(tmp_path: Path, machine: str, portable: bool, sanitize: bool) -> None:
    # Two windows, and one with sanitizers: emulators take as long for them as machines for three.
    flags = ["-DLONGEST=80" if sanitize else "-DLONGEST=140"]
    comparisons = compare_elsewhere(HARNESS, tmp_path, machine, portable, sanitize, flags)
    assert comparisons > 2_000_000
