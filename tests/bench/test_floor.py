"""The floor of the benchmarks, where it cannot be compiled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sse_fast._bench import floor, streams
from sse_fast._bench.measure import CALLS, FLOOR, LINES, measure
from tests.support.commands import run_python


def test_measure_without_floor_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)

    def refuse() -> None:
        raise ImportError("no compiler")

    monkeypatch.setattr(floor, "load", refuse)
    cell = measure(streams.make("d", 10), "whole", [], 0.0001, floor=True)
    assert cell.missing == {FLOOR: "no compiler"}
    assert not cell.times.keys() & {FLOOR, LINES, CALLS}


@pytest.mark.bench
@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is not named by CC")
def test_load_without_compiler_raises_import_error(tmp_path: Path) -> None:
    pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)
    script = (
        "import os\nos.environ['CC'] = '/nowhere/cc'\n"
        "from sse_fast._bench import floor\n"
        "try: floor.load()\n"
        "except ImportError as error: print(error)"
    )
    printed = run_python(script, directory=tmp_path)
    assert printed.startswith("the floor could not be compiled: ")
