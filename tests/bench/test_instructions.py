"""The gate on instructions per event: its verdicts, and that figures can be measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import instructions

HERE = {
    "python": "3.11.7",
    "compiler": "gcc 12.2.0",
    "machine": "x86_64 with AVX2",
    "optimisation": "--enable-optimizations -O3",
    "cython": "3.3.1",
    "libc": "glibc 2.36",
    "valgrind": "valgrind-3.19.0",
}
FIGURES = {"a, one event": 1000.0, "d, 64 KiB": 500.0}

# Environments of another kind than HERE, and of the same.
OTHERS = [
    {"python": "3.12.7"},
    {"python": "3.11.7t"},
    {"python": "3.11.7d"},
    {"compiler": "gcc 13.2.0"},
    {"compiler": "clang 12.2.0"},
    {"machine": "x86_64"},
    {"machine": "aarch64"},
    {"optimisation": "-O3"},
]
ALIKE = [
    {"python": "3.11.12"},
    {"python": "3.11.0rc1"},
    {"python": "3.11.13+"},
    {"compiler": "gcc 12.4"},
    {"cython": "3.4.0"},
    {"libc": "glibc 2.41"},
    {"valgrind": "valgrind-3.24.0"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a record of HERE."""
    path = tmp_path / "instructions.json"
    instructions.record(path, HERE, FIGURES)
    return path


def test_equal_figures_pass(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert instructions.check(path, HERE, FIGURES, required=True) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a, one event                 1000.0  +0.0%",
        "d, 64 KiB                     500.0  +0.0%",
    ]


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    ("factor", "code", "said"),
    [
        (1.101, 1, "+10.1%: expected at most +10%"),
        (1.099, 0, "+9.9%"),
        (0.901, 0, "-9.9%"),
        (0.899, 0, "-10.1%: renew the record, with --record"),
    ],
)
def test_figure_ten_per_cent_above_fails(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    code: int,
    said: str,
    name: str,
    required: bool,
) -> None:
    measured = FIGURES | {name: FIGURES[name] * factor}
    assert instructions.check(path, HERE, measured, required) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FIGURES)
    for line in lines:
        assert line.endswith(said if line.startswith(name) else "+0.0%")


def test_slower_figure_fails_despite_faster_one(path: Path) -> None:
    assert instructions.check(path, HERE, {"a, one event": 1200.0, "d, 64 KiB": 100.0}) == 1
    assert instructions.check(path, HERE, {"a, one event": 100.0, "d, 64 KiB": 600.0}) == 1


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_other_kind_of_environment_has_no_record(
    path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, str]
) -> None:
    there = HERE | other
    measured = {name: count * 2 for name, count in FIGURES.items()}
    assert instructions.check(path, there, measured) == 0
    said = capsys.readouterr().out
    assert said.count("  no record") == len(FIGURES)
    assert "%" not in said
    assert (
        f"no record for {instructions.kind(there)!r}, only for {instructions.kind(HERE)!r}" in said
    )
    assert "--record" in said
    assert instructions.check(path, there, measured, required=True) == 2


@pytest.mark.parametrize("other", ALIKE, ids=str)
def test_same_kind_is_compared_and_differences_named(
    path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, str]
) -> None:
    ((name, value),) = other.items()
    assert instructions.check(path, HERE | other, FIGURES, required=True) == 0
    said = capsys.readouterr().out
    assert f"recorded with {name} {HERE[name]}, here {value}" in said
    slower = {name: count * 1.2 for name, count in FIGURES.items()}
    assert instructions.check(path, HERE | other, slower) == 1


def test_check_without_record_exits_by_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.json"
    assert instructions.check(path, HERE, FIGURES) == 0
    assert "only for nothing" in capsys.readouterr().out
    assert instructions.check(path, HERE, FIGURES, required=True) == 2
    assert not path.exists()


def test_figure_without_record_exits_by_required(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"b, one event": 1.0} | FIGURES
    assert instructions.check(path, HERE, more) == 0
    assert "b, one event                    1.0  no record" in capsys.readouterr().out
    assert instructions.check(path, HERE, more, required=True) == 2
    # A slower figure fails even if another is missing.
    slower = more | {"d, 64 KiB": 1000.0}
    assert instructions.check(path, HERE, slower) == 1
    assert instructions.check(path, HERE, slower, required=True) == 1


def test_record_keeps_other_kinds(path: Path) -> None:
    there = HERE | {"python": "3.13.0"}
    instructions.record(path, there, {name: count * 2 for name, count in FIGURES.items()})
    assert instructions.check(path, HERE, FIGURES, required=True) == 0
    assert instructions.check(path, there, FIGURES, required=True) == 0
    assert instructions.check(path, HERE, dict.fromkeys(FIGURES, 1001.0)) == 1
    # A new record replaces the one of its kind only.
    newer = HERE | {"python": "3.11.9", "cython": "3.4.0"}
    instructions.record(path, newer, dict.fromkeys(FIGURES, 2000.04))
    records = json.loads(path.read_text())
    assert records == {
        instructions.kind(HERE): {
            "environment": newer,
            "instructions": {"a, one event": 2000.0, "d, 64 KiB": 2000.0},
        },
        instructions.kind(there): {
            "environment": there,
            "instructions": {"a, one event": 2000.0, "d, 64 KiB": 1000.0},
        },
    }


def test_record_in_repository_is_complete() -> None:
    records = json.loads(instructions.RECORD.read_text())
    assert records
    for name, record in records.items():
        assert instructions.kind(record["environment"]) == name
        assert record["environment"].keys() == HERE.keys()
        assert record["instructions"].keys() == {
            ", ".join(case)
            for case in instructions.CASES + instructions.WAYS + instructions.CLIENTS
        }


@pytest.fixture
def extension() -> Path:
    pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)
    return instructions.installed()


needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind")


@pytest.mark.bench
@needs_valgrind
def test_measure_counts_instructions(extension: Path, tmp_path: Path) -> None:
    environment = instructions.describe(extension)
    assert environment.keys() == HERE.keys()
    version = ".".join(map(str, sys.version_info[:3]))
    assert environment["python"].startswith(version)
    assert environment["compiler"].split()[0] in ("gcc", "clang")
    assert environment["valgrind"].startswith("valgrind-3.")

    count = instructions.measure(extension, ("a", "one event"), 3)
    # 330 bytes are read and copied, and an event is made.
    assert 330 < count < 10_000

    path = tmp_path / "instructions.json"
    instructions.record(path, environment, {"a, one event": count / 1.2})
    assert instructions.check(path, environment, {"a, one event": count}) == 1


@pytest.mark.bench
@needs_valgrind
def test_measure_counts_stream_without_its_source(extension: Path) -> None:
    count = instructions.measure(extension, ("aiter_events", "64 KiB"), 3)
    # More than `feed` takes for an event of 330 bytes, and much less than a coroutine for each.
    assert 330 < count < 10_000


@pytest.mark.bench
@needs_valgrind
@pytest.mark.parametrize("way", ["EventSource", "aopen_stream"])
def test_measure_counts_client_without_its_start(extension: Path, way: str) -> None:
    count = instructions.measure_client(extension, way, 2000)
    # The start of Python and the connection are thousands of instructions for each of 2,000 events.
    assert 330 < count < 3000


def test_check_without_valgrind_exits_with_2(extension: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, instructions.__file__, "--check"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "valgrind is not installed\n"


@pytest.mark.parametrize(
    "arguments", [[], ["--required"], ["--check", "--record"], ["HEAD", "--check"]], ids=str
)
def test_wrong_arguments_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        instructions.main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
