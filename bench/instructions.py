"""Counts instructions per event, of `feed` and of streams: a gate, and a comparison of revisions.

    python bench/instructions.py --check       # the installed sse_fast against the record
    python bench/instructions.py --record      # the installed sse_fast becomes the record
    python bench/instructions.py d040967 HEAD  # each built by pip, from a clone

Times on a shared machine do not show a change of ten per cent; the number of instructions, which
valgrind counts, shows one of a thousandth. The figure is for `feed` and for freeing the events that
it returned: the start of the interpreter and the loop are counted separately, with a function that
does nothing in place of `feed`, and subtracted.

`iter_events` and `aiter_events` read stream a from a generator and an async generator, and a loop
over the events drops each. A loop over the generator alone is counted separately and subtracted. So
the figure has the parser, the stream and the caller's loop over the events; "a, one event" is what
`feed` takes of it.

`open_stream` and the other clients read stream a over loopback, from a server in a process of its
own, that sends an event in each chunk. A request for 1,000 events is subtracted, so the figure has
the reading and the decoding of chunks as well, but not what the kernel does.

Instructions in CPython and the C library count too, as their compiler made them. So
instructions.json has a record for each kind of environment: the Python, the compiler's major
version, the machine, the optimisation. --check exits with 1 if a figure is more than 10 % above its
record. Without a record, it says so and exits with 0, or with 2 with --required. Without valgrind
or the extension, it exits with 2.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn

from sse_fast._bench import streams

# Events of a measurement, enough to hide the start, which depends on the path and the environment.
EVENTS = 20_000
CASES = (
    ("a", "one event"),
    ("a", "64 KiB"),
    ("a", "16 bytes"),
    ("au", "64 KiB"),
    ("b", "one event"),
    ("c", "one event"),
    ("c", "64 KiB"),
    ("d", "one event"),
    ("d", "64 KiB"),
)
WAYS = (
    ("iter_events", "one event"),
    ("iter_events", "64 KiB"),
    ("aiter_events", "one event"),
    ("aiter_events", "64 KiB"),
)
"""Streams over an iterable, with stream a."""
CLIENTS = tuple(
    (way, "one event") for way in ("open_stream", "EventSource", "aopen_stream", "AsyncEventSource")
)
"""Requests over loopback, with stream a. In larger chunks, figures depend on the server: how much
of them is moved depends on where a read ends."""
FEW = 1000
"""Events of the request that is subtracted: it has the connection, and lets buffers grow."""
TOLERANCE = 0.10
RECORD = Path(__file__).with_name("instructions.json")

COUNTED = """
import gc, pickle, sys
from collections import deque
from sse_fast._core import parser_c

extension, chunks, events, rounds, call = sys.argv[1:]
assert parser_c.__file__ == extension, f"Expected {extension}, got {parser_c.__file__}"
# Small objects of every size, in several pools with room left: otherwise the length of the path
# decides how often `feed` needs a new pool.
kept = [[bytes(size) for _ in range(2000)][::2] for size in range(1, 480, 16)]
with open(chunks, "rb") as file:
    chunks = pickle.load(file)
feed = parser_c.Parser().feed
# Its runs depend on the number of objects, not only on those of `feed`.
gc.disable()
assert sum(len(feed(chunk)) for chunk in chunks) == int(events)
call = {"feed": feed, "none": callable}[call]
for _ in range(int(rounds)):
    deque(map(call, chunks), maxlen=0)
"""
COUNTING = """
def count(stream):
    count = 0
    for _ in stream:
        count += 1
    return count

async def count_async(stream):
    count = 0
    async for _ in stream:
        count += 1
    return count
"""
COUNTED_WAY = (
    COUNTED.partition("feed = ")[0]
    + COUNTING
    + """
import asyncio
import sse_fast

def generate(rounds):
    for _ in range(rounds):
        yield from chunks

async def agenerate(rounds):
    for _ in range(rounds):
        for chunk in chunks:
            yield chunk

def run(call, rounds):
    source = make(rounds)
    if call == "none":
        stream = source
    else:
        stream = getattr(sse_fast, way)(source)
    return count(stream) if way == "iter_events" else loop.run_until_complete(count_async(stream))

loop = asyncio.new_event_loop()
way, call = call.split()
make = {"iter_events": generate, "aiter_events": agenerate}[way]
gc.disable()
# It imports modules.
assert run("stream", 1) == int(events)
each = len(chunks) if call == "none" else int(events)
assert run(call, int(rounds)) == each * int(rounds)
"""
)
COUNTED_CLIENT = (
    COUNTING
    + """
import asyncio, gc, sys
import sse_fast
from sse_fast._core import parser_c

