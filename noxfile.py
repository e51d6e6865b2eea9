"""Sessions for contributors: `nox -l` lists them, `nox -s tests` runs one.

`nox --no-venv -s NAME` runs a session in the current environment instead of one of its own, as
`.ci/run` does.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

PARALLEL = ("-n", "4", "--dist", "worksteal")
PLAIN_PYTHON = (
    "tests/stream",
    "tests/http1",
    "tests/adapters/test_closing.py",
    "tests/client/test_client_delivery.py",
)
"""The tests of streams, which have a compiled fast path, for the plain Python core."""


SWEEPS = (
    "any_line",
    "any_moment",
    "interrupted_iteration",
    "interrupted_feed",
    "interrupted_stream",
    "interrupted_async",
    "interrupted_large",
    "failed_allocation",
)
"""Parts of the names of the tests that raise at many places, one after the other."""


def install(session: nox.Session, *what: str) -> None:
    """Install into the session's environment; with --no-venv, what is there has to do."""
    if session.virtualenv.is_sandboxed:
        session.install(*what)


def pytest(session: nox.Session, *options: str, **environment: str) -> None:
    """Install the package with its test dependencies, and run pytest."""
    install(session, ".[dev]")
    session.run("pytest", *options, *session.posargs, env=environment)


def marked(marker: str) -> list[str]:
    """The files of the tests with a marker, so that no worker collects all the others.

    Those outside of a folder come first: a frozen program takes longest.
    """
    tests = Path(__file__).with_name("tests")
    files = [path for path in tests.rglob("*.py") if f"mark.{marker}" in path.read_text("utf-8")]
    assert all(path.match("test_*.py") for path in files), "used by other files"
    return [str(path) for path in sorted(files, key=lambda path: (path.parent != tests, path))]


@nox.session
def tests(session: nox.Session) -> None:
    """The tests of the README: what a contributor needs, under 3 minutes."""
    pytest(session, *PARALLEL)


@nox.session
def matrix(session: nox.Session) -> None:
    """Every policy over every library."""
    pytest(session, *PARALLEL, "-m", "matrix")


@nox.session
def soak(session: nox.Session) -> None:
    """Leaks, memory, chaos: what needs time or memory."""
    pytest(session, *PARALLEL, "-m", "soak", *marked("soak"))


@nox.session
def sanitize(session: nox.Session) -> None:
    """Builds with sanitizers, and the C parts as other processors run them (under QEMU)."""
    pytest(session, "-n", "2", "--dist", "worksteal", "-m", "sanitize")


@nox.session
def properties(session: nox.Session) -> None:
    """The properties, with as many examples as CI searches."""
    tests = ("tests/core", "tests/columns", "tests/compat", "tests/client")
    pytest(session, *PARALLEL, *tests, "-m", "hypothesis and not soak", HYPOTHESIS_PROFILE="ci")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks of `bench/`, whose tables go into docs/benchmarks/."""
    pytest(session, "bench")


@nox.session(name="test-bench")
def test_bench(session: nox.Session) -> None:
    """The tests that run benchmarks, with as few rounds as they can; none looks at a time."""
    pytest(session, "-n", "2", "--dist", "worksteal", "-m", "bench", *marked("bench"))


@nox.session
def instructions(session: nox.Session) -> None:
    """Instructions of `feed` and of streams beside their record; needs valgrind."""
    install(session, ".")
    if shutil.which("valgrind") is None:
        session.skip("valgrind is not installed")
    session.run("python", "bench/instructions.py", "--check", *session.posargs)


@nox.session
def pure(session: nox.Session) -> None:
    """The streams with the plain Python core."""
    pytest(session, *PARALLEL, *PLAIN_PYTHON, "-m", "not (soak or matrix)", SSE_FAST_PURE="1")


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches of the Python files that the tests reach: at least 85 %.

    The tests of the pages, the SDKs, the benchmarks, the adapters and the cores are left out: of
    100 lines, the others reach all but four that these reach. So are the sweeps, which raise at one
    line after the other: they trace themselves, and measuring them would take minutes.
    """
    left_out = ("docs", "providers", "bench", "adapters", "core", "compat/test_sdks.py")
    pytest(
        session,
        *PARALLEL,
        *(f"--ignore=tests/{name}" for name in left_out),
        *("-k", f"not ({' or '.join(SWEEPS)})"),
        # pyproject.toml names the package: `--cov=sse_fast` would measure the sources as well.
        "--cov",
        "--cov-branch",
        "--cov-report=term:skip-covered",
        "--cov-fail-under=85",
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, spelling and wording."""
    install(session, ".[lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("python", ".ci/check_words.py")


@nox.session
def types(session: nox.Session) -> None:
    """The types of the package, and what a checker makes of its interface."""
    install(session, ".[dev]")
    session.run("mypy")


@nox.session
def sdks(session: nox.Session) -> None:
    """The SDKs from before httpx2: openai 2 and anthropic 0."""
    install(session, ".[dev]")
    folder = str(Path(session.create_tmp(), "sdks"))
    session.run(
        *("python", "-m", "pip", "install", "--quiet", "--upgrade", "--target", folder),
        *("openai>=2,<3", "anthropic>=0.75,<1"),
    )
    check = (
        "import openai, anthropic\n"
        "assert (openai.__version__[0], anthropic.__version__[0]) == ('2', '0')"
    )
    environment = {"PYTHONPATH": folder}
    session.run("python", "-c", check, env=environment)
    session.run(
        *("pytest", "-q", *PARALLEL, "tests/compat", "-k", "openai or anthropic"), env=environment
    )


@nox.session
def originals(session: nox.Session) -> None:
    """The own tests of the libraries that `sse_fast.compat` replaces, before and after."""
    session.run("python", "tests/support/originals.py", *session.posargs)


@nox.session
def record(session: nox.Session) -> None:
    """Record the instructions anew, after a change that is meant to cost some."""
    install(session, ".")
    session.run("python", "bench/instructions.py", "--record", *session.posargs)


if __name__ == "__main__":
    os.execvp(sys.executable, [sys.executable, "-m", "nox", "-f", __file__, *sys.argv[1:]])
