"""`sse-fast bench`: table, JSON and plot, with parsers that are right, wrong and missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from sse_fast._bench import floor, javascript, machine, measure, streams
from sse_fast._bench.measure import FLOOR, Cell
from sse_fast._bench.rivals import RIVALS, Events, Rival
from sse_fast._cli import bench, main
from tests.support import ROOT
from tests.support.commands import read_terminal

# They compile and time, which the command's users do rarely: CI runs them.
pytestmark = pytest.mark.bench

PLAIN = "sse_fast, plain Python"
OURS = [name for name in ("sse_fast", PLAIN) if name == PLAIN or sse_fast.ACCELERATED]
SCRIPT, OTHER_SCRIPT = javascript.JAVASCRIPT
DOMINATES = "In a real program the parser is a small part: the HTTP library takes"


def parse(chunks: Iterable[bytes], keep: bool) -> Events:
    events = sse_fast.Parser().feed(b"".join(chunks))
    return [(event.event, event.data, event.id) for event in events] if keep else []


def lose_the_ids(chunks: Iterable[bytes], keep: bool) -> Events:
    return [(event_type, data, "") for event_type, data, _ in parse(chunks, keep)]


def nothing() -> Any:
    raise ImportError("No module named 'absent'")


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make `bench` small: few events, three rivals, no Node, and a fixed command line."""
    rivals = dict(RIVALS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(streams, "_SIZES", dict.fromkeys(streams.STREAMS, 20))
    monkeypatch.setattr(bench, "SIZES", {})
    for name in set(RIVALS) - set(OURS):
        monkeypatch.delitem(RIVALS, name)
    for name, make in (
        ("right", lambda: parse),
        ("wrong", lambda: lose_the_ids),
        ("absent", nothing),
    ):
        monkeypatch.setitem(RIVALS, name, Rival(name, f"{name}==1.0", make))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    # Compiled once per process, while the compiler is still on the PATH.
    if sse_fast.ACCELERATED:
        floor.load()
    monkeypatch.setenv("PATH", "")
    # The report prints the command.
    monkeypatch.setattr(sys, "argv", ["a/path/sse-fast", "bench", "--any"])
    yield
    # In their order, which monkeypatch does not restore.
    RIVALS.clear()
    RIVALS.update(rivals)


def run(*arguments: str) -> int:
    return main(["bench", "--seconds", "0.0001", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    output, error = capsys.readouterr()
    assert output == ""
    return error


def rows(lines: list[str]) -> dict[str, list[str]]:
    """Label -> numbers."""
    split = [re.split(r"  +", line.strip()) for line in lines]
    return {label: numbers for label, *numbers in split}


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fake Node with the first of the two packages; return the folders that are searched."""
    asked: list[Any] = []

    def find(name: str, folder: Path | None) -> javascript.Found:
        asked.append(folder)
        if name == OTHER_SCRIPT:
            raise ImportError("The npm package is missing: npm install")
        return javascript.Found("9.8.7", "99.1.0")

    def read(name: str, chunks: Iterable[bytes], folder: Path | None) -> Events:
        asked.append(folder)
        return parse(chunks, True)

    monkeypatch.setattr(javascript, "find", find)
    monkeypatch.setattr(javascript, "read", read)
    monkeypatch.setattr(javascript, "time", lambda name, chunks, events, *_: 7_000.0 * events)
    return asked


# -- the table ----------------------------------------------------------------------------------


def test_table_has_parsers_and_floors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    output, error = capsys.readouterr()
    assert error == ""
    nanoseconds, times, streams_, *_ = output.split("\n\n")
    heads = {nanoseconds: "Nanoseconds per event", times: "Time relative to row 1"}
    for table, title in heads.items():
        first, second, third, rule, *_ = table.splitlines()
        assert first.split() == ["a", "a", "b", "c", "d"]
        assert second.split() == ["one", "64", "one", "one", "one"]
        assert third.strip().startswith(title)
        assert third.split()[-5:] == ["event", "KiB", "event", "event", "event"]
        assert set(rule.strip()) <= {"─", "-"}
        # The table fits a terminal of 80 columns.
        assert max(map(len, table.splitlines())) <= 80
    labels = [f"{name} {sse_fast.__version__}" for name in OURS] + ["right 1.0", "wrong 1.0"]
    floors = [FLOOR, "lines only", "empty calls"] if sse_fast.ACCELERATED else []
    numbers = rows(nanoseconds.splitlines()[4:])
    assert list(numbers) == labels + floors
    ratios = rows(times.splitlines()[4:])
    assert list(ratios) == labels
    assert ratios[labels[0]] == ["1.0"] * 5
    for label in labels[:-1] + floors[:1]:
        assert all(int(number.replace(",", "")) > 0 for number in numbers[label])
    # A parser whose events are wrong has no number.
    for found in (numbers, ratios):
        assert found["wrong 1.0"][3] == "wrong"
        assert found["wrong 1.0"].count("wrong") == 1
    assert [line.split()[0] for line in streams_.splitlines()[:4]] == ["a", "b", "c", "d"]


def test_table_explains_wrong_and_missing_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    run("--streams", "c")
    lines = capsys.readouterr().out.splitlines()
    (wrong,) = [line for line in lines if line.startswith("wrong: ")]
    assert wrong.startswith("wrong: wrong 1.0 (c, one event): event 1: expected ('message', '{")
    assert wrong.endswith(", '')")
    missing = dict(line.split(": ", 2)[1:] for line in lines if line.startswith("missing: "))
    assert list(missing) == ["absent", SCRIPT, OTHER_SCRIPT]
    assert missing["absent"] == (
        "absent==1.0 is not available (No module named 'absent'): pip install 'sse-fast[bench]'"
    )
    assert missing[SCRIPT].startswith("node is not on the PATH")
    about = machine.describe()
    for part in ("cpu", "os", "python"):
        assert about[part] in lines
    assert f"{about['date']}, by sse-fast bench --any" in lines
    assert DOMINATES in lines


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="the first row is the plain Python core")
def test_table_shows_measured_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def measured(stream: Any, chunking: str, names: Iterable[str], *_: Any, **options: Any) -> Cell:
        assert options["floor"] == ("sse_fast" in RIVALS)
        times = {"sse_fast": 100.0, PLAIN: 994.0, "right": 996.0, "wrong": 12_345_678.0}
        return Cell(stream.name, chunking, 1, 99, {name: times[name] for name in names})

    monkeypatch.setattr(measure, "measure", measured)
    assert run("--streams", "e1", "--chunks", "16 bytes") == 0
    nanoseconds, times, *_ = capsys.readouterr().out.split("\n\n")
    found = [list(rows(table.splitlines()[4:]).values()) for table in (nanoseconds, times)]
    order = list(RIVALS)[:-1]
    values = {"sse_fast": ("100", "1.0"), PLAIN: ("994", "9.9"), "right": ("996", "10")}
    values["wrong"] = ("12,345,678", "123,457")
    assert found == [[[values[name][column]] for name in order] for column in (0, 1)]


def test_own_parser_wrong_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RIVALS, OURS[0], Rival(OURS[0], "", lambda: lose_the_ids))
    assert run("--streams", "c") == 1
    _, times, *_ = capsys.readouterr().out.split("\n\n")
    assert {cell for cells in rows(times.splitlines()[4:]).values() for cell in cells} == {
        "wrong",
        "-",
    }


def test_without_extension_measures_plain_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sse_fast._core.parser_c", None)
    monkeypatch.setitem(RIVALS, "sse_fast", Rival("sse_fast", "", nothing))
    assert run("--streams", "d", "--plot", "p.svg") == 0
    output = capsys.readouterr().out
    ratios = rows(output.split("\n\n")[1].splitlines()[4:])
    assert ratios[f"{PLAIN} {sse_fast.__version__}"] == ["1.0"]
    assert FLOOR not in output
    assert "missing: sse_fast: sse_fast is not available" in output
    assert FLOOR not in Path("p.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        (("--streams", "b", "au", "b"), [("b", "one event"), ("au", "one event")]),
        (("--chunks", "whole"), [(name, "whole") for name in "abcd"]),
        (
            ("--streams", "d", "--chunks", "1 byte", "4 KiB"),
            [("d", "1 byte"), ("d", "4 KiB")],
        ),
        ((), list(bench.COLUMNS)),
    ],
)
def test_options_choose_columns(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], columns: list[tuple[str, str]]
) -> None:
    run(*arguments, "--json")
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [(cell["stream"], cell["chunks"]) for cell in cells] == columns


def test_javascript_parsers_from_given_folder(
    node: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run("--streams", "d", "--node-modules", "any", "--plot", "p.svg")
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"  7,000$", next(line for line in lines if f"{SCRIPT} 9.8.7" in line))
    assert f"missing: {OTHER_SCRIPT}: The npm package is missing: npm install" in lines
    assert "Node 99.1.0" in lines
    assert set(node) == {Path("any")}
    assert "Hatched: JavaScript" in Path("p.svg").read_text()


def test_javascript_parsers_from_current_folder(node: list[Any]) -> None:
    run("--streams", "d")
    assert set(node) == {None}


# -- JSON ---------------------------------------------------------------------------------------


def test_json_has_all_measurements(node: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--streams", "c", "d") == 0
    output, error = capsys.readouterr()
    assert error == ""
    found = json.loads(output)
    assert found["sse_fast"] == sse_fast.__version__
    assert found["machine"] == {**machine.describe(), "node": "99.1.0"}
    assert found["command"] == "sse-fast bench --any"
    assert list(found["streams"]) == ["c", "d"]
    ours = dict.fromkeys(OURS, sse_fast.__version__)
    assert found["parsers"] == {**ours, "right": "1.0", "wrong": "1.0", SCRIPT: "9.8.7"}
    assert list(found["missing"]) == ["absent", OTHER_SCRIPT]
    c, d = found["cells"]
    assert (d["stream"], d["chunks"], d["events"], d["bytes"]) == ("d", "one event", 20, 260)
    floors = {FLOOR, "lines only", "empty calls"} if sse_fast.ACCELERATED else set()
    assert set(d["ns_per_event"]) == {*found["parsers"], *floors}
    assert d["ns_per_event"][SCRIPT] == 7000
    assert d["wrong"] == {}
    assert set(c["ns_per_event"]) == {*found["parsers"], *floors} - {"wrong"}
    assert c["wrong"]["wrong"].startswith("event 1: expected (")


# -- the plot --------------------------------------------------------------------------------


def test_plot_png_is_opaque() -> None:
    from matplotlib.image import imread

    assert run("--plot", "p.png", "--streams", "c", "d") == 0
    pixels = imread("p.png")
    height, width, _ = pixels.shape
    assert width > 1000
    assert height > 300
    # The background is opaque, as the page may be dark.
    assert (pixels[..., 3] == 1).all()
    light = pixels[..., :3].min(axis=2) > 0.97
    assert 0.8 < light.mean() < 1
    # The bar of sse_fast is much darker than the others.
    assert pixels[..., :3].mean(axis=2).min() < 0.35


def test_plot_svg_is_reproducible(node: list[Any]) -> None:
    from matplotlib import rcParams

    from sse_fast._bench import plot

    settings = dict(rcParams)
    cells = [
        Cell(
            "a", "one event", 1, 1, {"sse_fast": 75.0, "right": 1530.0, SCRIPT: 400.0, FLOOR: 52.0}
        ),
        Cell("a", "64 KiB", 1, 1, {"sse_fast": 100.0, "right": 250.0}, {SCRIPT: "event 1"}),
    ]
    labels = {"sse_fast": "sse_fast 1", "right": "right 2", SCRIPT: "script 3", "none": "none 4"}
    for name in ("1.svg", "2.svg"):
        plot.draw(Path(name), cells, labels, {"a": "some <stream>"}, ["a note", "", "a date"])
    assert dict(rcParams) == settings
    # The same numbers give the same bytes.
    assert Path("1.svg").read_bytes() == Path("2.svg").read_bytes()
    text = Path("1.svg").read_text()
    texts = re.findall(r"<text[^>]*>(.*?)</text>", text)
    for expected in (
        "75",
        "1,530  (20 times)",
        "400  (5.3 times)",
        "52",
        "250  (2.5 times)",
        "gives wrong events",
        "Nanoseconds per event",
        "a note",
        "a date",
        "one event per chunk",
        "64 KiB per chunk",
        FLOOR,
    ):
        assert texts.count(expected) == (2 if expected == FLOOR else 1), expected
    assert texts.count("a: some &lt;stream&gt;") == 2
    assert texts.count("script 3") == 2
    # A parser without any number has no row.
    assert "none 4" not in texts
    assert "<dc:date>" not in text
    assert "matplotlib" not in text.lower().replace("matplotlib.axis", "")
    assert str(Path.cwd()) not in text


def test_plot_file_is_small() -> None:
    assert run("--plot", "p.svg") == 0
    assert 10_000 < Path("p.svg").stat().st_size < 100_000


def test_plot_without_any_number() -> None:
    from sse_fast._bench import plot

    cells = [Cell("a", "whole", 1, 1, {}, {"sse_fast": "event 1"})]
    plot.draw(Path("p.svg"), cells, {"sse_fast": "sse_fast 1"}, {"a": "any"}, [])
    assert "Nanoseconds" in Path("p.svg").read_text()


# -- failures, reported before anything is measured ------------------------------------------


@pytest.fixture
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: Any, **options: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr(measure, "measure", measured)


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plot", "p.pdf"), "--plot writes .png or .svg, not 'p.pdf'"),
        (("--plot", "png"), "--plot writes .png or .svg, not 'png'"),
        (
            ("--streams", "z"),
            "--streams: expected one of 'a', 'au', 'b', 'c', 'd', 'e1', 'e2', got 'z'",
        ),
        (("--chunks", "2 KiB"), "'16 bytes', '1 byte', got '2 KiB'"),
        (("--seconds", "0"), "--seconds must be above 0, not 0"),
        (("--seconds", "inf"), "--seconds must be above 0, not inf"),
        (("--seconds", "x"), "invalid float value: 'x'"),
        (("any",), "unrecognized arguments: any"),
    ],
)
def test_wrong_options_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *arguments)
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("_unmeasured")
def test_plot_missing_folder_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--plot", "no/p.png") == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"sse-fast: no.p\.png: No such file or directory\n", error)


@pytest.mark.usefixtures("_unmeasured")
def test_plot_unwritable_file_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.png").mkdir()
    assert run("--plot", "p.png") == 1
    assert capsys.readouterr().err.startswith("sse-fast: p.png: ")


@pytest.mark.usefixtures("_unmeasured")
def test_plot_keeps_old_file_until_measured() -> None:
    Path("p.png").write_bytes(b"before")
    for _ in range(2):
        with pytest.raises(AssertionError, match="measured"):
            run("--plot", "p.png")
        assert Path("p.png").read_bytes() == b"before"
    with pytest.raises(AssertionError, match="measured"):
        run("--plot", "other.png")
    assert not Path("other.png").exists()
    # A link to a file that does not exist stays.
    Path("link.png").symlink_to("target.png")
    with pytest.raises(AssertionError, match="measured"):
        run("--plot", "link.png")
    assert Path("link.png").is_symlink()
    assert not Path("target.png").exists()


def test_plot_ending_ignores_case() -> None:
    assert run("--streams", "d", "--plot", "P.SVG") == 0
    assert "<svg" in Path("P.SVG").read_text()


def test_without_standard_error_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python sets sys.stderr to None where it was closed."""
    monkeypatch.setattr(sys, "stderr", None)
    assert run("--streams", "d") == 0


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize(
    ("library", "arguments"), [("rich", ()), ("matplotlib", ("--plot", "p.png"))]
)
def test_missing_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    library: str,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert run(*arguments) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(
        f"sse-fast: `sse-fast bench` needs {library} .*: pip install 'sse-fast\\[bench\\]'\n", error
    )
    assert not list(Path.cwd().iterdir())


def test_without_matplotlib_prints_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--streams", "d") == 0
    assert DOMINATES in capsys.readouterr().out


# -- in a process of its own -------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "sse_fast", "bench", "--seconds", "0.0001", "--streams", "c"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    monkeypatch.undo()
    # Stand-ins for two libraries that take seconds to import.
    for name in ("anthropic", "openai"):
        (tmp_path / f"{name}.py").touch()
    return {**os.environ, "COLUMNS": "40", "PYTHONIOENCODING": "utf-8"}


def test_piped_output_is_plain_text(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    # No progress bar, no colour, and no number is cut in a narrow terminal.
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "…" not in done.stdout
    numbers = rows(done.stdout.split("\n\n")[0].splitlines()[4:])
    for name, rival in RIVALS.items():
        if f"missing: {name}: " not in done.stdout:
            assert re.fullmatch(r"[\d,]+", numbers[f"{name} {rival.version()}"][0])
    assert "missing: openai: openai==" in done.stdout
    assert PLAIN in done.stdout.split("\n\n")[0]
    assert done.stdout.count("(JS)") >= 2


def test_terminal_shows_progress_bar(environment: dict[str, str], tmp_path: Path) -> None:
    """A progress bar on standard error, removed at the end."""
    pty = pytest.importorskip("pty")
    near, far = pty.openpty()
    environment.update(TERM="xterm", COLUMNS="80")
    with subprocess.Popen(
        [*COMMAND, "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=far
    ) as process:
        os.close(far)
        shown = read_terminal(near)
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["cells"]
    os.close(near)
    assert process.returncode == 0
    assert b"c, one event" in shown
    assert b"100%" in shown
    # The bar is removed at the end.
    assert shown.rstrip().endswith((b"\x1b[2K", b"\x1b[?25h")), shown[-40:]


def test_ascii_output_encoding(environment: dict[str, str], tmp_path: Path) -> None:
    environment["PYTHONIOENCODING"] = "ascii"
    done = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert DOMINATES.encode() in done.stdout


def test_real_npm_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The npm packages, if they are installed in this checkout."""
    monkeypatch.undo()
    try:
        javascript.find(SCRIPT, ROOT)
    except ImportError as error:
        pytest.skip(str(error))
    for name in set(RIVALS) - {PLAIN}:
        monkeypatch.delitem(RIVALS, name)
    run("--streams", "d", "--node-modules", str(ROOT), "--json")
    assert json.loads(capsys.readouterr().out)["cells"][0]["ns_per_event"][SCRIPT] > 0


# -- the machine --------------------------------------------------------------------------------


def test_machine_describe_has_all_keys() -> None:
    about = machine.describe()
    assert list(about) == ["cpu", "os", "python", "date"]
    assert re.fullmatch(r".+, \d+ logical cores, \S+", about["cpu"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["date"])
    version = ".".join(map(str, sys.version_info[:3]))
    assert about["python"].split(", ")[0].endswith(f" {version}")


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows", "Plan 9"])
def test_describe_unknown_processor(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr(Path, "read_text", lambda self: "processor\t: 0\n")
    # PATH is empty, so sysctl is not found.
    assert machine._processor() == "unknown processor"
