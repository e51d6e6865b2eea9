"""`sse-fast`, `demo` and `cat`; in processes of their own where that is the subject."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import COMMAND, INTERRUPTIBLE, close_output, run_command
from tests.support.scripted_server import Play, serve_stage
from tests.support.server import Answer, Server, nobody

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")

STREAM = (
    "id: 1\r\nevent: é\r\ndata: 日\r\ndata: b\r\n\r\n: c\r\nretry: 5\r\ndata: d\r\n\r\n".encode()
)
PLAIN = "event: é\nid: 1\ndata: 日\ndata: b\n\nid: 1\nretry: 5\ndata: d\n\n".encode()


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command; `cat URL` with --no-reconnect."""
    if arguments[:1] == ("cat",) and any("://" in each for each in arguments):
        arguments = (*arguments, "--no-reconnect")
    return run_command(*arguments, stdin=stdin)


def start(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=60, **options)


def test_entry_point_prints_version() -> None:
    command = Path(sys.executable).with_name("sse-fast")
    done = subprocess.run([command, "--version"], capture_output=True, check=True)
    assert re.fullmatch(rb"sse-fast \d+\.\d+\.\d+ \((Cython|plain Python)\)\n", done.stdout)


@pytest.mark.parametrize("arguments", [(), ("cat",), ("nothing",), ("cat", "--wrong", "-")])
def test_wrong_command_line_exits_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert b"usage: sse-fast" in done.stderr
    assert done.stdout == b""


# -- demo ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pure", [None, *(pytest.param(each, marks=pytest.mark.matrix) for each in ("0", "1"))]
)
def test_demo_all_readers_agree(pure: str | None) -> None:
    """In a process of its own, with one core or the other; or in this one."""
    if pure is None:
        done = run("demo")
    else:
        environment = {**os.environ, "SSE_FAST_PURE": pure, "PYTHONIOENCODING": "utf-8"}
        done = start("demo", env=environment)
    output = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "naïve café, 東京, 🚀. The parser delivers" in output
    libraries = ["socket", "requests", "urllib3", "httpx", "httpx2", "aiohttp", "sse_fast"]
    lines = output.splitlines()[-len(libraries) - 1 :]
    installed = 0
    for name, line in zip(libraries, lines, strict=False):
        if not line.endswith("not installed"):
            assert re.fullmatch(rf"{name} +1,180 events +[\d,]+ events/s", line)
            installed += 1
    core = "plain Python" if pure == "1" else "(Cython|plain Python)"
    assert installed >= len(libraries) - 1
    assert re.fullmatch(
        rf"All {installed} readers saw the same events \({core} core\)\.", lines[-1]
    )


def test_demo_cuts_crlf_and_characters() -> None:
    import random

    from sse_fast._cli.demo import _completions, _cut

    events = [f"data: {data}\r\n\r\n".encode() for data in _completions(1)]
    dice = random.Random(0)
    chunks = [chunk for event in events for chunk in _cut(event, dice)]
    assert b"".join(chunks) == b"".join(events)
    assert any(chunk.endswith(b"\r") for chunk in chunks)
    assert any(chunk[0] == 0x0A for chunk in chunks)
    assert sum(0x80 <= chunk[0] < 0xC0 for chunk in chunks) >= 5
    assert len(chunks) > 2 * len(events)


def test_demo_wrong_reader_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextlib import contextmanager

    from sse_fast._cli import demo, main

    reader = demo._READERS["socket"]

    @contextmanager
    def lossy(port: int, options: Any) -> Any:
        with reader(port, options) as events:
            next(events)
            yield events

    monkeypatch.setitem(demo._READERS, "requests", lossy)
    monkeypatch.setattr(demo, "_LIVE_DELAY", 0)
    monkeypatch.setattr(demo, "_REPEAT", 1)
    assert main(["demo"]) == 1
    output = capsys.readouterr().out
    assert output.count("NOT the events that were sent") == 1
    assert "Not every reader saw the events that were sent" in output


# -- cat ----------------------------------------------------------------------------------------


def test_cat_file_prints_events(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(STREAM)
    for done in (start("cat", str(path)), run("cat", str(path))):
        assert (done.returncode, done.stdout, done.stderr) == (0, PLAIN, b"")


def test_cat_output_can_be_read_again() -> None:
    once = run("cat", "-", stdin=STREAM)
    twice = run("cat", "-", stdin=once.stdout)
    assert once.stdout == twice.stdout == PLAIN


def test_cat_json_prints_one_object_a_line() -> None:
    done = run("cat", "--json", "-", stdin=STREAM)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "é", "data": "日\nb", "id": "1", "retry": None},
        {"event": "message", "data": "d", "id": "1", "retry": 5},
    ]
    assert "日".encode() in done.stdout


