"""`sse-fast convert`: what fails is named, and the output that was there is kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from sse_fast._cli import _formats, convert
from tests.support.commands import INTERRUPTIBLE, close_output, file_limit, run_command
from tests.support.converting import (
    CONVERT,
    EVERY,
    LARGE,
    MATRIX,
    STREAM,
    files,
    many_events,
    pack,
    rows,
    rows_of,
    run,
)

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")


@EVERY
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_truncated_capture_keeps_events_before_it(
    suffix: str, packed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = many_events(2**20)
    Path("first").write_bytes(STREAM)
    whole = pack(stream, packed)
    Path("cut").write_bytes(whole[: len(whole) // 2])
    assert run("first", "cut", "first", "-o", f"out.{suffix}") == 1
    found = rows(f"out.{suffix}")
    expected = rows_of(STREAM, stream)
    assert 500 < len(found) < len(expected) - 500
    assert found == expected[: len(found)]
    if packed == "gz":
        there = zlib.decompressobj(31).decompress(whole[: len(whole) // 2])
        assert found == rows_of(STREAM, there)
    assert files() == {"first", "cut", f"out.{suffix}"}
    why, kept = capsys.readouterr().err.splitlines()
    assert why.startswith("sse-fast: cut: 'cut' (")
    assert " is truncated after " in why
    assert kept == f"sse-fast: out.{suffix} contains the {len(found):,} events before the error"


@EVERY
def test_oversize_event_stops_or_is_skipped(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = STREAM + LARGE + b"data: after\n\n"
    Path("capture").write_bytes(stream)
    arguments = ["capture", "-o", f"out.{suffix}", "--max-event-size", "2000"]
    assert run(*arguments) == 1
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    why, kept = capsys.readouterr().err.splitlines()
    assert why.startswith(f"sse-fast: capture: Event at offset {len(STREAM)} of 'capture' takes ")
    assert "over max_event_size (2000)" in why
    assert kept == f"sse-fast: out.{suffix} contains the 8 events before the error"

    for option in ("--oversize", "--on-error"):
        assert run(*arguments, option, "skip") == 0
        assert rows(f"out.{suffix}") == rows_of(STREAM + b"data: after\n\n")
        done = (
            rf"sse-fast: 9 events from {len(stream):,} bytes in [\d.]+ s, "
            "1 event over the size limit skipped"
        )
        assert re.fullmatch(done, capsys.readouterr().err.rstrip("\n"))


def test_error_after_output_to_stdout_exits_with_1() -> None:
    line = ("convert", "-", "-o", "-", "--format", "jsonl", "--max-event-size", "2000")
    done = run_command(*line, stdin=STREAM + LARGE)
    assert (done.returncode, done.stdout.count(b"\n")) == (1, 8)
    assert re.fullmatch(
        rb"sse-fast: -: Event at offset .* over max_event_size \(2000\).*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["c", "-o", "out"], 2, r"suffix of 'out' names no format: use \.parquet, .*, or --format"),
        (["c", "-o", "out.txt"], 2, r"suffix of 'out.txt' names no format: use \.parquet, "),
        (["c", "-o", "out.txt", "--format", "txt"], 2, "invalid choice: 'txt'"),
        (["c", "-o", "-"], 2, "standard output needs --format jsonl or csv"),
        (["c", "-o", "-", "--format", "arrow"], 2, "standard output needs --format jsonl or csv"),
        (["c"], 2, "required: -o/--output"),
        (["-o", "out.csv"], 2, "required: CAPTURE"),
        (["-", "-", "-o", "out.csv"], 2, r"standard input \(-\) can be read only once"),
        (["c", "-o", "out.csv", "--threads", "0"], 2, "Expected threads from 1 to 1024, got 0"),
        (["c", "-o", "out.csv", "--max-event-size", "0"], 2, "Expected max_event_size from 1"),
        (["c", "-o", "out.csv", "--on-error", "x"], 2, "invalid choice: 'x'"),
        (["c", "-o", "out.csv", "--oversize", "x"], 2, "invalid choice: 'x'"),
        (
            ["c", "-o", "out.csv", "--oversize", "raise", "--on-error", "skip"],
            2,
            "argument --on-error: not allowed with argument --oversize",
        ),
        (["missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        (["c", "missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        ([".", "-o", "out.csv"], 1, r"sse-fast: \.: Is a directory"),
        (["c", "-o", "no/out.csv"], 1, r"sse-fast: no/out\.csv: No such file or directory"),
        (["c", "-o", "d.csv"], 1, r"sse-fast: d\.csv: Is a directory"),
    ],
)
def test_error_is_reported_in_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c").write_bytes(STREAM)
    Path("d.csv").mkdir()
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    else:
        assert run(*arguments) == status
    output, error = capsys.readouterr()
    assert output == ""
    assert re.search(message, error.splitlines()[-1])
    assert status == 2 or error.count("\n") == 1
    assert files() == {"c", "d.csv"}


@pytest.mark.parametrize("how", ["itself", "a link", "a hard link", "standard input"])
def test_output_over_a_capture_is_refused(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.csv").write_bytes(STREAM)
    arguments = ["c.csv", "-o", "./c.csv"]
    if how == "a link":
        Path("link.csv").symlink_to("c.csv")
        arguments = ["c.csv", "-o", "link.csv"]
    elif how == "a hard link":
        os.link("c.csv", "hard.csv")
        arguments = ["hard.csv", "-o", "c.csv"]
    elif how == "standard input":
        arguments = ["-", "-o", "c.csv"]
    there = files()
    with open("c.csv") as given:
        monkeypatch.setattr(sys, "stdin", given)
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
    assert caught.value.code == 2
    assert "is one of the captures: choose another name" in capsys.readouterr().err
    assert files() == there
    assert {Path(name).read_bytes() for name in there} == {STREAM}


def test_file_named_like_temporary_one_is_no_hindrance(mixed_capture: str) -> None:
    Path("out.csv.part").write_bytes(b"precious")
    assert run(mixed_capture, "-o", "out.csv") == 0
    assert Path("out.csv.part").read_bytes() == b"precious"
    assert rows("out.csv") == rows_of(STREAM)
    assert files() == {mixed_capture, "out.csv", "out.csv.part"}


def test_readonly_output_is_not_replaced(
    mixed_capture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory would allow to replace the file all the same."""
    Path("out.csv").write_bytes(b"before")
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return False

    # The tests may run as root, who may write everything.
    monkeypatch.setattr(os, "access", access)
    assert run(mixed_capture, "-o", "out.csv") == 1
    assert asked == [(str(Path("out.csv").resolve()), os.W_OK)]
    assert capsys.readouterr().err == "sse-fast: out.csv: Permission denied\n"
    assert Path("out.csv").read_bytes() == b"before"
    assert files() == {mixed_capture, "out.csv"}


