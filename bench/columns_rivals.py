"""Readers of text as lines into columns: DuckDB, pyarrow.csv and Polars, each at its fastest.

The text has the data of one event per line. Nothing is split, quoted or escaped, and all readers
validate UTF-8, as columns of events do. Each is tried with several settings, from a file in the
page cache and from memory if it can, and the fastest counts. "In passing": every line is a value
that is visited (its length is added up, or its batch counted) and dropped. "As a table": all
lines are kept.

`POLARS_MAX_THREADS` sets the number of threads of Polars when it is imported: `import_polars`
sets 1. With all threads it is timed in another process, by

    python bench/columns_rivals.py KIND SETTING FILE ROUNDS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

TABLE, PASSING = "as a table", "in passing"
_NOWHERE = "\x01"
"""A delimiter that occurs in no text."""
_THREADS = "POLARS_MAX_THREADS"


class Text(NamedTuple):
    path: Path
    content: bytes
    """The same, in memory."""


class Reading(NamedTuple):
    work: Callable[[], tuple[int, ...]]
    """The timed function; returns the number of lines and, for some, their length without ends."""
    lines: Callable[[], Any]
    """Return the lines as a chunked array, made by the same reader, for the check."""


Settings = dict[str, Callable[[Text], Reading]]


class Rival(NamedTuple):
    name: str
    load: Callable[[bool], dict[str, Settings]]
    """`load(all_threads)` imports the library and returns kind -> setting -> reading.

    Raises ImportError."""


# -- DuckDB ----------------------------------------------------------------------------------------


def _duckdb(all_threads: bool) -> dict[str, Settings]:
    duckdb = import_module("duckdb")
    connection = duckdb.connect(config={} if all_threads else {"threads": 1})

    def scan_of(text: Text, is_parallel: str) -> str:
        path = str(text.path).replace("'", "''")
        return (
            f"read_csv('{path}', columns={{'line': 'VARCHAR'}}, header=false, auto_detect=false, "
            f"delim='{_NOWHERE}', quote='', escape='', parallel={is_parallel})"
        )

    def lines(scan: str) -> Any:
        return connection.sql(f"SELECT line FROM {scan}").to_arrow_table()["line"]

    def passing(is_parallel: str, text: Text) -> Reading:
        scan = scan_of(text, is_parallel)

        def work() -> tuple[int, ...]:
            query = f"SELECT count(line), sum(strlen(line)) FROM {scan}"
            return tuple(map(int, connection.sql(query).fetchall()[0]))

        return Reading(work, lambda: lines(scan))

    def arrow(is_parallel: str, text: Text) -> Reading:
        scan = scan_of(text, is_parallel)
        return Reading(lambda: (len(lines(scan)),), lambda: lines(scan))

    def table(is_parallel: str, text: Text) -> Reading:
        scan = scan_of(text, is_parallel)

        def work() -> tuple[int, ...]:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE lines AS SELECT line FROM {scan}")
            (count,) = connection.sql("SELECT count(*) FROM lines").fetchall()[0]
            connection.execute("DROP TABLE lines")
            return (int(count),)

        return Reading(work, lambda: lines(scan))

    def settings(name: str, make: Any) -> Settings:
        return {
            f"{name}, parallel={is_parallel}": partial(make, is_parallel)
            for is_parallel in ("true", "false")
        }

    return {
        PASSING: settings("sum(strlen(line))", passing),
        TABLE: settings("CREATE TEMP TABLE", table) | settings("to_arrow_table", arrow),
    }


# -- pyarrow ---------------------------------------------------------------------------------------


def _pyarrow(all_threads: bool) -> dict[str, Settings]:
    pyarrow, csv = import_module("pyarrow"), import_module("pyarrow.csv")

    def read(reader: Any, kibibytes: int, text: Text) -> Any:
        return reader(
            pyarrow.BufferReader(text.content),
            csv.ReadOptions(
                use_threads=all_threads, block_size=kibibytes * 2**10, column_names=["line"]
            ),
            csv.ParseOptions(
                delimiter=_NOWHERE, quote_char=False, escape_char=False, ignore_empty_lines=False
            ),
            csv.ConvertOptions(column_types={"line": pyarrow.string()}),
        )

    def table(kibibytes: int, text: Text) -> Reading:
        whole = partial(read, csv.read_csv, kibibytes, text)
        return Reading(lambda: (whole().num_rows,), lambda: whole()["line"])

    def passing(kibibytes: int, text: Text) -> Reading:
        batches = partial(read, csv.open_csv, kibibytes, text)
        return Reading(
            lambda: (sum(batch.num_rows for batch in batches()),),
            lambda: pyarrow.Table.from_batches(batches())["line"],
        )

    sizes = {"256 KiB": 2**8, "1 MiB": 2**10, "4 MiB": 2**12}
    return {
        PASSING: {f"open_csv, {name}": partial(passing, size) for name, size in sizes.items()},
        TABLE: {f"read_csv, {name}": partial(table, size) for name, size in sizes.items()},
    }


# -- Polars ----------------------------------------------------------------------------------------


def import_polars(all_threads: bool = False) -> Any:
    if all_threads:
        return import_module("polars")
    os.environ[_THREADS] = "1"
    polars = import_module("polars")
    if polars.thread_pool_size() != 1:
        raise ImportError(f"Polars was imported before {_THREADS}=1 was set")
    return polars


def _polars(all_threads: bool) -> dict[str, Settings]:
    polars = import_polars(all_threads)
    csv: dict[str, Any] = {
        "has_header": False,
        "separator": _NOWHERE,
        "quote_char": None,
        "schema": {"line": polars.String},
    }
    scans: dict[str, Callable[[Any], Any]] = {
        "scan_csv(low_memory)": lambda source: polars.scan_csv(source, low_memory=True, **csv),
    }
    if hasattr(polars, "scan_lines"):
        scans["scan_lines"] = polars.scan_lines

    def scan_of(name: str, place: str, text: Text) -> Any:
        return scans[name](text.path if place == "a file" else text.content)

    def passing(name: str, place: str, text: Text) -> Reading:
        sizes = polars.col("line").str.len_bytes().cast(polars.Int64).sum()

        def work() -> tuple[int, ...]:
            scan = scan_of(name, place, text).select(polars.len(), sizes)
            return tuple(map(int, scan.collect(engine="streaming").row(0)))

        def lines() -> Any:
            return scan_of(name, place, text).collect(engine="streaming").to_arrow()["line"]

        return Reading(work, lines)

    def table(name: str, place: str, engine: str, text: Text) -> Reading:
        def whole() -> Any:
            return scan_of(name, place, text).collect(engine=engine)

        return Reading(lambda: (whole().height,), lambda: whole().to_arrow()["line"])

    places = ("a file", "memory")
    return {
        PASSING: {
            f"{name} of {place}, sum of lengths": partial(passing, name, place)
            for name in scans
            for place in places
        },
        TABLE: {
            f"{name} of {place}, collect {engine}": partial(table, name, place, engine)
            for name in scans
            for place in places
            for engine in ("in-memory", "streaming")
        },
    }


RIVALS = [Rival("DuckDB", _duckdb), Rival("pyarrow.csv", _pyarrow), Rival("Polars", _polars)]


def time_polars(kind: str, setting: str, text: Text, rounds: int) -> list[float]:
    """Return the seconds of Polars with all threads, round by round.

    Raises:
        OSError: the process failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != _THREADS}
    done = subprocess.run(
        [sys.executable, __file__, kind, setting, str(text.path), str(rounds)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"Cannot time Polars: {done.stderr.strip()[-400:]}")
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def main(kind: str, setting: str, path: str, rounds: str) -> None:
    reading = _polars(True)[kind][setting](Text(Path(path), Path(path).read_bytes()))
    seconds = []
    for _ in range(int(rounds)):
        begun = time.perf_counter()
        reading.work()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
