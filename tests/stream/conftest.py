"""Fixtures of the tests of streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.streams import Async, Blocking


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "sync":
        yield Blocking()
        return
    runner = Async()
    yield runner
    runner.loop.run_until_complete(runner.loop.shutdown_asyncgens())
    runner.loop.close()
