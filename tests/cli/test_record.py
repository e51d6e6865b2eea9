"""`sse-fast record`; in a process of its own where that is the subject."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.commands import (
    COMMAND,
    INTERRUPTIBLE,
    close_output,
    read_terminal,
    run_command,
)
from tests.support.recording import BODY, CHUNKS, INDEX, chunks_of, read_if_there, record
from tests.support.scripted_server import Play, serve_stage
from tests.support.server import Answer, Server, nobody

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")
posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and terminals of POSIX")


def wait_for(what: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_record_writes_body_byte_for_byte(server: Server, capture: Path, framing: str) -> None:
    body = BODY + b"\n\n"
    server.answers["/"] = Answer([*CHUNKS, b"\n\n"], framing)
    done = record(server.url)
    assert (done.returncode, done.stdout) == (0, b"")
    assert capture.read_bytes() == body
    assert re.fullmatch(
        rf"sse-fast: capture\.sse: 5 events, {len(body)} bytes, \d\.\d s: the stream ended\n",
        done.stderr.decode(),
    )
    assert os.listdir() == ["capture.sse"]


def test_record_to_standard_output(server: Server) -> None:
    server.answers["/"] = Answer([BODY, b"\n\n"])
    done = record(server.url, "-o", "-")
    assert (done.returncode, done.stdout) == (0, BODY + b"\n\n")
    assert b"sse-fast: -: 5 events" in done.stderr
    assert os.listdir() == []


@posix
def test_record_without_stderr_keeps_capture_clean(server: Server) -> None:
    server.answers["/"] = Answer([b"data: a\n\n"])
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m sse_fast record {server.url} -o - 2>&-', sys.executable],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"data: a\n\n")


def test_record_takes_request_options_of_cat(server: Server) -> None:
    server.answers["/a"] = Answer([b"data: a\n\n"])
    arguments = ["-d", "x=1", "-H", "X-A: b", "--last-event-id", "7", "-v"]
    done = record(f"{server.url}/a?secret", *arguments)
    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/a?secret", b"x=1")
    assert (request.headers["x-a"], request.headers["last-event-id"]) == ("b", "7")
    assert request.headers["accept-encoding"] == "identity"
    assert b"attempt 1" in done.stderr
    assert b"secret" not in done.stderr


def test_record_until_stops_at_event(server: Server, capture: Path) -> None:
    hold = threading.Event()
    body = b"data: a\n\ndata: [DONE]\n\n"
    server.answers["/"] = Answer([body], hold=hold)
    done = record(server.url, "--until", "[DONE]")
    hold.set()
    assert (done.returncode, capture.read_bytes()) == (0, body)
    assert done.stderr.endswith(b"--until or --until-event was met\n")


def test_record_never_reconnects(capture: Path) -> None:
    with serve_stage() as stage:
        stage.plays = [
            Play(body=[b"retry: 0\nid: 1\ndata: a\n\n"]),
            Play(body=[b"id: 2\ndata: b\n\ndata: c"], framing="chunked-truncated"),
            Play(status=503),
        ]
        ended = record(stage.url)
        broken = record(stage.url, "-o", "broken")
        refused = record(stage.url, "-o", "refused")
    assert len(stage.requests) == 3
    assert (ended.returncode, broken.returncode, refused.returncode) == (0, 1, 1)
    assert capture.read_bytes() == b"retry: 0\nid: 1\ndata: a\n\n"
    assert Path("broken").read_bytes() == b"id: 2\ndata: b\n\ndata: c"
    assert sorted(os.listdir()) == ["broken", "capture.sse"]
    how_much, why = broken.stderr.decode().splitlines()
    assert re.fullmatch(r"sse-fast: broken: 1 event, 22 bytes, \d\.\d s: broken off", how_much)
    assert why.startswith("sse-fast: The connection broke off within the stream")


def test_record_end_within_event_exits_1(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer(CHUNKS)
    done = record(server.url)
    assert (done.returncode, capture.read_bytes()) == (1, BODY)
    assert b": broken off\nsse-fast: The stream ended within an event" in done.stderr


def test_record_accepts_17_mib_event(server: Server, capture: Path) -> None:
    """`cat` refuses an event of this size."""
    body = b"data: " + b"x" * (17 * 2**20) + b"\n\n"
    server.answers["/"] = Answer([body])
    done = record(server.url)
    assert (done.returncode, b"1 event, 17,825,800 bytes" in done.stderr) == (0, True)
    assert capture.read_bytes() == body


def test_record_refused_response_writes_no_file(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer([b'{"error": "no"}'], "length", 401, {})
    server.answers["/html"] = Answer([b"<p>"], headers={"Content-Type": "text/html"})
    server.answers["/none"] = Answer([], "length", 204, {})
    for path, said in (
        ("", f'Expected status 200, got 401: {server.url}/\n{{"error": "no"}}\n'),
        ("/html", "Expected content type 'text/event-stream', got 'text/html': "),
        ("/none", "The server answered 204: it has no stream to record\n"),
    ):
        done = record(server.url + path, "--timing")
        assert done.returncode == 1
        assert done.stderr.decode().startswith(f"sse-fast: {said}")
        assert os.listdir() == []
        cat = run_command("cat", server.url + path, "--no-reconnect")
        assert path == "/none" or cat.stderr == done.stderr
    with nobody() as origin:
        done = record(origin)
    assert (done.returncode, os.listdir()) == (1, [])
    # With --force, an existing file survives a refused response.
    capture.write_bytes(b"precious")
    assert record(server.url, "--force").returncode == 1
    assert capture.read_bytes() == b"precious"


@pytest.mark.parametrize("there", ["capture.sse", "capture.sse.timing"])
@pytest.mark.parametrize("timing", [[], ["--timing"]])
def test_record_keeps_existing_files_without_force(
    server: Server, there: str, timing: list[str]
) -> None:
    server.answers["/"] = Answer([b"data: a\n\n"])
    Path(there).write_bytes(b"precious" * 100)
    done = record(server.url, *timing)
    assert (done.returncode, server.requests) == (1, [])
    assert f"sse-fast: {there}: it already exists; " in done.stderr.decode()
    assert (os.listdir(), Path(there).read_bytes()) == ([there], b"precious" * 100)
    done = record(server.url, *timing, "--force")
    assert (done.returncode, Path("capture.sse").read_bytes()) == (0, b"data: a\n\n")
    # The index of the earlier capture is gone, as it does not fit the new one.
    assert INDEX.exists() == bool(timing)
    assert not timing or [length for _, length in chunks_of(INDEX)] == [9, 0]


@posix
def test_record_to_device_or_pipe(server: Server) -> None:
    server.answers["/"] = Answer([b"data: a\n\n"])
    done = record(server.url, "-o", "/dev/null")
    assert (done.returncode, b"/dev/null: 1 event, 9 bytes" in done.stderr) == (0, True)
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert record(server.url, "-o", "pipe").returncode == 0
        assert reader.communicate(timeout=20)[0] == b"data: a\n\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{url}"], 2, "the following arguments are required: -o/--output"),
        (["file", "-o", "x"], 2, "only an http or https URL can be recorded"),
        (["ftp://host/", "-o", "x"], 2, "only http and https URLs are supported, not 'ftp'"),
        (["{url}", "-o", "-", "--timing"], 2, "--timing needs a file"),
        (["{url}", "-o", "none/x"], 1, "sse-fast: none/x: No such file or directory"),
        (["{url}", "-o", ".", "--force"], 1, "sse-fast: .: "),
    ],
)
def test_record_wrong_arguments_send_no_request(
    server: Server, arguments: list[str], status: int, message: str
) -> None:
    done = run_command("record", *(each.format(url=server.url) for each in arguments))
    assert (done.returncode, server.requests, os.listdir()) == (status, [], [])
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@posix
def test_record_full_disk_keeps_what_fits(server: Server, capture: Path) -> None:
    server.answers["/"] = Answer([b"data: a\n\n", b"data: b\n\n"], delay=0.05)
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12, resource.RLIM_INFINITY))\n"
        "from sse_fast._cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "record", server.url, "-o", "capture.sse"],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"broken off\nsse-fast: capture.sse: File too large\n")
    assert capture.read_bytes() == b"data: a\n\ndat"


def test_record_completes_partial_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sse_fast._cli import record

    write = os.write
    stand_in = SimpleNamespace(write=lambda number, data: write(number, data[:3]))
    monkeypatch.setattr(record, "os", stand_in)
    with open("file", "wb", buffering=0) as file:
        record._write(file, b"0123456789")
    assert Path("file").read_bytes() == b"0123456789"


def test_record_timing_writes_index(server: Server, capture: Path) -> None:
    chunks = [b"data: %d\n\n" % number * (number + 1) for number in range(5)]
    server.answers["/a"] = Answer(chunks, delay=0.1)
    before = time.time()
    done = record(server.url.replace("//", "//user:secret@") + "/a?secret", "--timing")
    assert (done.returncode, capture.read_bytes()) == (0, b"".join(chunks))
    first, *lines = INDEX.read_text().splitlines()
    what, when, whose = first.split(", ")
    assert (what, whose) == ("# sse-fast timing 1", f"{server.url}/a")
    assert before - 0.01 <= datetime.fromisoformat(when).timestamp() <= time.time()
    assert when.endswith("+00:00")
    assert all(re.fullmatch(r"\d+\.\d{6}\t\d+", line) for line in lines)
    *seen, (_, nothing) = chunks_of(INDEX)
    assert [length for _, length in seen] == [*map(len, chunks)]
    assert nothing == 0
    times = [seconds for seconds, _ in chunks_of(INDEX)]
    assert times == sorted(times)
    # The last chunk is sent 0.4 s after the head, which may be read late.
    assert 0 <= times[0] < times[4] - 0.1
    assert 0.2 < times[4] < time.time() - before


@posix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_record_interrupted_keeps_what_arrived(
    server: Server, capture: Path, how: signal.Signals
) -> None:
    """The capture can be read while it grows, after Ctrl-C and after a crash."""
    hold = threading.Event()
    server.answers["/"] = Answer(CHUNKS[:3], hold=hold, delay=0.05)
    body = b"".join(CHUNKS[:3])
    line = [*INTERRUPTIBLE, "record", server.url, "-o", "capture.sse", "--timing"]
    with subprocess.Popen(line, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: len(read_if_there(capture)) == len(body))
            wait_for(lambda: INDEX.read_bytes().count(b"\n") == 4)
            assert process.poll() is None
            process.send_signal(how)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
            hold.set()
    assert capture.read_bytes() == body
    lengths = [length for _, length in chunks_of(INDEX)]
    if how is signal.SIGKILL:
        assert lengths == [*map(len, CHUNKS[:3])]
    else:
        assert lengths == [*map(len, CHUNKS[:3]), 0]
        assert process.returncode == 130
        assert re.fullmatch(
            rf"sse-fast: capture\.sse: 2 events, {len(body)} bytes, \d\.\d s: interrupted\n",
            errors.decode(),
        )


@posix
def test_record_interrupted_early_writes_no_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        line = [*INTERRUPTIBLE, "record", url, "-o", "capture.sse", "--timing"]
        with subprocess.Popen(line, stderr=subprocess.PIPE) as process:
            silent.settimeout(20)
            connection, _ = silent.accept()
            with connection:
                assert connection.recv(3) == b"GET"
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors, os.listdir()) == (130, b"", [])


@posix
def test_record_closed_pipe_exits_141(server: Server) -> None:
    server.answers["/"] = Answer([b"data: %d\n\n" % number for number in range(200)], delay=0.01)
    ended = close_output(*COMMAND, "record", server.url, "-o", "-")
    assert ended == (b"data: 0\n", 141, b"")


@posix
def test_record_shows_progress_on_terminal(server: Server) -> None:
    """Other tests check that nothing of it appears where standard error is no terminal."""
    import pty

    hold = threading.Event()
    server.answers["/"] = Answer([b"data: a\n\n"], hold=hold)
    ours, theirs = pty.openpty()
    line = [*COMMAND, "record", server.url, "-o", "capture.sse"]
    with (
        subprocess.Popen(line, stderr=theirs) as process,
        open(ours, "rb", buffering=0) as terminal,
    ):
        os.close(theirs)
        said = b""
        while b"1 event, 9 bytes" not in said:
            said += terminal.read(1000)
        assert process.poll() is None
        hold.set()
        said += read_terminal(ours)
        assert process.wait(20) == 0
    # Without the escape sequences of the live display.
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", said.decode())
    *shown, last = [each for each in re.split(r"[\r\n]+", text) if each]
    assert all(re.fullmatch(r"(0 events|1 event), \d bytes, \d\.\d s", each) for each in shown)
    assert re.fullmatch(r"sse-fast: capture\.sse: 1 event, .*: the stream ended", last)
