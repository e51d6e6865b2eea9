"""Installations without the compiled extension."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

import sse_fast
from sse_fast import iter_columns, read_columns
from tests.support import DATA

HIDE = "import sys; sys.modules['sse_fast.columns._columns_c'] = None\n"


@pytest.mark.parametrize("function", [read_columns, iter_columns])
@pytest.mark.parametrize("source", [b"data: a\n\n", [b"data: a\n\n"], "no such file", 5])
def test_missing_extension_says_how_to_install_it(
    function: Any, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sse_fast.columns._columns_c", None)
    with pytest.raises(ImportError) as caught:
        function(source)
    assert str(caught.value) == (
        "Columns need the compiled extension of sse_fast, which is not installed: install a C "
        "compiler, then pip install --force-reinstall --no-cache-dir --no-binary sse-fast "
        "sse-fast (iter_events works without it)"
    )
    assert isinstance(caught.value.__cause__, ImportError)


def run(script: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=DATA,
        check=True,
    )


def test_iter_events_works_without_extension() -> None:
    run(
        HIDE + "import sse_fast\n"
        "assert sse_fast.Columns and sse_fast.ColumnStream\n"
        "assert [e.data for e in sse_fast.iter_events(b'data: a\\n\\n')] == ['a']\n"
        "try:\n"
        "    sse_fast.read_columns(b'')\n"
        "except ImportError:\n"
        "    pass\n"
        "else:\n"
        "    raise SystemExit('no ImportError')\n"
    )


def test_columns_work_with_pure_python_parser() -> None:
    if not _has_extension():
        pytest.skip("the extension was not built")
    run(
        "import sse_fast\n"
        "assert not sse_fast.ACCELERATED\n"
        "columns = sse_fast.read_columns(b'id: 1\\ndata: a\\n\\ndata\\n\\n', last_event_id='0')\n"
        "assert len(columns) == 2 and columns.last_event_id == '1'\n"
        "try:\n"
        "    sse_fast.read_columns(b'', last_event_id='a\\n')\n"
        "except ValueError:\n"
        "    pass\n"
        "else:\n"
        "    raise SystemExit('no ValueError')\n",
        SSE_FAST_PURE="1",
    )


def test_import_loads_columns_lazily() -> None:
    run(
        "import sys, sse_fast\n"
        "assert not {'sse_fast.columns', 'sse_fast.columns._columns_c', 'mmap'}"
        " & sys.modules.keys()\n"
        "sse_fast.read_columns\n"
        "assert 'sse_fast.columns' in sys.modules\n"
        "assert not {'pyarrow', 'polars', 'sse_fast.columns._columns_c'} & sys.modules.keys()\n"
    )


def _has_extension() -> bool:
    try:
        sse_fast.read_columns(b"")
    except ImportError:
        return False
    return True
