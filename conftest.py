"""Makes `tests` and `bench` importable as packages, and keeps collected tests out of collections.

The path is appended rather than prepended, so that the installed package is under test and not the
sources beside the tests.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Freeze the thousands of tests: otherwise each `gc.collect()` of a test walks through them.

    The plugin of Hypothesis imports it at the latest at the end, and then asks for the referrers of
    an object, which a freeze hides.
    """
    gc.disable()
    try:
        result = yield
    finally:
        gc.enable()
    with suppress(ImportError):
        import hypothesis  # noqa: F401
    gc.collect()
    gc.freeze()
    return result