def test_cat_reports_unfinished_event() -> None:
    done = run("cat", "-", stdin=STREAM + b"data: e\n")
    assert (done.returncode, done.stdout) == (0, PLAIN)
    assert done.stderr == b"sse-fast: the stream ended within an event, which was dropped\n"


def test_cat_url_sends_default_fields(server: Server) -> None:
    server.answers["/a%20b"] = Answer([STREAM[:9], STREAM[9:]])
    url = server.url.replace("//", "//user:p%40ss@") + "/a b?q=c d"
    done = run("cat", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, PLAIN, b"")
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/a%20b?q=c%20d")
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["cache-control"] == "no-cache"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["authorization"] == "Basic dXNlcjpwQHNz"


def test_cat_posts_like_curl(server: Server, tmp_path: Path) -> None:
    server.answers["/"] = Answer([STREAM])
    (tmp_path / "body").write_bytes(b"c=\r\n3")
    run("cat", server.url, "-d", "a=1", "-d", "@body", "-d", "@-", stdin=b"d=4\n")
    run(
        *("cat", server.url, "-X", "PUT", "-d", "{}", "-H", "content-type: application/json"),
        *("-H", "X-Empty;", "-H", "user-agent:", "-H", "Authorization: Bearer x:y"),
    )
    first, second = server.requests
    assert (first.method, first.path, first.body) == ("POST", "/", b"a=1&c=3&d=4")
    assert first.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (second.method, second.body) == ("PUT", b"{}")
    assert second.headers["content-type"] == "application/json"
    assert second.headers["x-empty"] == ""
    assert second.headers["authorization"] == "Bearer x:y"
    assert "user-agent" not in second.headers


def test_cat_takes_header_lines_like_curl(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    lines = ["X-A: 1", "x-a: 2", "Accept-Encoding:", "Host: other", "X-B: é"]
    run("cat", server.url, *(argument for line in lines for argument in ("-H", line)))
    (request,) = server.requests
    assert request.all("X-A") == ["1", "2"]
    assert request.all("Host") == ["other"]
    assert request.all("Accept-Encoding") == []
    assert request.all("X-B")[0].encode("latin-1").decode() == "é"


def test_cat_prints_reset_of_id() -> None:
    stream = b"id: 5\ndata: a\n\nid\ndata: b\n\ndata: c\n\n"
    done = run("cat", "-", stdin=stream)
    assert done.stdout == b"id: 5\ndata: a\n\nid\ndata: b\n\ndata: c\n\n"


@pytest.mark.skipif(os.name == "nt", reason="bytes on the command line of POSIX")
def test_cat_sends_invalid_utf8_unchanged(server: Server) -> None:
    server.answers["/%FF"] = Answer([STREAM])
    url = os.fsencode(server.url.replace("//", "//u@")) + b"/\xff"
    done = subprocess.run(
        [*COMMAND, "cat", url, "-d", b"\xff", "--no-reconnect"], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (server.requests[0].path, server.requests[0].body) == ("/%FF", b"\xff")


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("line", ["cat - >&-", "cat - <&-", "demo >&-"])
def test_closed_standard_stream_exits_1(line: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m sse_fast {line}', sys.executable],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 1
    assert b"Bad file descriptor" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_cat_flushes_each_event(server: Server) -> None:
    hold = threading.Event()
    server.answers["/"] = Answer([b"data: a\n\n"], hold=hold)
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*COMMAND, "cat", server.url, "--no-reconnect"], stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"data: a\n"
            assert process.poll() is None
        finally:
            hold.set()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing"], 1, "sse-fast: missing: No such file or directory"),
        (["{closed}/?secret"], 1, "sse-fast: No connection to http://127"),
        (["http://127.0.0.1:99999/"], 2, "The URL has an invalid user, host, port"),
        (["http://[::1/"], 2, "The URL has an invalid user, host, port or path"),
        (["http:///path"], 2, "The URL has no valid host"),
        (["http://a b/"], 2, "The URL has no valid host"),
        (["ftp://host/"], 2, "only http and https URLs are supported, not 'ftp'"),
        (["-", "-X", "POST"], 2, "-X, -H and -d need a URL"),
        (["-", "--no-reconnect"], 2, "--no-reconnect and --last-event-id need a URL"),
        (["{closed}/", "-X", "a b"], 2, "The request method is invalid"),
        (["{closed}/", "--last-event-id", "a\nb"], 2, "last_event_id must not contain LF"),
        (["{closed}/", "-H", "secret"], 2, "a header line has the form 'Name: value'"),
        (["{closed}/", "-H", ";"], 2, "a header line has the form 'Name: value'"),
        (["{closed}/", "-H", ": x"], 2, "a header line has the form 'Name: value'"),
        (["{closed}/", "-d", "@missing"], 1, "missing: No such file"),
    ],
)
def test_cat_fails_with_one_line(arguments: list[str], status: int, message: str) -> None:
    with nobody() as origin:
        done = run("cat", *(argument.format(closed=origin) for argument in arguments))
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"secret" not in done.stderr
    assert done.stdout == b""


