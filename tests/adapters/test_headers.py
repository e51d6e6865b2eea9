"""The header fields of a response: what connections share of them."""

from __future__ import annotations

import pytest

from sse_fast import _source
from sse_fast._source import Headers


def test_headers_of_two_responses_share_names() -> None:
    (first,), (second,) = Headers([("X-Shared", "1")]), Headers([("x-shared", "2")])
    assert first is second


def test_headers_with_ever_new_names_keep_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_source, "_names", {})
    for i in range(1000):
        assert Headers([(f"X-{i}", "1"), ("X" * 100, "2")])[f"x-{i}"] == "1"
    assert len(_source._names) == _source._MAX_NAMES
    assert max(map(len, _source._names)) < 100
