"""`sse-fast bench`: time the parser beside others on this machine."""

from __future__ import annotations

import argparse
import io
import json
import math
import shlex
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sse_fast import __version__
from sse_fast._cli._output import check_writable

# Modules that time and draw are imported late, since other commands do not need them.
if TYPE_CHECKING:
    from collections.abc import Callable

    from sse_fast._bench.measure import Cell
    from sse_fast._bench.streams import Stream

COLUMNS = (
    ("a", "one event"),
    ("a", "64 KiB"),
    ("b", "one event"),
    ("c", "one event"),
    ("d", "one event"),
)
# The objects of the default number of ticks would not fit into a processor's cache.
SIZES = {"d": 2000}
FLOORS = {
    "objects only": "a native loop makes the same lists, events and texts, without parsing",
    "lines only": "a native loop finds the end of every line and does nothing else",
    "empty calls": "a native method takes each chunk and does nothing",
}
DOMINATES = """\
In a real program the parser is a small part: the HTTP library takes
1,000 to 10,000 ns per event, and decoding the JSON 500 to 7,000 ns.
"""
NOISE = "Compare the ratios: on a busy machine, times vary by up to a third."


class Report(NamedTuple):
    """The measurements and their circumstances."""

    cells: list[Cell]
    """The columns of the table."""
    streams: dict[str, str]
    """Stream -> description."""
    versions: dict[str, str]
    """Parser -> version; the rows of the table."""
    missing: dict[str, str]
    """Parser -> why it is not available."""
    machine: dict[str, str]
    command: str

    @property
    def ours(self) -> str:
        """The name of sse_fast's parser."""
        return next(iter(self.versions))

    def labels(self) -> dict[str, str]:
        """Return the label of each parser: its name and version."""
        return {name: f"{name} {version}" for name, version in self.versions.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "Compare sse_fast with the parsers of other libraries, on streams in memory. "
        "A parser whose events are wrong gets no number. Needs the extra [bench]; JavaScript "
        "parsers take part if Node and their npm packages are installed."
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the result as .png or .svg")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    parser.add_argument(
        "--streams",
        metavar="NAME",
        nargs="+",
        help="a: like OpenAI's, au: the same with non-ASCII text, b: like Anthropic's, c: like "
        "Wikimedia's, d: ticks, e1 and e2: one event of 1 MiB, in one line and in many lines "
        "(default: a b c d)",
    )
    parser.add_argument(
        "--chunks",
        metavar="KIND",
        nargs="+",
        help="'one event', 'whole', '64 KiB', '4 KiB', '16 bytes' or '1 byte'; with small chunks "
        "some parsers take hours for e1 and e2 (default: 'one event', and '64 KiB' of stream a)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.4,
        help="minimum time of each parser in each column (default: %(default)s)",
    )
    parser.add_argument(
        "--node-modules",
        metavar="FOLDER",
        type=Path,
        help="where npm installed the JavaScript parsers (default: the current folder)",
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    # Wrong options and missing libraries are reported before the measurement, not after it.
    columns = _columns(arguments)
    _require("rich")
    if arguments.plot is not None:
        if arguments.plot.suffix.lower() not in (".png", ".svg"):
            arguments.fail(f"--plot writes .png or .svg, not {str(arguments.plot)!r}")
        _require("matplotlib")
        check_writable(arguments.plot)
    report = _measure(columns, arguments)
    if arguments.json:
        _print_json(report)
    else:
        _print(report)
    if arguments.plot is not None:
        from sse_fast._bench import plot

        notes = [*DOMINATES.splitlines(), "", report.machine["cpu"], report.machine["date"]]
        plot.draw(arguments.plot, report.cells, report.labels(), report.streams, notes)
    return 1 if any(report.ours in cell.wrong for cell in report.cells) else 0


def _columns(arguments: argparse.Namespace) -> list[tuple[Stream, str]]:
    """Return the columns: a stream and how it is cut into chunks."""
    from sse_fast._bench.streams import CHUNKINGS, STREAMS, make

    streams: list[str] = arguments.streams or ["a", "b", "c", "d"]
    chunkings: list[str] = arguments.chunks or ["one event"]
    for option, given, known in (
        ("streams", streams, STREAMS),
        ("chunks", chunkings, CHUNKINGS),
    ):
        for name in given:
            if name not in known:
                names = ", ".join(map(repr, known))
                arguments.fail(f"--{option}: expected one of {names}, got {name!r}")
    if not 0 < arguments.seconds < math.inf:
        arguments.fail(f"--seconds must be above 0, not {arguments.seconds:g}")
    chosen = arguments.streams or arguments.chunks
    pairs = dict.fromkeys(product(streams, chunkings) if chosen else COLUMNS)
    made = {name: make(name, SIZES.get(name)) for name, _ in pairs}
    return [(made[name], chunking) for name, chunking in pairs]


def _require(library: str) -> None:
    try:
        if library == "rich":
            import rich  # noqa: F401
        else:
            assert library == "matplotlib", f"no branch for the library {library!r}"
            import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"`sse-fast bench` needs {library} ({error}): pip install 'sse-fast[bench]'"
        ) from error


