"""Servers, clients and oracles for the tests and benchmarks, and the paths of the checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
DATA = ROOT / "tests" / "data"
PACKAGE = ROOT / "sse_fast"
"""The sources; the package under test is the installed one."""

IMPORT_TESTS = f"import sys; sys.path.append({str(ROOT)!r})\n"
"""The first line of a script that imports `tests`; the installed sse_fast stays ahead of it."""
