"""Fixtures of the tests of redirects: two origins, and a netrc file with a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redirects import SECRET
from tests.support.scripted_server import Stage, serve_stage


@pytest.fixture
def here() -> Iterator[Stage]:
    """The origin that gets the first request."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture
def there() -> Iterator[Stage]:
    """Another origin, which differs by its port."""
    with serve_stage() as stage:
        yield stage


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only netrc file, with a line for every origin."""
    path = tmp_path / "netrc"
    hosts = ("127.0.0.1", "localhost")
    path.write_text("".join(f"machine {host} login u password {SECRET}\n" for host in hosts))
    monkeypatch.setenv("NETRC", str(path))
    return path