extension, url, events, way = sys.argv[1:]
assert parser_c.__file__ == extension, f"Expected {extension}, got {parser_c.__file__}"
gc.disable()
# Otherwise it would connect again.
policy = {"policy": sse_fast.ReconnectPolicy.never()} if way.endswith("EventSource") else {}
opened = getattr(sse_fast, way)(url, **policy)

async def read():
    async with opened as stream:
        return await count_async(stream)

if hasattr(opened, "__aenter__"):
    counted = asyncio.run(read())
else:
    with opened as stream:
        counted = count(stream)
assert counted == int(events), counted
"""
)


def give_up(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


def run(folder: Path, *command: str | Path) -> str:
    # The size of the environment makes a difference, so it has only what some Pythons need.
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    environment = {"PYTHONHASHSEED": "0", **kept}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        give_up(f"{command[0]} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout + done.stderr


def valgrind() -> str:
    return shutil.which("valgrind") or give_up("valgrind is not installed")


def count(folder: Path, python: tuple[str | Path, ...], *arguments: str) -> int:
    """Count the instructions of a program."""
    callgrind = (valgrind(), "--tool=callgrind", "--callgrind-out-file=/dev/null")
    output = run(folder, *callgrind, *python, *arguments)
    (collected,) = re.findall(r"Collected : (\d+)", output)
    return int(collected)


def find_folder(extension: Path) -> Path:
    """Return the folder of the sse_fast that this extension is part of: Python imports from it."""
    return extension.parent.parent.parent


def measure(extension: Path, case: tuple[str, str], rounds: int | None = None) -> float:
    """Count the instructions per event of the sse_fast that this extension is part of."""
    if case in CLIENTS:
        return measure_client(extension, case[0])
    name, chunking = case
    is_way = case in WAYS
    made = streams.make("a" if is_way else name)
    rounds = rounds or max(1, EVENTS // len(made.events))
    folder = find_folder(extension)
    with tempfile.TemporaryDirectory() as temporary:
        chunks = Path(temporary, "chunks")
        chunks.write_bytes(pickle.dumps(made.chunks(chunking)))
        counted = COUNTED_WAY if is_way else COUNTED
        python = (sys.executable, "-c", counted, extension, chunks, str(len(made.events)))
        calls = [f"{name} {call}" for call in ("stream", "none")] if is_way else ["feed", "none"]
        # Compiles Python files that are not compiled yet.
        run(folder, *python, "1", calls[0])
        counts = [count(folder, python, str(rounds), call) for call in calls]
    return (counts[0] - counts[1]) / rounds / len(made.events)


def measure_client(extension: Path, way: str, events: int = EVENTS) -> float:
    """Count the instructions of an event over loopback."""
    folder = find_folder(extension)
    python = (sys.executable, "-c", COUNTED_CLIENT, extension)
    with tempfile.TemporaryDirectory() as temporary, start_server(Path(temporary)) as server:

        def request(events: int) -> tuple[str, str, str]:
            url = server.url("flood", count=events, write="block")
            return url, str(events), way

        run(folder, *python, *request(FEW))
        few, many = (count(folder, python, *request(each)) for each in (FEW, FEW + events))
    return (many - few) / events


def start_server(folder: Path) -> Any:
    """Run the server of bench/loopback.py, as a context manager."""
    # Last: sse_fast is the installed one. Python looks only in the folder of this file, bench.
    sys.path.append(str(RECORD.parent.parent))
    from bench.loopback import start

    return start(folder)


def installed() -> Path:
    try:
        from sse_fast._core import parser_c
    except ImportError as error:
        give_up(f"sse_fast has no compiled extension here: {error}")
    return Path(parser_c.__file__).resolve()


def describe(extension: Path) -> dict[str, str]:
    """Describe the environment; compiler and Cython are known from traces in the extension."""
    image = extension.read_bytes()
    clang = re.search(rb"clang version (\d[\d.]*)", image)
    # GCC's string is in the output of clang too, as every program has parts made by GCC.
    gcc = re.search(rb"GCC: \([^\0]*?\) (\d[\d.]*)", image)
    compiler = f"clang {clang[1].decode()}" if clang else f"gcc {gcc[1].decode()}" if gcc else ""
    cython = re.search(rb"__Pyx_ImportType\w*?_(\d+_\d+_\d+\w*)", image)
    # The C library chooses its memcpy by this.
    cpu = Path("/proc/cpuinfo")
    avx2 = " with AVX2" if cpu.exists() and "avx2" in cpu.read_text().split() else ""
    configured = str(sysconfig.get_config_var("CONFIG_ARGS"))
    flags = str(sysconfig.get_config_var("CFLAGS"))
    optimisation = re.findall(r"--enable-optimizations|--with-lto|--with-pydebug", configured)
    optimisation += re.findall(r"(?<!\S)-O\w*", flags)[-1:]
    return {
        "python": platform.python_version() + sys.abiflags,
        "compiler": compiler or "unknown compiler",
        "machine": platform.machine() + avx2,
        "optimisation": " ".join(optimisation),
        "cython": cython[1].decode().replace("_", ".") if cython else "unknown",
        "libc": " ".join(platform.libc_ver()),
        "valgrind": run(Path.cwd(), valgrind(), "--version").strip(),
    }


def kind(environment: dict[str, str]) -> str:
    """Name the kind of environment: figures of the same kind can be compared."""
    # Letters for another build, free-threaded or debug, stay.
    python = re.sub(r"^(\d+\.\d+)\.\d+((a|b|rc)\d+)?\+?", r"\1", environment["python"])
    compiler = re.sub(r"(\d+)[\d.]*$", r"\1", environment["compiler"])
    return f"Python {python}, {compiler}, {environment['machine']}, {environment['optimisation']}"


def read(path: Path) -> dict[str, Any]:
    records: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return records


def record(path: Path, environment: dict[str, str], measured: dict[str, float]) -> None:
    """Write the figures, in place of those of the same kind of environment."""
    figures = {name: round(count, 1) for name, count in measured.items()}
    new = {kind(environment): {"environment": environment, "instructions": figures}}
    path.write_text(json.dumps(read(path) | new, indent=2, sort_keys=True) + "\n")


def check(
    path: Path, environment: dict[str, str], measured: dict[str, float], required: bool = False
) -> int:
    """Print the figures beside the record, and return the exit code."""
    records = read(path)
    found = records.get(kind(environment), {"environment": {}, "instructions": {}})
    code = 0
    for name, count in measured.items():
        recorded = found["instructions"].get(name)
        line = f"{name:<27}{count:8.1f}"
        if recorded is None:
            line += "  no record"
            code = code or (2 if required else 0)
        else:
            change = count / recorded - 1
            line += f"  {change:+.1%}"
            if change > TOLERANCE:
                line += f": expected at most {TOLERANCE:+.0%}"
                code = 1
            elif change < -TOLERANCE:
                line += ": renew the record, with --record"
        print(line)
    for name, value in found["environment"].items():
        if value != environment[name]:
            print(f"recorded with {name} {value}, here {environment[name]}")
    if not measured.keys() <= found["instructions"].keys():
        print(
            f"{path.name} has no record for {kind(environment)!r}, only for "
            f"{', '.join(map(repr, records)) or 'nothing'}: make one with --record at a good "
            "revision, or compare with that revision"
        )
    return code


def build(revision: str, folder: Path) -> Path:
    """Build a revision with pip, as users do."""
    here = Path(__file__).resolve().parent.parent
    clone, target = folder / "clone", folder / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target)
    for command in (
        ("git", "clone", "--quiet", here, clone),
        ("git", "-C", clone, "checkout", "--quiet", revision),
        (*pip, clone),
    ):
        environment = {**os.environ, "SSE_FAST_REQUIRE_EXTENSIONS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            give_up(f"Building {revision} failed with {done.returncode}:\n{done.stderr}")
    (extension,) = target.glob("sse_fast/_core/parser_c.*.so")
    return extension


def compare(revisions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        extensions = [
            build(revision, work / str(number)) for number, revision in enumerate(revisions)
        ]
        for case in CASES + WAYS + CLIENTS:
            counts = [measure(extension, case) for extension in extensions]
            line = "  ".join(
                f"{revision} {each:6.0f} ({each / counts[0] - 1:+.1%})"
                for revision, each in zip(revisions, counts, strict=True)
            )
            print(f"{', '.join(case):<27}{line}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Count the instructions per event.")
    parser.add_argument("revisions", nargs="*", help="revisions to build and compare")
    parser.add_argument("--check", action="store_true", help="compare with the record")
    parser.add_argument(
        "--required", action="store_true", help="with --check: exit with 2 without a record"
    )
    parser.add_argument("--record", action="store_true", help="write the record")
    options = parser.parse_args(arguments)
    if options.required and not options.check:
        parser.error("--required needs --check")
    if sum(map(bool, (options.revisions, options.check, options.record))) != 1:
        parser.error("give revisions, --check or --record")
    if not options.check and not options.record:
        compare(options.revisions)
        return 0
    extension = installed()
    environment = describe(extension)
    cases = CASES + WAYS + CLIENTS
    # Side by side: the load of the machine does not change the counts.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(measure, repeat(extension), cases)
        measured = {", ".join(case): count for case, count in zip(cases, counts, strict=True)}
    if options.record:
        record(RECORD, environment, measured)
    return check(RECORD, environment, measured, options.required)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
