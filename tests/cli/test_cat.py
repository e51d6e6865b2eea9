"""`sse-fast cat`: what it reads and refuses, and the forms in which it prints."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from sse_fast._cli import _timing_index
from sse_fast._cli._inputs import FieldWatch
from tests.cli.test_terminal import on_terminal
from tests.support.commands import COMMAND, run_command
from tests.support.converting import pack
from tests.support.scripted_server import Play, Stage, serve_stage
from tests.support.server import Answer, Server

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")
STREAM = b"id: 1\nevent: tick\ndata: a\ndata: b\n\ndata: c\n\n"
PLAIN = b"event: tick\nid: 1\ndata: a\ndata: b\n\nid: 1\ndata: c\n\n"
EVENT = b"data: x\n\n"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
HTML = b"<!doctype html>\n<html>\n<p>data: no</p>\n</html>\n"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


def cat(
    *arguments: str, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return run_command("cat", *arguments, stdin=stdin, env=variables)


# -- What it reads and refuses -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_cat_decompresses_file_and_stdin(how: str) -> None:
    # The content tells the coding, not the name.
    Path("capture").write_bytes(pack(STREAM, how))
    by_name = cat("capture")
    piped = cat("-", stdin=pack(STREAM, how))
    for done in (by_name, piped):
        assert (done.returncode, done.stdout, done.stderr) == (0, PLAIN, b"")


def test_cat_reads_magic_that_arrives_in_parts() -> None:
    packed = pack(STREAM, "gz")
    with subprocess.Popen(
        [*COMMAND, "cat", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for part in (packed[:1], packed[1:3], packed[3:]):
            process.stdin.write(part)
            process.stdin.flush()
            time.sleep(0.05)
        process.stdin.close()
        assert process.stdout.read() == PLAIN
    assert process.returncode == 0


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_cat_truncated_capture_exits_1(how: str) -> None:
    stream = b"".join(
        b"data: %d %b\n\n" % (number, os.urandom(9).hex().encode() * 9) for number in range(2000)
    )
    packed = pack(stream, how)
    done = cat("-", stdin=packed[: len(packed) // 2])
    assert done.returncode == 1
    assert b"truncated" in done.stderr
    # zstd decompresses whole blocks.
    assert how == "zst" or len(done.stdout) > 10_000
    assert stream.startswith(done.stdout)


NO_STREAMS = {
    "html": HTML,
    "json": b'{\n  "error": "no"\n}\n',
    "json without end of line": b'{"error": {"message": "no"}}',
    "json lines": b'{"data": 1}\n{"data": 2}\n',
    "image": PNG,
    "text": b"Internal Server Error",
    "UTF-16": STREAM.decode().encode("utf-16"),
    "indented fields": b" data: a\n\n",
    "other case": b"Data: a\n\n",
    "longer names": b"database: a\nidea: b\n\n",
    "long line": b"x" * (17 * 2**20),
}
STREAMS = {
    "empty": b"",
    "comments": b": a\n:\n\n: b",
    "blank lines": b"\n\r\n\r",
    "BOM": b"\xef\xbb\xbf",
    "part of a BOM": b"\xef\xbb",
    "BOM and field": b"\xef\xbb\xbfdata: a\n\n",
    "field after others": b"foo: bar\n<p>\ndata\n\n",
    "other lines and a field without end": b"foo: bar\ndata: x",
    "cut off in the name": b": a\nda",
    "id alone": b"id\n\n",
    "CR": b"retry: 5\r\r",
}


@pytest.mark.parametrize("stream", NO_STREAMS.values(), ids=NO_STREAMS)
def test_cat_refuses_file_without_any_field(stream: bytes) -> None:
    Path("page").write_bytes(stream)
    done = cat("page")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"sse-fast: page is not an event stream: ")
    assert done.stderr.count(b"\n") == 1


def test_cat_refuses_other_sources_without_field() -> None:
    Path("page.gz").write_bytes(pack(HTML, "gz"))
    packed, piped = cat("page.gz"), cat("-", stdin=PNG)
    assert (packed.returncode, piped.returncode) == (1, 1)
    assert packed.stderr.startswith(b"sse-fast: page.gz is not an event stream")
    assert piped.stderr.startswith(b"sse-fast: standard input is not an event stream")


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_cat_accepts_every_stream(stream: bytes) -> None:
    done = cat("-", stdin=stream)
    assert done.returncode == 0
    assert b"not an event stream" not in done.stderr


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        *(
            pytest.param(each, False, id=name)
            for name, each in NO_STREAMS.items()
            if len(each) < 999
        ),
        *(pytest.param(each, True, id=name) for name, each in STREAMS.items()),
    ],
)
def test_field_watch_ignores_how_bytes_are_cut(stream: bytes, expected: bool) -> None:
    for size in (1, 2, 3, 7, 1000):
        watch = FieldWatch()
        for start in range(0, len(stream), size):
            watch.see(stream[start : start + size])
        assert watch.is_stream == expected, size


# -- Forms -------------------------------------------------------------------------------------


def test_cat_data_prints_nothing_else() -> None:
    done = cat("-", "--data", stdin=STREAM)
    assert (done.returncode, done.stdout) == (0, b"a\nb\nc\n")
    done = cat("-", "--data", "--json", stdin=STREAM)
    assert done.returncode == 2


def test_cat_data_of_json_can_be_piped() -> None:
    done = cat("-", "--data", "--until", "[DONE]", stdin=b'data: {"a": 1}\n\ndata: [DONE]\n\n')
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"a": 1}]


@pytest.mark.parametrize("form", ["", "--json", "--data"])
def test_cat_timestamps_of_url_are_arrivals(server: Server, form: str) -> None:
    server.answers["/"] = Answer([EVENT, EVENT], delay=0.3)
    began = time.time()
    done = cat(server.url, "--no-reconnect", "--timestamps", *([form] if form else []))
    assert done.returncode == 0
    times = [
        datetime.fromisoformat(each).timestamp() for each in TIME.findall(done.stdout.decode())
    ]
    assert len(times) == 2
    assert began - 0.01 <= times[0] <= times[1] - 0.1 <= time.time()
    if form == "--json":
        assert [*json.loads(done.stdout.splitlines()[0])] == [
            *("event", "data", "id", "retry", "arrival")
        ]
    elif form == "--data":
        assert all(line.endswith(b"\tx") for line in done.stdout.splitlines())
    else:
        # The output is still an event stream.
        assert cat("-", stdin=done.stdout).stdout == EVENT * 2


def index(*chunks: tuple[float, int], when: str = "2026-11-28T09:30:00.125+00:00") -> None:
    lines = [f"# sse-fast timing 1, {when}, any", *(f"{time}\t{size}" for time, size in chunks)]
    Path("capture.timing").write_text("".join(f"{line}\n" for line in lines))


def arrivals(*arguments: str) -> list[Any]:
    done = cat("capture", "--timestamps", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["arrival"] for line in done.stdout.splitlines()]


def test_cat_timestamps_of_file_are_those_of_index() -> None:
    Path("capture").write_bytes(EVENT * 4)
    # The second event ends in the second chunk, and the last one is not in the index.
    index((0.25, 12), (1.5, 6), (2.000001, 9))
    assert arrivals() == [
        "2026-11-28T09:30:00.375000+00:00",
        "2026-11-28T09:30:01.625000+00:00",
        "2026-11-28T09:30:02.125001+00:00",
        None,
    ]


def test_cat_timestamps_are_null_if_index_has_no_date() -> None:
    Path("capture").write_bytes(EVENT)
    for when in ("any", "2026-11-28T09:30:00"):
        index((0.25, 9), when=when)
        assert arrivals() == [None]


def test_cat_timestamps_without_index_are_of_reading() -> None:
    Path("capture").write_bytes(EVENT)
    (arrival,) = arrivals()
    assert abs(datetime.fromisoformat(arrival).timestamp() - time.time()) < 60


def test_cat_reports_index_of_other_capture() -> None:
    Path("capture").write_bytes(EVENT)
    index((0.25, 10))
    done = cat("capture")
    assert (done.returncode, b"belongs to another capture" in done.stderr) == (1, True)


def test_time_text_is_utc_in_microseconds() -> None:
    when = datetime(2026, 11, 28, 9, 30, tzinfo=timezone.utc).timestamp()
    assert _timing_index.time_text(when + 0.000002) == "2026-11-28T09:30:00.000002+00:00"


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(
    ("arguments", "variables", "colored"),
    [
        ((), {"NO_COLOR": ""}, True),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"NO_COLOR": "", "TERM": "dumb"}, False),
        (("--color=never",), {"NO_COLOR": ""}, False),
        (("--color=always",), {"NO_COLOR": "1"}, True),
        (("--json",), {"NO_COLOR": ""}, False),
    ],
)
def test_cat_colors_terminals(
    arguments: tuple[str, ...], variables: dict[str, str], colored: bool
) -> None:
    shown = on_terminal("cat", "-", *arguments, stdin=STREAM, **variables)
    assert ("\x1b[36mdata\x1b[0m: a\n" in shown) == ("\x1b" in shown) == colored


def test_cat_colors_pipes_only_on_request() -> None:
    assert b"\x1b" not in cat("-", stdin=STREAM, NO_COLOR="").stdout
    always = cat("-", "--color=always", "--timestamps", stdin=b"data: \x1b[2J\n\n").stdout.decode()
    assert re.fullmatch(
        r"\x1b\[2m: [^\x1b]*\x1b\[0m\n\x1b\[36mdata\x1b\[0m: \\u001b\[2J\n\n", always
    )


# -- Requests ----------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Stage]:
    """A server whose certificate is of an authority in `ca.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path("ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve_stage(ssl_context=context) as stage:
        stage.plays = [Play(body=[EVENT])]
        yield stage


@pytest.mark.parametrize("command", ["cat", "record"])
@pytest.mark.parametrize("options", [("--cacert", "ca.pem"), ("-k",), ("--insecure",)])
def test_trust_options_accept_certificate(
    secure: Stage, command: str, options: tuple[str, ...]
) -> None:
    more = ("--no-reconnect",) if command == "cat" else ("-o", "-")
    done = run_command(command, secure.url, *more, *options)
    assert (done.returncode, done.stdout) == (0, EVENT)


def test_unknown_authority_is_refused_without_option(secure: Stage) -> None:
    done = cat(secure.url)
    assert done.returncode == 1
    assert b"certificate" in done.stderr.lower()
    assert secure.requests == []


def test_cacert_of_another_authority_is_refused(secure: Stage) -> None:
    trustme.CA().cert_pem.write_to_path("other.pem")
    done = cat(secure.url, "--cacert", "other.pem")
    assert (done.returncode, secure.requests) == (1, [])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{url}", "--cacert", "missing.pem"], 1, "missing.pem: No such file or directory"),
        (["{url}", "--cacert", "empty.pem"], 1, "empty.pem: it has no certificate in PEM form"),
        (["{url}", "--cacert", "a.pem", "-k"], 2, "not allowed with argument"),
        (["-", "-k"], 2, "--cacert, --insecure and --no-check need a URL"),
        (["-", "--no-check"], 2, "--cacert, --insecure and --no-check need a URL"),
    ],
)
def test_wrong_request_options_send_nothing(
    server: Server, arguments: list[str], status: int, message: str
) -> None:
    Path("empty.pem").write_bytes(b"")
    done = cat(*(each.format(url=server.url) for each in arguments))
    assert (done.returncode, server.requests) == (status, [])
    assert message in done.stderr.decode()


@pytest.mark.parametrize("command", ["cat", "record"])
def test_no_check_accepts_other_content_type(server: Server, command: str) -> None:
    server.answers["/"] = Answer([EVENT], headers={"Content-Type": "text/plain"})
    more = ("--no-reconnect",) if command == "cat" else ("-o", "-")
    line = [command, server.url, *more]
    checked = run_command(*line)
    assert (checked.returncode, checked.stdout) == (1, b"")
    done = run_command(*line, "--no-check")
    assert (done.returncode, done.stdout) == (0, EVENT)


@pytest.mark.parametrize("options", [(), ("--no-reconnect",)])
def test_cat_no_check_refuses_page_without_field(server: Server, options: tuple[str, ...]) -> None:
    server.answers["/"] = Answer([HTML], headers={"Content-Type": "text/html"})
    done = cat(server.url, "--no-check", *options)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is not an event stream" in done.stderr
    # The page is asked for again before it is refused, and not without end.
    assert len(server.requests) <= 2


# -- What it waits for -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["cat", pytest.param("record", marks=pytest.mark.matrix)])
def test_slow_connection_is_told(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"http://user:secret@127.0.0.1:{port}/a?secret"
        more = () if command == "cat" else ("-o", "capture.sse")
        with subprocess.Popen([*COMMAND, command, url, *more], stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            said = process.stderr.readline().decode()
            process.terminate()
    assert said == f"sse-fast: connecting to http://127.0.0.1:{port}/a\n"


PLAYS = [
    Play(body=[b"retry: 0\nid: 1\ndata: a\n\n"]),
    Play(status=503, fields=[("Retry-After", "0")]),
    Play(status=503, fields=[("Retry-After", "0")]),
    Play(body=[b"id: 2\ndata: b\n\ndata: [DONE]\n\n"]),
]


def test_cat_tells_waits_and_their_reasons() -> None:
    with serve_stage() as stage:
        stage.plays = PLAYS
        done = cat(f"{stage.url}?secret", "--until", "[DONE]", "--data")
    assert (done.returncode, done.stdout) == (0, b"a\nb\n")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 3
    assert all(
        re.match(rf"sse-fast: {re.escape(stage.url)}: .*next attempt in", line) for line in lines
    )
    assert sum("got 503" in line for line in lines) == 2
    assert b"secret" not in done.stderr


@pytest.mark.soak
def test_quiet_cat_says_nothing_about_waiting() -> None:
    with serve_stage() as stage:
        stage.plays = PLAYS
        done = cat(stage.url, "-q", "--until", "[DONE]", "--data")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\nb\n", b"")


def test_quiet_record_prints_no_summary(server: Server) -> None:
    server.answers["/"] = Answer([EVENT])
    done = run_command("record", server.url, "-o", "capture.sse", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert Path("capture.sse").read_bytes() == EVENT


def test_waiting_handler_prints_waits_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    import argparse
    import logging

    from sse_fast import EventSource
    from sse_fast._cli._waiting import telling

    source = EventSource("http://127.0.0.1:9/a?secret")
    log = logging.getLogger("sse_fast")
    level, handlers = log.level, [*log.handlers]

    def emit(**options: bool) -> list[str]:
        arguments = argparse.Namespace(**{"quiet": False, "verbose": False, **options})
        with telling(source, arguments):
            log.debug("%s: attempt %d", "name", 1)
            log.info("%s: connected", "name")
            log.info("%s: %snext attempt in %.1f s", "name", "got 503; ", 2.5)
            log.warning("%s: failed twice", "name")
        return capsys.readouterr().err.splitlines()

    waits = ["sse-fast: name: got 503; next attempt in 2.5 s", "sse-fast: name: failed twice"]
    assert emit() == waits
    assert emit(quiet=True) == []
    assert emit(verbose=True) == [
        "sse-fast: name: attempt 1",
        "sse-fast: name: connected",
        *waits,
    ]
    assert (log.level, log.handlers) == (level, handlers)
