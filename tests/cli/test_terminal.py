"""Control characters from a server are shown on a terminal, and never obeyed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sse_fast._cli._terminal import VisibleFile, visible
from tests.support.commands import COMMAND, run_on_terminal
from tests.support.server import Answer, Server

pytestmark = [
    pytest.mark.usefixtures("away_from_the_source_tree"),
    pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX"),
]
# A title, the clipboard, a cleared screen, a C1 introducer, DEL, NUL, a reversed line.
NASTY = "\x1b]0;t\x07\x1b]52;c;aa\x07\x1b[2J\x9b31m\x7f\x00\u202etxt\u2066\u2028\x85 é日\t🚀"
SHOWN = (
    r"\u001b]0;t\u0007\u001b]52;c;aa\u0007\u001b[2J\u009b31m\u007f\u0000\u202etxt\u2066\u2028\u0085"
    " é日\t🚀"
)
STREAM = (
    f"id: i{NASTY.replace(chr(0), '')}\nevent: e{NASTY}\ndata: d{NASTY}\ndata: second\n"
    f": comment {NASTY}\n\n"
).encode()
DANGEROUS = ("\x1b", "\x07", "\x9b", "\x7f", "\x00", "\u202e", "\u2066", "\u2028", "\x85")


def on_terminal(*arguments: str, stdin: bytes = b"", **variables: str) -> str:
    """Return what a command with its output and its errors on a terminal shows."""
    _, shown = run_on_terminal(*arguments, stdin=stdin, env={"NO_COLOR": "1", **variables})
    return shown.replace("\r\n", "\n")


def assert_harmless(shown: str) -> None:
    assert not [each for each in DANGEROUS if each in shown], shown


def test_cat_shows_controls_in_every_field() -> None:
    shown = on_terminal("cat", "-", stdin=STREAM)
    # An id with NUL would be ignored.
    shown_id = SHOWN.replace(r"\u0000", "")
    assert shown == f"event: e{SHOWN}\nid: i{shown_id}\ndata: d{SHOWN}\ndata: second\n\n"
    assert_harmless(shown)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cat", "-"),
        ("cat", "-", "--json"),
        ("convert", "-", "-o", "-", "--format", "jsonl"),
        ("convert", "-", "-o", "-", "--format", "csv"),
        ("convert", "-", "-o", "/dev/stdout", "--format", "csv"),
    ],
    ids=" ".join,
)
def test_terminal_gets_no_control_character(arguments: tuple[str, ...]) -> None:
    shown = on_terminal(*arguments, stdin=STREAM)
    assert r"\u001b]52;c;aa\u0007" in shown
    assert "é日" in shown
    assert_harmless(shown)


def test_json_on_terminal_has_same_values() -> None:
    shown = on_terminal("cat", "-", "--json", stdin=STREAM)
    event = json.loads(shown)
    assert event["data"] == f"d{NASTY}\nsecond"
    assert event["event"] == f"e{NASTY}"


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
def test_record_to_terminal_shows_controls(server: Server, output: str) -> None:
    # The pieces cut sequences and characters.
    server.answers["/"] = Answer([STREAM[at : at + 5] for at in range(0, len(STREAM), 5)])
    shown = on_terminal("record", server.url, "-o", output)
    assert f"data: d{SHOWN}\ndata: second\n: comment {SHOWN}\n" in shown
    assert_harmless(shown)


@pytest.mark.parametrize("command", ["cat", "record"])
def test_error_body_on_terminal_shows_controls(server: Server, command: str) -> None:
    server.answers["/"] = Answer([NASTY.encode()], "length", 401, {})
    more = ("-o", "out") if command == "record" else ()
    shown = on_terminal(command, server.url, *more)
    assert SHOWN in shown
    assert_harmless(shown)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cat", "missing\x1b]0;t\x07"),
        ("convert", "missing\x1b]0;t\x07", "-o", "out.csv"),
        ("replay", "missing\x1b]0;t\x07"),
        ("convert", "-", "-o", "out\x1b]0;t\x07"),
        ("cat", "-", "--wrong\x1b]0;t\x07"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_error_messages_show_controls(arguments: tuple[str, ...]) -> None:
    shown = on_terminal(*arguments)
    assert r"\u001b]0;t\u0007" in shown or r"\x1b]0;t\x07" in shown
    assert_harmless(shown)


@pytest.mark.parametrize("field", ["data", "event"])
def test_pipe_and_file_get_exact_bytes(field: str) -> None:
    stream = f"{field}: {NASTY}\ndata: x\n\n".encode()
    Path("capture").write_bytes(stream)
    piped = subprocess.run([*COMMAND, "cat", "capture"], capture_output=True, check=True)
    with open("out", "wb") as file:
        subprocess.run([*COMMAND, "cat", "capture"], stdout=file, check=True)
    assert piped.stdout == Path("out").read_bytes() == stream


def test_visible_file_keeps_characters_together() -> None:
    class Parts:
        def __init__(self) -> None:
            self.written = b""

        def write(self, data: bytes) -> None:
            self.written += data

    parts = Parts()
    file = VisibleFile(parts)
    for byte in f"é\x9b日{NASTY}".encode():
        assert file.write(bytes([byte])) == 1
    assert parts.written.decode() == rf"é\u009b日{SHOWN}"


def test_visible_text_of_harmless_characters_is_same() -> None:
    text = "".join(map(chr, [9, 10, *range(32, 127), *range(0xA0, 0x600)])) + "日\u200d🚀"
    assert visible(text) == text
