"""`sse-fast doctor` in a process of its own, with installed, missing and unknown libraries."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sse_fast
from sse_fast.compat import LIBRARIES
from tests.support.libraries import INSTALLED

BLOCKER = """
import importlib.metadata
import sys

BLOCKED = {blocked!r}
DISTRIBUTIONS = {distributions!r}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    # Meta path finders are asked for metadata too.
    def find_distributions(self, context=None):
        return ()

sys.meta_path.insert(0, Blocker())
version = importlib.metadata.version

def version_unless_blocked(name):
    if name in DISTRIBUTIONS:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = version_unless_blocked
"""
FASTER = re.compile(
    r"(?:make it|slow it down:) (\d+\.\d) times as fast \((\d+\.\d\d) to (\d+\.\d\d) us an event\)$"
)


def fake(directory: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Write a package with metadata that is found before the real one."""
    distribution = LIBRARIES[name].distribution
    info = directory / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    for path, source in files.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def doctor(
    directory: Path, *arguments: str, blocked: tuple[str, ...] = (), pure: str | None = None
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Run doctor without the blocked libraries; return its head and a row for each library."""
    if blocked:
        distributions = tuple(LIBRARIES[name].distribution for name in blocked)
        source = BLOCKER.format(blocked=blocked, distributions=distributions)
        (directory / "sitecustomize.py").write_text(source)
    path = os.pathsep.join([str(directory), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path}
    if pure is not None:
        environment["SSE_FAST_PURE"] = pure
    done = subprocess.run(
        [sys.executable, "-m", "sse_fast", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        # Outside of the source tree, so that the installed package runs.
        cwd=directory,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in lines[2:]]
    assert [row[0] for row in rows] == list(LIBRARIES)
    # The verdicts are aligned.
    assert len({line.index(row[2], len(row[0])) for line, row in zip(lines[2:], rows)}) == 1  # noqa: B905
    return lines[:2], {row[0]: (row[1], row[2]) for row in rows}


def all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in LIBRARIES if name not in names)


@pytest.mark.bench
def test_doctor_measures_installed_libraries(tmp_path: Path) -> None:
    (core, title), rows = doctor(tmp_path)
    assert core.startswith(f"sse_fast {sse_fast.__version__}, ")
    assert re.fullmatch("library +version +what install\\(\\) would do to its parsing", title)
    for name, (version, verdict) in rows.items():
        if name not in INSTALLED:
            assert (version, verdict) == ("-", "nothing: it is not installed")
            continue
        assert version == importlib.metadata.version(LIBRARIES[name].distribution)
        found = FASTER.match(verdict)
        assert found, verdict
        ratio, theirs, ours = map(float, found.groups())
        assert verdict.startswith("make it") == (theirs > ours) or theirs == ours
        # Only rounded numbers are printed.
        assert theirs > 0.1
        assert ours > 0.1
        assert (theirs - 0.01) / (ours + 0.01) - 0.1 < ratio < (theirs + 0.01) / (ours - 0.01) + 0.1


@pytest.mark.parametrize("pure", ["0", "1"])
def test_doctor_names_the_core(tmp_path: Path, pure: str) -> None:
    (core, _), rows = doctor(tmp_path, blocked=all_but("httpx_sse"), pure=pure)
    plain = "plain Python core, slower than some libraries"
    names = {"1": {plain}, "0": {plain, "Cython core"}}[pure]
    assert core in {f"sse_fast {sse_fast.__version__}, {name}" for name in names}
    assert FASTER.match(rows["httpx_sse"][1])


def test_doctor_without_any_library(tmp_path: Path) -> None:
    _, rows = doctor(tmp_path, blocked=all_but())
    assert set(rows.values()) == {("-", "nothing: it is not installed")}


def test_doctor_with_one_library(tmp_path: Path) -> None:
    _, rows = doctor(tmp_path, blocked=all_but("httpx_sse"))
    assert rows.pop("httpx_sse")[0] == importlib.metadata.version("httpx-sse")
    assert set(rows.values()) == {("-", "nothing: it is not installed")}


def test_doctor_library_without_files(tmp_path: Path) -> None:
    fake(tmp_path, "cohere", "7.1.0", {})
    (tmp_path / "sitecustomize.py").write_text(
        BLOCKER.format(blocked=tuple(LIBRARIES), distributions=tuple(all_but("cohere")))
    )
    _, rows = doctor(tmp_path)
    version, verdict = rows["cohere"]
    assert version == "7.1.0"
    assert verdict.startswith("nothing: ")
    assert "cohere" in verdict
    assert "is not installed: pip install" in verdict


SDK = {
    "__init__.py": "",
    "_streaming.py": """
class ServerSentEvent:
    def __init__(self, *, event=None, data=None, id=None, retry=None):
        self._event, self._data, self._id, self._retry = event, data, id, retry

class SSEDecoder:
    def __init__(self):
        self._data = []
        self._last_event_id = None

    def iter_bytes(self, iterator):
        for chunk in iterator:
            yield ServerSentEvent(data="the first")

    async def aiter_bytes(self, iterator):
        async for chunk in iterator:
            yield ServerSentEvent(data="the first")

    def decode(self, line):
        return None
""",
    "_base_client.py": "from ._streaming import SSEDecoder\n",
}


def sdk(name: str, **changed: str | None) -> dict[str, str]:
    files = {**SDK, **{f"{file}.py": source for file, source in changed.items()}}
    return {f"{name}/{path}": source for path, source in files.items() if source is not None}


STREAMING = SDK["_streaming.py"]


@pytest.mark.parametrize(
    ("files", "expected", "found"),
    [
        ({"_base_client": ""}, "openai._base_client.SSEDecoder", "no such attribute"),
        ({"_base_client": None}, "a module openai._base_client", "none"),
        (
            # The class is missing in both modules.
            {
                "_streaming": STREAMING.replace("class SSEDecoder", "class LineDecoder"),
                "_base_client": "",
            },
            "openai._streaming.SSEDecoder",
            "no such attribute",
        ),
        (
            {"_streaming": STREAMING.replace("iterator", "source")},
            "openai._streaming.SSEDecoder.iter_bytes(self, iterator)",
            "(self, source)",
        ),
        (
            {"_streaming": STREAMING.replace("retry=None", "retry=None, raw=None")},
            "openai._streaming.ServerSentEvent(event, data, id, retry)",
            "(event, data, id, retry, raw)",
        ),
        ({}, "the events [", "[('ServerSentEvent', {'_event': None, '_data': 'the first', "),
    ],
    ids=["no part", "no module", "another name", "a parameter", "one more", "other events"],
)
def test_doctor_unknown_layout_is_explained(
    tmp_path: Path, files: dict[str, str | None], expected: str, found: str
) -> None:
    fake(tmp_path, "openai", "3.999.0", sdk("openai", **files))
    _, rows = doctor(tmp_path, blocked=all_but("openai"))
    version, verdict = rows["openai"]
    assert version == "3.999.0"
    assert verdict.startswith(f"nothing: Unknown layout of openai 3.999.0: expected {expected}")
    library = LIBRARIES["openai"]
    assert f" as in openai {library.versions}, found {found}" in verdict
    assert verdict.endswith("; leave 'openai' out, or upgrade sse_fast")


@pytest.mark.parametrize(
    "source",
    [
        "raise TypeError('of its own')",
        "raise ImportError('of its own')",
        "import no_such_module_at_all",
        "def",
        "raise ValueError('in\\ntwo lines')",
    ],
    ids=["TypeError", "ImportError", "a dependency", "SyntaxError", "two lines"],
)
def test_doctor_import_failure_is_one_line(tmp_path: Path, source: str) -> None:
    fake(tmp_path, "openai", "3.999.0", sdk("openai", __init__=source))
    _, rows = doctor(tmp_path, blocked=all_but("openai"))
    version, verdict = rows["openai"]
    assert version == "3.999.0"
    assert verdict.startswith("nothing: ")
    wanted = {
        "import no_such_module_at_all": "no_such_module_at_all",
        "def": "SyntaxError",
        "raise ValueError('in\\ntwo lines')": "two lines",
    }
    assert wanted.get(source, "of its own") in verdict


@pytest.mark.parametrize("changed", [{"__init__": "def"}, {"_base_client": ""}])
def test_doctor_faulty_library_spares_others(tmp_path: Path, changed: dict[str, str]) -> None:
    fake(tmp_path, "openai", "3.999.0", sdk("openai", **changed))
    _, rows = doctor(tmp_path, blocked=all_but("openai", "httpx_sse"))
    assert rows["openai"][1].startswith("nothing: ")
    assert FASTER.match(rows["httpx_sse"][1])


def test_doctor_takes_no_arguments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sse_fast", "doctor", "openai"], capture_output=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert b"usage: sse-fast" in done.stderr
