"""Columns leak no memory, and touch no memory that is not theirs."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.support import DATA, IMPORT_TESTS, PACKAGE
from tests.support.columnar import DATA_TYPES
from tests.support.compiling import COMPILER

# -- Leaks -----------------------------------------------------------------------------------------

MEASURE = """
import ctypes, gc, gzip, json, os, sys, tempfile, threading, time
from tests.support import columnar_release as c
from tests.support.columnar import MIXED, segments_of
from sse_fast import EventTooLarge, SSEError, iter_columns, read_columns
from sse_fast.columns import _readers

DATA_TYPE = sys.argv[1]
LARGE = MIXED * 60
folder = tempfile.TemporaryDirectory()
packed = os.path.join(folder.name, "packed")
with open(packed, "wb") as file:
    file.write(gzip.compress(LARGE)[:-400])

def read(source=MIXED, size=2**20, **options):
    _readers.SEGMENT_SIZE = size
    return read_columns(source, data_type=DATA_TYPE, offset=True, **options)

def iterate(source=MIXED, **options):
    return iter_columns(source, data_type=DATA_TYPE, **options)

def one(): c.release(c.take(read()))
def many(): c.release(c.take(read(size=40)))
def no_text(): c.release(c.take(read(b"data\\n\\ndata\\n\\n", size=1)))
def nothing(): c.release(c.take(read(b"data: x\\n\\n")))
def threads(): c.release(c.take(read(LARGE, size=999, threads=2)))
def not_taken(): read().__arrow_c_schema__(), read(size=40).__arrow_c_array__()
def stream_not_taken(): read().__arrow_c_stream__(), iterate().__arrow_c_stream__()
def without_the_gil(): c.release(c.take(read(bytearray(MIXED))), holding=False)
def held():
    kept = c.take(read(size=40))
    children = c.take_children(kept)
    c.release(kept)
    for child in children[::-1]:
        c.release(child)
def in_a_thread():
    array = c.take(read(bytearray(MIXED)))
    thread = threading.Thread(target=c.release, args=(array,))
    thread.start()
    thread.join()
def too_large():
    for options in ({"oversize": "skip"}, {}):
        try:
            read(LARGE, max_event_size=35, size=500, **options)
        except EventTooLarge as error:
            error.columns.__arrow_c_array__()
def cut_off():
    try:
        read(packed)
    except SSEError as error:
        c.release(c.take(error.columns))
def drained(): [batch.__arrow_c_array__() for batch in iterate([LARGE], batch_size=7)]
def left():
    stream = iterate(LARGE, batch_bytes=500, threads=2)
    next(stream), next(stream)
def closed():
    with iterate(LARGE, batch_bytes=500, threads=2) as stream:
        kept = c.take(next(stream))
    c.release(kept)
def left_in_an_event(): list(iterate([b"id: " + b"i" * 99 + b"\\ndata: x\\ndata: \\xff", b"y"]))
def types(): read(b"".join(b"event: %d\\ndata\\n\\n" % n for n in range(300)), size=99)
def mapped(): c.release(c.take(read(b"data: some text\\n\\n" * 300_000, size=2**25)))

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo

def in_use():
    for _ in range(1000):
        gc.collect()
        if threading.active_count() == 1:
            break
        time.sleep(0.01)
    read_columns(b"")
    info = mallinfo()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    return info.uordblks + info.hblkhd, pages * 4096

