"""Outputs of commands: checked before a server is asked, and never left half written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sse_fast._cli import _output
from tests.support.commands import COMMAND
from tests.support.converting import FORMATS, STREAM, many_events, rows, rows_of, run
from tests.support.recording import INDEX, chunks_of, read_if_there, record
from tests.support.server import Answer, Server

pytestmark = [
    pytest.mark.usefixtures("away_from_the_source_tree"),
    pytest.mark.skipif(os.name == "nt", reason="signals, links and devices of POSIX"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="devices of Linux")
EVENT = b"data: a\n\n"
# Processes inherit ignored signals; here they are as in a shell, or SIGHUP is as under `nohup`.
IN_SHELL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from sse_fast._cli import main
sys.exit(main())
"""
UNDER_NOHUP = IN_SHELL.replace("SIGHUP, signal.SIG_DFL", "SIGHUP, signal.SIG_IGN")


def start(*arguments: str, script: str = IN_SHELL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("suffix", "how", "status"),
    [
        *(pytest.param(each, "SIGTERM", -15, marks=pytest.mark.matrix) for each in FORMATS[1:]),
        (FORMATS[0], "SIGTERM", -15),
        ("jsonl", "SIGHUP", -1),
        pytest.param("parquet", "SIGINT", 130, marks=pytest.mark.matrix),
        ("csv", "SIGKILL", -9),
    ],
)
def test_killed_convert_keeps_existing_output(suffix: str, how: str, status: int) -> None:
    output = f"out.{suffix}"
    Path(output).write_bytes(b"before")
    with start("convert", "-", "-o", output) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(many_events(2**20))
        process.stdin.flush()
        wait_for(lambda: [*Path().glob(f"{output}.*.part")])
        process.send_signal(signal.Signals[how])
        assert (process.wait(60), process.stderr.read()) == (status, b"")
    assert Path(output).read_bytes() == b"before"
    left = set(os.listdir()) - {output}
    # Nothing can clean up after SIGKILL, but no later run needs that name.
    assert len(left) == (how == "SIGKILL")
    Path("capture").write_bytes(STREAM)
    assert run("capture", "-o", output, "-q") == 0
    assert rows(output) == rows_of(STREAM)
    assert set(os.listdir()) - {output, "capture"} == left


def test_shell_sees_number_of_signal() -> None:
    Path("script.py").write_text(IN_SHELL)
    os.mkfifo("in")
    # The pipe is opened for reading and writing, so that it never ends.
    keeper = os.open("in", os.O_RDWR)
    line = f"{sys.executable} script.py convert - -o out.csv < in & echo $!; wait $!; echo $?"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        number = int(shell.stdout.readline())
        wait_for(lambda: [*Path().glob("out.csv.*.part")])
        os.kill(number, signal.SIGTERM)
        assert shell.stdout.readline() == "143\n"
    os.close(keeper)
    assert sorted(os.listdir()) == ["in", "script.py"]


def test_hangup_stays_ignored_under_nohup() -> None:
    with start("convert", "-", "-o", "out.csv", "-q", script=UNDER_NOHUP) as process:
        wait_for(lambda: [*Path().glob("out.csv.*.part")])
        process.send_signal(signal.SIGHUP)
        assert process.communicate(STREAM, timeout=60) == (None, b"")
    assert process.returncode == 0
    assert rows("out.csv") == rows_of(STREAM)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP"])
def test_terminated_record_ends_its_index(server: Server, capture: Path, how: str) -> None:
    hold = threading.Event()
    server.answers["/"] = Answer([EVENT], hold=hold)
    with start("record", server.url, "-o", "capture.sse", "--timing") as process:
        wait_for(lambda: read_if_there(INDEX).count(b"\n") == 2)
        process.send_signal(signal.Signals[how])
        _, errors = process.communicate(timeout=60)
    hold.set()
    assert process.returncode == -signal.Signals[how]
    assert capture.read_bytes() == EVENT
    assert [length for _, length in chunks_of(INDEX)] == [9, 0]
    assert errors.endswith(b": terminated\n")


def test_output_is_synced_before_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the machine, the file is either the one before or the whole new one."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")
        fsync(descriptor)

    def replaced(*paths: str) -> None:
        steps.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with _output.replacing("out") as file:
        file.write(b"whole")
        assert not os.path.exists("out")
    assert steps == ["file", "rename", "folder"]
    assert os.listdir() == ["out"]


def test_two_runs_have_two_temporary_files() -> None:
    with _output.replacing("out") as first, _output.replacing("out") as second:
        first.write(b"first")
        second.write(b"second")
        assert len(os.listdir()) == 2
    assert Path("out").read_bytes() == b"first"
    assert os.listdir() == ["out"]


def test_output_may_have_longest_name(mixed_capture: str) -> None:
    name = "é" * 125 + ".csv"
    assert run(mixed_capture, "-o", name, "-q") == 0
    assert rows(name) == rows_of(STREAM)


