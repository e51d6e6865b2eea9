"""Fixtures of the tests of measurements."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _frozen_tests() -> Iterator[None]:
    """Freeze again what a measurement has unfrozen: the collected tests (see conftest.py)."""
    yield
    if gc.get_freeze_count() == 0:
        gc.freeze()
