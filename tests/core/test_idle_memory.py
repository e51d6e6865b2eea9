"""A parser that waits for its connection keeps little, whatever it has read."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from types import ModuleType

import pytest

from bench import idle_memory

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
        reason="no C library that tells what is in use",
    ),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        reason="a Python that cannot do with malloc alone",
    ),
]

# Of the pure Python core, whose lists and texts are Python's own, there is no promise but this.
LIMITS = {"parser_c": idle_memory.LIMIT, "parser_py": 2 * idle_memory.LIMIT}
# What is unfinished is kept, so this has to show; in the line buffer, and among the data.
UNFINISHED = {
    "a line": [b"data: " + b"x" * 4096],
    "a line in pieces": [b"data: ", *[b"x" * 16] * 256],
    "an event": [b"data: " + b"x" * 4096 + b"\n"],
}


def test_less_than_the_limit(core: ModuleType) -> None:
    name = core.__name__.rpartition(".")[2]
    kept = idle_memory.measure(name, UNFINISHED, count=100)
    for what, size in kept.items():
        if what in UNFINISHED:
            assert 4096 < size < 12_000, what
        else:
            assert 100 < size < LIMITS[name], what
    assert kept.keys() == idle_memory.cases().keys() | UNFINISHED.keys()


@pytest.mark.parametrize("name", idle_memory.cases())
def test_the_cases_leave_nothing_unfinished(core: ModuleType, name: str) -> None:
    parser = core.Parser()
    assert sum(len(parser.feed(chunk)) for chunk in idle_memory.cases()[name])
    assert not parser.pending
