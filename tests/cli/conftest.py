"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.converting import STREAM


@pytest.fixture
def away_from_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def capture() -> Path:
    """The path of a capture, which does not exist yet."""
    return Path("capture.sse")


@pytest.fixture
def mixed_capture(away_from_the_source_tree: None) -> str:
    """The path of a capture of `STREAM`."""
    Path("capture.sse").write_bytes(STREAM)
    return "capture.sse"
