"""The start of a command: a module that only other commands need is not imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import run_python

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")

# The process begins with the modules that `site` loads, which differ between environments.
PROGRAM = """
import sys
before = set(sys.modules)
from sse_fast._cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
with open('loaded', 'w') as file:
    print(*(set(sys.modules) - before), file=file)
"""
# Modules of the standard library that take long to import, or that only other commands use.
SLOW = {"asyncio", "concurrent.futures", "ctypes", "email", "gzip", "hashlib", "hmac", "html"} | {
    *("http", "http.client", "http.server", "importlib.metadata", "inspect", "logging", "mmap"),
    *("queue", "random", "secrets", "select", "selectors", "socket", "socketserver", "ssl"),
    *("subprocess", "tempfile", "tracemalloc", "urllib.request", "uuid", "zoneinfo"),
}
LIBRARIES = {"aiohttp", "anyio", "httptools", "httpx", "httpx2", "idna", "pyarrow", "requests"} | {
    *("matplotlib", "rich", "trio", "urllib3"),
}


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a run of the command loads."""
    run_python(PROGRAM, *arguments, directory=Path.cwd())
    return set(Path("loaded").read_text().split())


def commands_of(loaded: set[str]) -> set[str]:
    names = {name.removeprefix("sse_fast._cli.") for name in loaded if "sse_fast._cli." in name}
    return {name for name in names if not name.startswith("_")}


def rooms_of(loaded: set[str]) -> set[str]:
    return {name.split(".")[1] for name in loaded if name.startswith("sse_fast.")}


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_command_without_subcommand_loads_none(argument: str) -> None:
    loaded = loaded_by(argument)
    assert "sse_fast._cli" in loaded
    assert not loaded & (SLOW | LIBRARIES | {"json", "sse_fast._stream"})
    assert rooms_of(loaded) == {"_cli", "_core", "_errors", "_seconds"}
    assert commands_of(loaded) == set()


def test_cat_of_file_loads_no_client() -> None:
    Path("capture").write_bytes(b"data: a\n\n")
    loaded = loaded_by("cat", "capture", "--json", "--timestamps")
    assert "sse_fast._stream" in loaded
    assert not loaded & (SLOW | LIBRARIES)
    late = {"_bench", "_client", "_http1", "_relay", "columns", "compat"}
    assert not rooms_of(loaded) & late
    assert commands_of(loaded) == {"cat"}