@EVERY
def test_full_disk_keeps_existing_output(suffix: str) -> None:
    Path("capture").write_bytes(many_events(3 * 2**20))
    output = Path(f"out.{suffix}")
    output.write_bytes(b"before")
    with file_limit(10_000):
        done = run_command("convert", "capture", "-o", str(output))
    assert (done.returncode, done.stderr) == (1, f"sse-fast: {output}: File too large\n".encode())
    assert output.read_bytes() == b"before"
    assert files() == {"capture", output.name}


def test_writer_error_leaves_no_file(mixed_capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of the writer, the content of its file is unknown."""

    def write(self: Any, columns: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(_formats._Parquet, "write", write)
    with pytest.raises(MemoryError):
        run(mixed_capture, "-o", "out.parquet")
    assert files() == {mixed_capture}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize(
    "suffix",
    ["jsonl", *(pytest.param(each, marks=pytest.mark.matrix) for each in ("parquet", *MATRIX))],
)
def test_interrupt_keeps_existing_output(suffix: str) -> None:
    output = Path(f"out.{suffix}")
    output.write_bytes(b"before")
    with subprocess.Popen(
        [*INTERRUPTIBLE, "convert", "-", "-o", str(output)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(many_events(2**21))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not [*Path().glob(f"{output}.*.part")]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (130, b"")
    assert output.read_bytes() == b"before"
    assert files() == {output.name}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX pipes")
@pytest.mark.parametrize("kind", ["jsonl", pytest.param("csv", marks=pytest.mark.matrix)])
def test_closed_pipe_ends_quietly(kind: str) -> None:
    Path("capture").write_bytes(many_events(2**22))
    _, status, errors = close_output(*CONVERT, "capture", "-o", "-", "--format", kind)
    assert (status, errors) == (141, b"")


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_standard_input_is_decompressed(packed: str) -> None:
    for name, stream in (("plain.csv", STREAM), ("packed.csv", pack(STREAM, packed))):
        assert run_command("convert", "-", "-o", name, stdin=stream).returncode == 0
    assert Path("packed.csv").read_bytes() == Path("plain.csv").read_bytes()


@pytest.mark.parametrize("missing", ["pyarrow", "pyarrow.csv", "sse_fast.columns._columns_c"])
def test_missing_library_is_named(
    mixed_capture: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(mixed_capture, "-o", "out.csv") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if missing == "sse_fast.columns._columns_c":
        assert "Columns need the compiled extension of sse_fast" in error
    else:
        assert error.startswith("sse-fast: sse-fast convert needs pyarrow (")
        assert error.endswith("pip install 'sse-fast[convert]'\n")
    assert files() == {mixed_capture}


def test_missing_zstd_fails_before_writing(
    mixed_capture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("packed").write_bytes(pack(STREAM, "zst"))
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    opened = []
    monkeypatch.setattr(convert, "_open_output", opened.append)
    assert run(mixed_capture, "packed", "-o", "out.csv") == 1
    assert "pip install 'sse-fast[zstd]'" in capsys.readouterr().err
    assert not opened
