"""Runs other libraries' own test suites, with and without sse_fast in place of their parsers.

    python tests/support/originals.py                 # every suite
    python tests/support/originals.py openai3 mcp     # some of them
    python tests/support/originals.py --list

Each suite gets a virtual environment with the newest version of the library in the range, the
dependencies of its tests, and a wheel of this checkout. The tests come from the library's source
distribution. They run once unchanged, and once for each shim through `originals_plugin.py`, which
installs the shim, checks that it is in use, counts the streams that each test reads through it,
and blocks every address except loopback. Everything is in a temporary folder that is removed at
the end; `--keep FOLDER` keeps it and uses it again. Downloads and built wheels come from pip's
cache.

The run fails if a test fails only with a shim, if a test of EXPECTED passes, if no test passed
without a shim, or if no stream was read by sse_fast. The last line has the totals of the runs with
a shim. With SSE_FAST_PURE=1 in the environment, those use the core in plain Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
TIMEOUT = 600.0  # seconds of one run
AT_A_TIME = 2  # suites; each is one process most of the time
CAPTURED: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@dataclass(frozen=True)
class Suite:
    """The tests of one library. Fields with several values separate them with spaces."""

    name: str
    requirement: str  # of the distribution whose tests they are
    shims: str  # keys of originals_plugin.PLACES
    tests: str
    needs: str  # requirements of the tests
    options: str = ""  # of pytest, in addition to the library's own configuration
    environment: str = ""
    python: tuple[int, int] = (3, 10)
    private: str = ""  # tests of private parts that no shim replaces

    @property
    def distribution(self) -> str:
        return self.requirement.partition(">=")[0]


ONE_PROCESS = "-n 0"  # the plugin counts in its own process only
PYTEST = "pytest>=8.4,<10 pytest-asyncio>=1.2,<2"
SDK = f"{PYTEST} pytest-xdist>=3.6.1 respx>=0.22,<1 inline-snapshot>=0.28 rich>=13.7.1"

SUITES = [
    Suite(
        "httpx-sse",
        "httpx-sse>=0.4,<0.5",
        shims="httpx_sse module",
        tests="tests",
        needs=f"{PYTEST} httpx>=0.28,<0.29 sse-starlette>=2.1 starlette",
        # Their options measure coverage of `src`, but the installed package runs.
        options="-o addopts=",
        private="tests/test_decoders.py test_iter_sse_lines_* test_aiter_sse_lines_*",
    ),
    Suite(
        "openai2",
        "openai>=2,<3",
        shims="openai",
        tests="tests/test_streaming.py tests/test_httpx2.py",
        needs=f"{SDK} httpx2>=2.7,<3;python_version>='3.11'",
        options=ONE_PROCESS,
    ),
    Suite(
        "openai3",
        "openai>=3,<4",
        shims="openai",
        tests="tests/test_streaming.py tests/test_sse_framing.py tests/test_stream_mode.py "
        "tests/lib/streaming/agents/test_streams.py tests/lib/streaming/agents/test_results.py",
        needs=f"{SDK} trio>=0.22.2 aiohttp>=3.14.4 httpx>=0.28,<0.29",
        options=ONE_PROCESS,
        # Also run the tests with httpx, which are skipped by default.
        environment="OPENAI_TEST_LEGACY_HTTPX=1",
        python=(3, 11),
        private="test_partial_line_uses_mutable_buffer",
    ),
    Suite(
        "anthropic",
        "anthropic>=2,<3",
        shims="anthropic",
        tests="tests/test_streaming.py tests/lib/streaming "
        "tests/lib/test_refusal_fallback_streaming.py",
        needs=f"{SDK} http-snapshot[httpx] time-machine dirty-equals",
        options=ONE_PROCESS,
        python=(3, 11),
    ),
    Suite(
        "mcp",
        "mcp>=2,<3",
        shims="httpx2",
        tests="tests/shared/test_sse.py tests/client/test_streamable_http.py",
        needs="pytest>=8.4,<10 pytest-examples>=0.0.14 inline-snapshot>=0.23 trio>=0.26.2 "
        "blockbuster>=1.5.27 logfire>=3 opentelemetry-sdk>=1.39.1",
        python=(3, 11),
    ),
]

# Tests that are known to fail with a shim: {(suite, shim, test): reason}.
EXPECTED: dict[tuple[str, str, str], str] = {}


class Run(NamedTuple):
    tests: dict[str, dict[str, Any]]
    shim: dict[str, Any]
    errors: list[str]  # of the run, not of a test

    def outcome(self, test: str) -> str:
        return self.tests[test]["outcome"] if test in self.tests else "not run"

    def tally(self) -> str:
        counts = Counter(test["outcome"] for test in self.tests.values())
        outcomes = ("passed", "failed", "skipped", "xfailed")
        return ", ".join(f"{counts[it]} {it}" for it in outcomes if counts[it]) or "no test"


def run_quietly(*command: str | Path) -> None:
    """Run a command, and show its output only if it fails."""
    done = subprocess.run(command, **CAPTURED)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}")


def pip(folder: Path, *arguments: str | Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--python", folder / "venv")
    run_quietly(sys.executable, "-m", "pip", *options, *arguments)


def make_venv(folder: Path) -> bool:
    """Make a virtual environment; return False if a complete one exists."""
    if (folder / "ready").exists():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    run_quietly(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    return True


def build_wheel(work: Path, requirement: str | None) -> Path:
    """Build one wheel for all suites, from the checkout or from the value of `--sse-fast`."""
    folder = work / "sse_fast"
    make_venv(folder)
    if requirement is None:
        # Build from a copy: setuptools reuses files of earlier builds, and leaves more of them.
        left = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")
        requirement = str(shutil.copytree(HERE.parents[1], folder / "source", ignore=left))
    pip(folder, "wheel", "--no-deps", "--wheel-dir", folder, requirement)
    (wheel,) = folder.glob("*.whl")
    return wheel


def prepare(suite: Suite, folder: Path, wheel: Path) -> Path:
    """Make the environment of a suite, and return the folder of its source distribution."""
    name = suite.distribution
    if make_venv(folder):
        arguments = ("download", "--no-deps", "--no-binary", name, "--dest", folder)
        pip(folder, *arguments, suite.requirement)
        (archive,) = folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, folder / "source")
        version = archive.name.removesuffix(".tar.gz").rpartition("-")[2]
        pip(folder, "install", f"{name}=={version}", *suite.needs.split())
        (folder / "ready").touch()
    pip(folder, "install", "--force-reinstall", "--no-deps", wheel)
    (source,) = (folder / "source").iterdir()
    return source


def run_tests(suite: Suite, folder: Path, source: Path, shim: str) -> Run:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    # Drop the user's proxies, API keys and pytest options.
    theirs = ("OPENAI_", "ANTHROPIC_", "AWS_", "PYTEST_", "PYTHON")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(theirs) and not name.lower().endswith("_proxy")
    }
    # Only the plugin becomes importable, not the rest of this folder.
    (folder / "plugin").mkdir(exist_ok=True)
    shutil.copy(HERE / "originals_plugin.py", folder / "plugin")
    env.update(ORIGINALS_SHIM=shim, ORIGINALS_REPORT=str(report), PYTHONPATH=str(folder / "plugin"))
    env.update(it.split("=", 1) for it in suite.environment.split())
    python = folder / "venv/bin/python"
    command = [python, "-m", "pytest", "-p", "originals_plugin", *suite.options.split()]
    command += suite.tests.split()
    try:
        done = subprocess.run(command, cwd=source, env=env, timeout=TIMEOUT, **CAPTURED)
    except subprocess.TimeoutExpired:
        return Run({}, {}, [f"took more than {TIMEOUT:.0f} seconds"])
    if not report.exists():
        return Run({}, {}, [f"pytest did not run:\n{done.stdout[-2000:]}"])
    result = json.loads(report.read_text("utf-8"))
    errors = [f"refused: {address}" for address in result["outside"]]
    if done.returncode not in (0, 1):
        errors.append(f"pytest exited with {done.returncode}:\n{done.stdout[-2000:]}")
    return Run(result["tests"], result["shim"], errors)


def judge(
    suite: Suite, shim: str, before: Run, after: Run, say: Callable[[str], object]
) -> Iterator[str]:
    """Yield everything that is wrong with a run with a shim."""
    yield from after.errors
    if not after.tests:
        return
    expected = {it[2]: EXPECTED[it] for it in EXPECTED if it[:2] == (suite.name, shim)}
    for test in before.tests | after.tests | expected:
        was, now = before.outcome(test), after.outcome(test)
        if test in expected:
            say(f"    {test}: {was} before, {now} after: {expected[test]}")
            if now != "failed":
                yield f"{test} is expected to fail"
        elif was == "failed" and now != "failed":
            say(f"    {test}: {was} before, {now} after")
        elif was != now:
            text = after.tests[test]["text"] if test in after.tests else ""
            yield f"{test}: {was} before, {now} after\n{text}"
    if not any(test["streams"] for test in after.tests.values()):
        yield "nothing went through sse_fast"


def describe_shim(suite: Suite, after: Run) -> Iterator[str]:
    """Yield lines that tell which tests read streams through the shim."""
    core = "accelerated" if after.shim["accelerated"] else "plain Python"
    streams = [test["streams"] for test in after.tests.values() if test["streams"]]
    yield (
        f"sse_fast {after.shim['version']} ({core}) read {sum(streams)} streams, "
        f"in {len(streams)} tests; tests that read none:"
    )
    every, without = Counter[str](), defaultdict[str, list[str]](list)
    for name, test in after.tests.items():
        file, _, rest = name.partition("::")
        if test["outcome"] != "skipped":
            every[file] += 1
            if not test["streams"]:
                without[file].append(rest.partition("[")[0])
    for file, names in without.items():
        shown = "all" if len(names) == every[file] else ", ".join(dict.fromkeys(names))
        yield f"  {len(names)} of {file}: {shown}"
    if suite.private:
        yield f"  Private parts of the original, left alone: {suite.private}"


def run_suite(suite: Suite, work: Path, wheel: Path) -> tuple[int, list[str], list[str]]:
    """Return how many tests passed with a shim, everything that is wrong, and a report's lines."""
    if sys.version_info < suite.python:
        return 0, [], [f"{suite.name}: skipped, wants Python {'.'.join(map(str, suite.python))}"]
    folder = work / suite.name
    source = prepare(suite, folder, wheel)
    report = [f"{suite.name}: {source.name}, {suite.tests}"]
    before = run_tests(suite, folder, source, "")
    report.append(f"  before: {before.tally()}")
    passed, wrong = 0, list(before.errors)
    if not any(test["outcome"] == "passed" for test in before.tests.values()):
        wrong.append("nothing passed before")
    for name, test in before.tests.items():
        if test["outcome"] == "failed":
            report.append(f"    {name} fails without a shim:\n{test['text'][-1000:]}")
    for shim in suite.shims.split():
        after = run_tests(suite, folder, source, shim)
        report.append(f"  after, {shim}: {after.tally()}")
        if after.shim:
            report += (f"    {line}" for line in describe_shim(suite, after))
        passed += sum(test["outcome"] == "passed" for test in after.tests.values())
        found = judge(suite, shim, before, after, report.append)
        wrong += (f"after, {shim}: {it}" for it in found)
    return passed, wrong, report


def main() -> None:
    names = [suite.name for suite in SUITES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="SUITE", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="list the suites and exit")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="work in FOLDER and keep it")
    parser.add_argument(
        "--sse-fast", metavar="WHAT", help="requirement to test instead of the checkout"
    )
    options = parser.parse_args()
    for name in set(options.names) - set(names):
        parser.error(f"no suite {name}: there are {', '.join(names)}")
    suites = [suite for suite in SUITES if suite.name in options.names or not options.names]
    if options.list:
        for suite in suites:
            print(f"{suite.name}: {suite.requirement}, with {suite.shims}")
        return

    passed, failed = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.keep or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        wheel = build_wheel(work, options.sse_fast)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for good, wrong, report in pool.map(partial(run_suite, work=work, wheel=wheel), suites):
                passed += good
                failed += len(wrong)
                print(*report, *(f"  WRONG: {it}" for it in wrong), sep="\n", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed or not passed))


if __name__ == "__main__":
    main()