ROUNDS = 60
grown = {}
for work in (
    one, many, nothing, threads, not_taken, stream_not_taken, without_the_gil, held, in_a_thread,
    too_large, cut_off, drained, left, closed, left_in_an_event, types, mapped,
):
    rounds = ROUNDS if work is not mapped else 10
    for _ in range(rounds // 5):
        work()
    before = in_use()
    for _ in range(rounds):
        work()
    after = in_use()
    grown[work.__name__] = [(b - a) / rounds for a, b in zip(before, after)]
print(json.dumps(grown))
"""


@pytest.mark.soak
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="the C library does not tell how much memory is in use",
)
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="this Python cannot run with malloc alone",
)
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_memory_in_use_does_not_grow(data_type: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_TESTS + MEASURE, data_type],
        env={
            **os.environ,
            "PYTHONMALLOC": "malloc",
            # One heap without caches, whose content would count as in use.
            "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1",
        },
        cwd=DATA,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert len(grown) == 17
    print(grown)
    for name, (used, mapped) in grown.items():
        # The smallest leak is 32 bytes in each round. In "left", threads that begin and end leave
        # some kilobytes to the next ones, less than a tenth of a batch.
        assert used < (400 if name == "left" else 24), name
        assert mapped < 2**19, name


# -- AddressSanitizer, UndefinedBehaviorSanitizer --------------------------------------------------

PROJECT = """
[build-system]
requires = ["setuptools>=80.9", "cython>=3.1,<4"]
build-backend = "setuptools.build_meta"
[project]
name = "sse-fast"
version = "0"
"""
# No huge pages: sanitizers do not know the borders of memory that was mapped directly.
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
setup(
    packages=find_packages(),
    ext_modules=cythonize([Extension(
        "sse_fast.columns._columns_c", ["sse_fast/columns/_columns_c.pyx"],
        include_dirs=["sse_fast/_core", "sse_fast/columns"],
        define_macros=[("SSE_FAST_NO_HUGE_PAGES", None), ("SSE_FAST_BULK", None)],
        extra_compile_args=flags, extra_link_args=flags,
    )]),
)
"""
USE = """
import random, sys
from tests.support import columnar_release as c
from tests.support.columnar import (
    DATA_TYPES, MIXED, interpret_blocks, iterate, pa, read, rows_of, segments_of,
)
from tests.support.reference import cut
from tests.core.test_properties import _PIECES
import sse_fast
from sse_fast.columns import _columns_c
assert _columns_c.__file__.startswith(sys.argv[1]), _columns_c.__file__

def exact(stream):
    # An object by itself, after whose end nothing may be read.
    return bytearray(stream)

rng = random.Random(1)
streams = [b"", MIXED]
streams += [b"".join(rng.choices(_PIECES, k=rng.randrange(60))) for _ in range(150)]
for stream in streams:
    limit, size = rng.choice([15, 2**20]), rng.randrange(1, 50)
    expected = interpret_blocks(stream, limit, True)
    options = {"max_event_size": limit, "oversize": "skip", "batch_size": rng.choice([1, 3, 99])}
    chunks = list(map(exact, cut(stream, range(size, len(stream), size))))
    for data_type in DATA_TYPES:
        options["data_type"] = data_type
        with segments_of(size):
            assert read(exact(stream), threads=1, **options) == expected
            assert iterate(exact(stream), threads=2, **options) == expected
        assert iterate(chunks, **options) == expected
for data_type in DATA_TYPES:
    for size in (1, 40, 2**20):
        with segments_of(size):
            columns = sse_fast.read_columns(exact(MIXED), data_type=data_type)
        tables = [pa.table(columns), pa.record_batch(columns)]
        array = c.take(columns)
        del columns
        children = c.take_children(array)
        c.release(array)
        for child in children[::-1]:
            c.release(child)
        for table in tables:
            table.validate(full=True)
            assert rows_of(table) == [row[:4] for row in interpret_blocks(MIXED).rows]
    empty = sse_fast.read_columns(b"", data_type=data_type)
    assert pa.record_batch(empty).num_rows == pa.table(empty).num_rows == 0
    many = b"".join(b"event: %d\\nid: %d\\ndata: %d\\n\\n" % (n % 999, n, n) for n in range(9000))
    with segments_of(9999):
        columns = sse_fast.read_columns(exact(many), data_type=data_type, threads=3)
    for name in sys.argv[2:]:
        library = __import__(name)
        if name == "polars":
            assert library.DataFrame(columns)["data"].cast(int).sum() == sum(range(9000))
        elif name == "pandas":
            assert len(library.DataFrame.from_arrow(columns)) == 9000
        elif name == "duckdb":
            with library.connect(config={"threads": 3}) as connection:
                connection.register("events", columns)
                total = connection.sql("select sum(data::int) from events").fetchall()
                assert total == [(sum(range(9000)),)]
print("over")
"""


def run(*command: str | Path, cwd: Path = DATA, **environment: str) -> Any:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package in which only columns are compiled, with sanitizers."""
    if sys.platform != "linux" or COMPILER is None:
        pytest.skip("no C compiler, or not Linux")
    source = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("target")
    trivial = source / "trivial.c"
    trivial.write_text("int f(void) { return 0; }\n")
    flags = ["-fsanitize=address,undefined", "-shared", "-fPIC"]
    if run(COMPILER, *flags, trivial, "-o", source / "trivial.so").returncode:
        pytest.skip("the compiler has no sanitizers to link with")
    shutil.copytree(PACKAGE, source / "sse_fast")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "setup.py").write_text(SETUP)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--target", target, source]
    built = run(sys.executable, *install, CC=COMPILER)
    if built.returncode and "No matching distribution found" in built.stdout:
        pytest.skip("the build requirements are not available")
    assert built.returncode == 0, built.stdout
    return target


@pytest.mark.sanitize
def test_sanitizers_find_nothing(sanitized: Path) -> None:
    libraries = []
    for name in ("polars", "pandas", "duckdb"):
        pytest.importorskip(name)
        libraries.append(name)
    preload = [
        run(str(COMPILER), f"-print-file-name={name}").stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    options = "halt_on_error=1:print_stacktrace=1"
    done = run(
        sys.executable, "-c", IMPORT_TESTS + USE, sanitized, *libraries, cwd=sanitized,
        PYTHONPATH=str(sanitized),
        # Give every Python object borders, too: chunks above all.
        PYTHONMALLOC="malloc",
        LD_PRELOAD=" ".join(preload),
        # Python and the libraries free much only at the end of the process.
        ASAN_OPTIONS=f"detect_leaks=0:{options}",
        UBSAN_OPTIONS=options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert done.stdout.endswith("over\n")