def test_cat_https_fails_without_tls_server(server: Server) -> None:
    done = run("cat", server.url.replace("http:", "https:"))
    assert done.returncode == 1
    # The message names TLS, as the server does not speak it.
    assert re.search(rb"No connection to https://127.*(SSL|TLS)", done.stderr)


def test_cat_prints_body_of_refused_response(server: Server) -> None:
    server.answers["/"] = Answer([b'{"error": "no"}'], "length", 401, {})
    done = run("cat", server.url)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f'sse-fast: Expected status 200, got 401: {server.url}/\n{{"error": "no"}}\n'
    )


def test_cat_truncated_body_prints_events_before(server: Server) -> None:
    server.answers["/"] = Answer([STREAM], "cut")
    done = run("cat", server.url)
    assert (done.returncode, done.stdout) == (1, PLAIN)
    assert done.stderr.startswith(b"sse-fast: The connection broke off within the stream")


def test_cat_reconnects_from_last_id() -> None:
    plays = [
        Play(body=[b"retry: 0\nid: 1\ndata: a\n\n"], framing="chunked-truncated"),
        Play(status=503, fields=[("Retry-After", "0")]),
        Play(body=[b"id: 2\ndata: b\n\nid: 3\ndata: c"]),
    ]
    with serve_stage() as stage:
        stage.plays = plays
        done = run_command("cat", "-v", "--last-event-id", "0", f"{stage.url}?secret")
    ids = [dict(request.fields).get(b"Last-Event-ID") for request in stage.requests]
    assert ids == [b"0", b"1", b"1", b"2"]
    assert (done.returncode, done.stdout) == (
        0,
        b"id: 1\nretry: 0\ndata: a\n\nid: 2\ndata: b\n\n",
    )
    assert done.stderr.count(b"next attempt in") == 3
    assert b"got 503" in done.stderr
    assert b"secret" not in done.stderr


def test_cat_until_stops_at_event(server: Server, tmp_path: Path) -> None:
    body = b"data: a\n\ndata: [DONE]\n\ndata: b\n\n"
    server.answers["/"] = Answer([body])
    done = run("cat", server.url, "--until", "[DONE]")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"data: a\n\n", b"")
    done = run("cat", "-", "--until", "[DONE]", stdin=body)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"data: a\n\n", b"")
    body = b"data: a\n\nevent: end\n\ndata: b\n\n"
    server.answers["/"] = Answer([body])
    for source in (server.url, "-"):
        done = run("cat", source, "--until-event", "done", "--until-event", "end", stdin=body)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"data: a\n\n", b"")
    server.answers["/"] = Answer([b"data: a\n\ndata: [DONE]\n\ndata: b\n\n"])
    done = run("cat", server.url, "--until", "x")
    assert (done.returncode, done.stdout.count(b"data")) == (1, 3)
    assert done.stderr.startswith(b"sse-fast: The stream ended before an event met `until`")


def test_cat_without_client_extra_names_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    done = run("cat", server.url)
    assert done.returncode == 1
    assert done.stderr.endswith(b"pip install 'sse-fast[client]'\n")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_exits_130_without_traceback(server: Server) -> None:
    hold = threading.Event()
    server.answers["/"] = Answer([b"data: a\n\n"], hold=hold)
    with subprocess.Popen(
        [*INTERRUPTIBLE, "cat", server.url, "--no-reconnect"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    hold.set()
    assert (process.returncode, errors) == (130, b"")


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_exits_141_without_traceback(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(STREAM * 100_000)
    _, status, errors = close_output(*COMMAND, "cat", str(path))
    assert (status, errors) == (141, b"")