@pytest.mark.parametrize(
    "unbuffered",
    [pytest.param("", marks=pytest.mark.matrix, id="buffered"), pytest.param("1", id="unbuffered")],
)
@pytest.mark.parametrize("command", ["cat capture", "convert capture -o - --format jsonl"])
def test_reader_that_leaves_within_event_is_noticed(command: str, unbuffered: str) -> None:
    """One event is more than a pipe holds, so the last `write` of it is a partial one."""
    Path("capture").write_bytes(b"event: a\ndata: " + b"x" * 2**20 + b"\n\n")
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [*COMMAND, *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(os.read(process.stdout.fileno(), 20)) > 1
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 141)


# -- Checks before the server is asked ---------------------------------------------------------


def test_record_follows_dangling_links(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer([EVENT])
    Path("target").mkdir()
    capture.symlink_to("target/a.sse")
    INDEX.symlink_to("target/b.timing")
    assert record(server.url, "--timing").returncode == 0
    assert Path("target/a.sse").read_bytes() == EVENT
    assert [length for _, length in chunks_of(Path("target/b.timing"))] == [9, 0]
    assert capture.is_symlink()
    assert INDEX.is_symlink()


def test_convert_follows_dangling_link(mixed_capture: str) -> None:
    Path("target").mkdir()
    Path("out.csv").symlink_to("target/a.csv")
    assert run(mixed_capture, "-o", "out.csv", "-q") == 0
    assert rows("target/a.csv") == rows_of(STREAM)
    assert os.listdir("target") == ["a.csv"]
    assert Path("out.csv").is_symlink()


def link(target: str, name: str = "out.csv") -> Callable[[], None]:
    return lambda: Path(name).symlink_to(target)


def hard_link() -> None:
    Path("out.csv").write_bytes(b"before")
    os.link("out.csv", "out.csv.timing")


OUTPUTS = {
    "folder": (lambda: Path("out.csv").mkdir(), "out.csv: Is a directory"),
    "link into missing folder": (link("missing/a"), "out.csv: No such file or directory"),
    "link to itself": (link("out.csv"), "out.csv: Too many levels of symbolic links"),
    "full device": (link("/dev/full"), "out.csv: No space left on device"),
    # This one is readonly even for root.
    "readonly file": (link("/proc/version"), "out.csv: "),
}
INDEXES = {
    "folder": (lambda: Path("out.csv.timing").mkdir(), "out.csv.timing: Is a directory"),
    "link to capture": (
        link("out.csv", "out.csv.timing"),
        "out.csv.timing: it is the same file as out.csv",
    ),
    "hard link": (hard_link, "out.csv.timing: it is the same file as out.csv"),
}


def tree() -> dict[str, bytes | None]:
    """The files here, with the content of those that are no links."""
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in Path().rglob("*")
    }


@linux
@pytest.mark.parametrize(
    ("which", "options"),
    [*((OUTPUTS[key], ()) for key in OUTPUTS), *((INDEXES[key], ("--timing",)) for key in INDEXES)],
    ids=[*OUTPUTS, *(f"index: {key}" for key in INDEXES)],
)
def test_record_checks_outputs_before_request(
    server: Server, which: tuple[Callable[[], None], str], options: tuple[str, ...]
) -> None:
    server.answers["/"] = Answer([EVENT])
    prepare, message = which
    prepare()
    before = tree()
    done = record(server.url, "-o", "out.csv", "--force", *options)
    assert (done.returncode, server.requests) == (1, [])
    assert done.stderr.startswith(f"sse-fast: {message}".encode())
    assert done.stderr.count(b"\n") == 1
    assert tree() == before


@linux
@pytest.mark.parametrize("key", OUTPUTS)
def test_convert_checks_output_before_reading(
    mixed_capture: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, message = OUTPUTS[key]
    prepare()
    before = tree()
    assert run(mixed_capture, "-o", "out.csv") == 1
    assert capsys.readouterr().err.startswith(f"sse-fast: {message}")
    assert tree() == before


@linux
@pytest.mark.parametrize(
    "command", ["record {url} -o -", "cat {url}", "convert - -o - --format csv"]
)
def test_full_standard_output_is_found_early(server: Server, command: str) -> None:
    line = [*COMMAND, *command.format(url=server.url).split()]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, server.requests) == (1, [])
    assert done.stderr == b"sse-fast: standard output: No space left on device\n"


def test_record_full_disk_sends_no_request(server: Server) -> None:
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "from sse_fast._cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "record", server.url, "-o", "capture.sse"],
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, server.requests, os.listdir()) == (1, [], [])
    assert done.stderr == b"sse-fast: capture.sse: File too large\n"


def test_record_refuses_index_of_device(server: Server) -> None:
    done = record(server.url, "-o", "/dev/null", "--timing")
    assert (done.returncode, server.requests) == (1, [])
    assert b"/dev/null: --timing needs a file" in done.stderr
    assert not Path("/dev/null.timing").exists()


def test_record_killed_before_head_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with start("record", url, "-o", "capture.sse", "--timing") as process:
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(3) == b"GET"
                process.kill()
                process.communicate(timeout=60)
    assert os.listdir() == []