def _measure(columns: list[tuple[Stream, str]], arguments: argparse.Namespace) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    from sse_fast._bench import machine
    from sse_fast._bench.measure import measure

    # sys.stderr is None in a process without one.
    stderr = sys.stderr or io.StringIO()
    # The bar is drawn between turns: a refresh thread would disturb the measurement.
    with Progress(
        console=Console(file=stderr),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not stderr.isatty(),
    ) as bar:
        task = bar.add_task("looking for parsers", total=len(columns))
        bar.refresh()
        versions, missing, node = _find(arguments.node_modules)
        cells: list[Cell] = []

        def show(share: float) -> None:
            bar.update(task, completed=len(cells) + share, refresh=True)

        for stream, chunking in columns:
            bar.update(task, description=f"{stream.name}, {chunking}", refresh=True)
            cells.append(
                measure(
                    stream,
                    chunking,
                    versions,
                    arguments.seconds,
                    floor="sse_fast" in versions,
                    folder=arguments.node_modules,
                    progress=show,
                )
            )
            missing.update(cells[-1].missing)
    command = shlex.join(["sse-fast", *sys.argv[1:]])
    streams = {stream.name: stream.what for stream, _ in columns}
    return Report(cells, streams, versions, missing, {**machine.describe(), **node}, command)


def _find(folder: Path | None) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return the versions of the available parsers, why others are missing, and Node's version."""
    from sse_fast._bench import javascript
    from sse_fast._bench.rivals import RIVALS

    versions, missing, node = {}, {}, {}
    for rival in RIVALS.values():
        try:
            rival.load()
            versions[rival.name] = rival.version()
        except ImportError as error:
            missing[rival.name] = str(error)
    for name in javascript.JAVASCRIPT:
        try:
            versions[name], node["node"] = javascript.find(name, folder)
        except ImportError as error:
            missing[name] = str(error)
    return versions, missing, node


def _print_json(report: Report) -> None:
    cells = [
        {
            "stream": cell.stream,
            "chunks": cell.chunking,
            "events": cell.events,
            "bytes": cell.size,
            "ns_per_event": {name: round(cell.per_event(name), 1) for name in cell.times},
            "wrong": cell.wrong,
        }
        for cell in report.cells
    ]
    found = {
        "sse_fast": __version__,
        "machine": report.machine,
        "command": report.command,
        "streams": report.streams,
        "parsers": report.versions,
        "missing": report.missing,
        "cells": cells,
    }
    print(json.dumps(found, indent=1))


def _print(report: Report) -> None:
    floors = {name: name for name in FLOORS if name in report.cells[0].times}

    def nanoseconds(cell: Cell, name: str) -> str:
        return f"{cell.per_event(name):,.0f}"

    def times(cell: Cell, name: str) -> str:
        if report.ours not in cell.times:
            return "-"
        ratio = cell.ratio(name, report.ours)
        return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"

    labels = report.labels()
    _print_table("Nanoseconds per event", report.cells, {**labels, **floors}, nanoseconds)
    print()
    _print_table("Time relative to row 1", report.cells, labels, times)
    print()
    notes = {**report.streams, **{name: FLOORS[name] for name in floors}}
    width = max(map(len, notes))
    for name, what in notes.items():
        print(f"{name:<{width}}  {what}")
    print()
    for cell in report.cells:
        for name, what in cell.wrong.items():
            print(f"wrong: {labels[name]} ({cell.stream}, {cell.chunking}): {what}")
    for name, why in report.missing.items():
        print(f"missing: {name}: {why}")
    about = dict(report.machine)
    date = about.pop("date")
    if "node" in about:
        about["node"] = f"Node {about['node']}"
    print("\n".join(about.values()))
    print(f"{date}, by {report.command}\n")
    print(DOMINATES + NOISE)


def _print_table(
    title: str, cells: list[Cell], rows: dict[str, str], number: Callable[[Cell, str], str]
) -> None:
    """Print a table; `rows` maps each parser to its label."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    # A console of the terminal's width would cut the numbers.
    console = Console(width=10_000, highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(title, vertical="bottom", no_wrap=True)
    for cell in cells:
        head = "\n".join([cell.stream, *cell.chunking.split()])
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True, min_width=6)
    for position, (name, label) in enumerate(rows.items()):
        texts = [
            number(cell, name) if name in cell.times else "wrong" if name in cell.wrong else "-"
            for cell in cells
        ]
        table.add_row(label, *texts, style=None if position else "bold")
    console.print(table)
