"""An idle parser keeps little memory, whatever it has read."""

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

# The limit of the Python core is only this test's.
LIMITS = {"parser_c": idle_memory.LIMIT, "parser_py": 2 * idle_memory.LIMIT}
# Unfinished lines and events are kept: the measurement has to show them.
UNFINISHED = {
    "a line": [b"data: " + b"x" * 4096],
    "a line in pieces": [b"data: ", *[b"x" * 16] * 256],
    "an event": [b"data: " + b"x" * 4096 + b"\n"],
}


def test_idle_parser_keeps_less_than_limit(core: ModuleType) -> None:
    name = core.__name__.rpartition(".")[2]
    kept = idle_memory.measure(name, UNFINISHED, count=40)
    for what, size in kept.items():
        if what in UNFINISHED:
            assert 4096 < size < 12_000, what
        else:
            assert 100 < size < LIMITS[name], what
    assert kept.keys() == idle_memory.cases().keys() | UNFINISHED.keys()


@pytest.mark.parametrize("name", idle_memory.cases())
def test_idle_cases_end_between_events(core: ModuleType, name: str) -> None:
    parser = core.Parser()
    assert sum(len(parser.feed(chunk)) for chunk in idle_memory.cases()[name])
    assert not parser.pending
