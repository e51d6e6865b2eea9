"""`sse-fast convert`: its progress on a terminal, and its memory."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import run_command, run_on_terminal
from tests.support.converting import (
    EVERY,
    STREAM,
    files,
    many_events,
    rows,
    rows_of,
    run,
)

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Return the exit code, and the text that appears on a terminal as standard error."""
    pytest.importorskip("pty")
    return run_on_terminal("convert", *arguments, env={"COLUMNS": "100"})


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_progress_bar_on_terminal(packed: bool) -> None:
    stream = many_events(20 * 2**20)
    content = gzip.compress(stream, 1) if packed else stream
    Path("capture").write_bytes(content)
    Path("twice").write_bytes(content)
    status, shown = on_a_terminal("capture", "twice", "-o", "out.jsonl")
    assert status == 0
    # Bytes read of bytes on the disk, the rate, the time left.
    total = f"{2 * len(content) / 1e6:.1f}"
    assert f"{total}/{total} MB" in shown
    assert "100%" in shown
    assert re.search(r"\d+\.\d [kM]B/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    # The bar also moves within a capture.
    assert {int(share) for share in re.findall(r"(\d+)%", shown)} - {0, 50, 100}
    # At the end, the bar is replaced by the summary.
    *_, last = shown.rpartition("\x1b[2K")
    assert re.fullmatch(r"sse-fast: [\d,]+ events from [\d,]+ bytes in [\d.]+ s\r\n", last)


def test_no_bar_if_quiet_or_output_on_terminal(mixed_capture: str) -> None:
    assert on_a_terminal(mixed_capture, "-o", "out.csv", "--quiet") == (0, "")
    assert rows("out.csv") == rows_of(STREAM)
    # A bar would get between the lines of the output.
    status, shown = on_a_terminal(mixed_capture, "-o", "-", "--format", "jsonl")
    assert (status, shown.count("\n")) == (0, 9)
    assert "%" not in shown


def test_quiet_still_reports_dropped_event(
    mixed_capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dropped event is reported."""
    Path(mixed_capture).write_bytes(STREAM + b"data: x")
    assert run(mixed_capture, "-o", "out.csv", "-q") == 0
    message = "sse-fast: capture.sse: the stream ended within an event, which is dropped\n"
    assert capsys.readouterr().err == message


def test_rich_is_needed_for_the_bar_only(
    mixed_capture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    status, shown = on_a_terminal(mixed_capture, "-o", "out.csv")
    assert status == 1
    assert shown.endswith("pip install 'sse-fast[convert]', or --quiet\r\n")
    assert files() == {mixed_capture}
    assert on_a_terminal(mixed_capture, "-o", "out.csv", "-q") == (0, "")
    assert run_command("convert", mixed_capture, "-o", "out.csv").returncode == 0


def test_closed_standard_error_drops_messages(
    mixed_capture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If standard error was closed, messages are dropped, and do not go to standard output."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", output)
    assert run(mixed_capture, "-o", "out.csv") == 0
    assert output.getvalue() == ""
    assert rows("out.csv") == rows_of(STREAM)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
@EVERY
def test_memory_is_bounded(suffix: str) -> None:
    """The capture is compressed, because mapped files would count as memory of the process."""
    block = many_events(4 * 2**20)
    with gzip.open("capture", "wb", 1) as file:
        for _ in range(80):
            file.write(block)
    script = (
        "from pathlib import Path\n"
        "from sse_fast._cli import main\n"
        "assert main() == 0\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    arguments = [sys.executable, "-c", script, "convert", "capture", "-o", "/dev/null"]
    peak = subprocess.check_output([*arguments, "--format", suffix, "-q"])
    # In KiB. The capture has 320 MiB.
    assert int(peak) < 260 * 2**10
