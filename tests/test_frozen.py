"""Frozen programs: every import is a statement of a Python file, which tools can follow."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import sse_fast
from tests.support import PACKAGE
from tests.test_imports import FILES, _imports_of, _is_type_checking

PYTHON = [path for path in FILES if path.suffix == ".py"]
CYTHON = [path for path in FILES if path.suffix == ".pyx" and path.stem != "floor_c"]
COMPUTED = {"import_module", "__import__"}


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


class _WithoutTypes(ast.NodeTransformer):
    """Removes the blocks that only type checkers read, as Nuitka does."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if _is_type_checking(node) else node


def named_by(path: Path) -> set[str]:
    """The modules that a Python file imports at run time, anywhere in it."""
    return _imports_of(_WithoutTypes().visit(ast.parse(path.read_text())))


@cache
def all_named() -> dict[str, set[str]]:
    """The modules that each module imports."""
    return {module_of(path): named_by(path) for path in PYTHON}


COMPILED = {module_of(path): path for path in CYTHON}


def needed_by(path: Path) -> set[str]:
    """The modules that an extension imports at run time: `cimport` loads other extensions."""
    source = path.read_text()
    needed = set()
    for base, names in re.findall(r"^from ([\w.]+) import ([^(\n]+)$", source, re.MULTILINE):
        parts = {name.split(" as ")[0].strip() for name in names.split(",")}
        modules = {f"{base}.{part}" for part in parts} & (all_named().keys() | COMPILED.keys())
        needed |= modules or {base}
    needed |= set(re.findall(r"^import ([\w.]+)", source, re.MULTILINE))
    loaded = set(re.findall(r"^(?:from|cimport) ([\w.]+)(?: cimport|$)", source, re.MULTILINE))
    return (needed | loaded & COMPILED.keys()) - set(sys.builtin_module_names)


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_import_is_computed(path: Path) -> None:
    names = {
        getattr(node, "id", getattr(node, "attr", getattr(node, "name", None)))
        for node in ast.walk(ast.parse(path.read_text()))
    }
    assert not names & COMPUTED


@pytest.mark.parametrize("path", CYTHON, ids=name_of)
def test_loader_names_imports_of_extension(path: Path) -> None:
    module = module_of(path)
    loaders = [
        name
        for name, named in all_named().items()
        if module in named and not name.startswith("sse_fast._bench")
    ]
    assert loaders
    # The first loader is enough: the others import it.
    assert any(needed_by(path) <= all_named()[loader] for loader in loaders)


def test_imports_of_extensions_are_found() -> None:
    assert needed_by(PACKAGE / "_core" / "parser_c.pyx") == {
        "types",
        "sse_fast._core.options",
        "sse_fast._errors",
    }
    assert needed_by(PACKAGE / "_stream_c.pyx") == {"sse_fast._core.parser_c"}
    assert needed_by(PACKAGE / "_client" / "_source_c.pyx") == {"sse_fast._stream_c"}
    assert needed_by(PACKAGE / "compat" / "_dialect_c.pyx") == {"sse_fast._core.parser_c"}


@pytest.mark.parametrize("start", ["sse_fast", "sse_fast._cli"])
def test_every_module_is_reached_by_imports(start: str) -> None:
    reached: set[str] = set()
    waiting = {start}
    named = all_named()
    while waiting:
        name = waiting.pop()
        if name in reached or name not in named.keys() | COMPILED.keys():
            continue
        reached.add(name)
        waiting |= named.get(name, set())
        # Importing a module imports its package.
        waiting |= {name.rpartition(".")[0]}
    left = {name for name in named.keys() | COMPILED.keys() if name not in reached}
    if start == "sse_fast":
        left = {name for name in left if name.split(".")[1] not in ("_cli", "_bench", "__main__")}
    else:
        left -= {"sse_fast.__main__"}
    # Only programs import these, in place of other libraries.
    assert left <= {"sse_fast.compat.sseclient"}


PROGRAM = """
import asyncio, gzip, http.client, json, socket, sys, threading, urllib.request
import sse_fast

listener = socket.create_server(("127.0.0.1", 0))
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nContent-Length: 9\\r\\n"
HEAD += b"Connection: close\\r\\n\\r\\n"

def answer(connection):
    with connection:
        while b"\\r\\n\\r\\n" not in connection.recv(65536):
            pass
        connection.sendall(HEAD + b"data: x\\n\\n")

def serve():
    while True:
        threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

threading.Thread(target=serve, daemon=True).start()
port = listener.getsockname()[1]
url = f"http://127.0.0.1:{port}/"
once = sse_fast.ReconnectPolicy.never()
CAPTURE = b"data: x\\n\\n"

def texts(events):
    return [event.data for event in events]

def http_client():
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    return texts(sse_fast.iter_events(connection.getresponse()))

def by_requests():
    import requests
    with requests.Session() as session:
        session.trust_env = False
        return texts(sse_fast.EventSource(url, client=session, policy=once))

def by_urllib3():
    import urllib3
    return texts(sse_fast.EventSource(url, client=urllib3.PoolManager(), policy=once))

def by_httpx():
    import httpx
    return texts(sse_fast.EventSource(url, client=httpx.Client(trust_env=False), policy=once))

def by_httpx2():
    import httpx2
    return texts(sse_fast.EventSource(url, client=httpx2.Client(trust_env=False), policy=once))

def by_aiohttp():
    import aiohttp
    async def read():
        async with aiohttp.ClientSession() as session:
            source = sse_fast.AsyncEventSource(url, client=session, policy=once)
            return [event.data async for event in source]
    return asyncio.run(read())

def by_own_async():
    async def read():
        return [event.data async for event in sse_fast.AsyncEventSource(url, policy=once)]
    return asyncio.run(read())

def stream_reader():
    async def read():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        await reader.readuntil(b"\\r\\n\\r\\n")
        try:
            return [event.data async for event in sse_fast.aiter_events(reader)]
        finally:
            writer.close()
    return asyncio.run(read())

def a_socket():
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        head = b""
        while not head.endswith(b"\\r\\n\\r\\n"):
            head += connection.recv(1)
        return texts(sse_fast.iter_events(connection))

def zstd():
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return len(sse_fast.read_columns(zstd.compress(CAPTURE)))

def installed():
    done = []
    for name in sse_fast.compat.LIBRARIES:
        try:
            with sse_fast.install(name):
                done.append(name)
        except ImportError as error:
            if "is not installed" not in str(error):
                raise
    return done

def command():
    from sse_fast._cli import main
    with open(sys.argv[1], "wb") as file:
        file.write(CAPTURE)
    return main(["cat", sys.argv[1], "--json"])

def fast_path():
    bases = sse_fast.EventStream.__mro__
    return [base.__module__ for base in bases if base.__name__ == "_FastNext"]

found = {}
for name, run in {
    "accelerated": lambda: sse_fast.ACCELERATED,
    "fast path": fast_path,
    "bytes": lambda: texts(sse_fast.iter_events(CAPTURE)),
    "urllib.request": lambda: texts(sse_fast.iter_events(urllib.request.urlopen(url))),
    "http.client": http_client,
    "socket": a_socket,
    "StreamReader": stream_reader,
    "open_stream": lambda: texts(sse_fast.open_stream(url)),
    "EventSource": lambda: texts(sse_fast.EventSource(url, policy=once)),
    "AsyncEventSource": by_own_async,
    "requests": by_requests,
    "urllib3": by_urllib3,
    "httpx": by_httpx,
    "httpx2": by_httpx2,
    "aiohttp": by_aiohttp,
    "columns": lambda: len(sse_fast.read_columns(CAPTURE)),
    "gzip": lambda: len(sse_fast.read_columns(gzip.compress(CAPTURE))),
    "zstd": zstd,
    "compat": installed,
    "cat": command,
}.items():
    try:
        found[name] = run()
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found), file=sys.stderr)
"""
UNUSED = ("numpy", "pandas", "matplotlib", "PIL", "tkinter", "pytest", "hypothesis", "polars")
UNUSED += ("pyarrow", "duckdb", "IPython", "mypy", "Cython", "setuptools", "uvicorn", "hypercorn")


@pytest.mark.soak
@pytest.mark.skipif(os.environ.get("SSE_FAST_PURE", "") not in ("", "0"), reason="plain Python")
def test_frozen_program_runs_with_compiled_core(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    assert sse_fast.ACCELERATED
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # An editable installation is found by an import hook, which PyInstaller does not follow.
    where = str(Path(sse_fast.__file__).parents[1])
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "--onedir", "-y"]
    command += ["--paths", where, *(part for name in UNUSED for part in ("--exclude-module", name))]
    environment = {**os.environ, "PYINSTALLER_CONFIG_DIR": str(tmp_path / "cache")}
    built = subprocess.run(
        [*command, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    # The program must not find the package of this environment.
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    done = subprocess.run(
        [tmp_path / "dist" / "program" / "program", tmp_path / "capture"],
        env={**environment, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = json.loads(done.stderr.splitlines()[-1])
    read = ["x"]
    libraries = [name for name in sse_fast.compat.LIBRARIES if find_spec(name) is not None]
    sources = ("bytes", "urllib.request", "http.client", "socket", "StreamReader", "open_stream")
    clients = ("EventSource", "AsyncEventSource", "requests", "urllib3", "httpx", "httpx2")
    assert found == {
        "accelerated": True,
        "fast path": ["sse_fast._stream_c"],
        **dict.fromkeys((*sources, *clients, "aiohttp"), read),
        **dict.fromkeys(("columns", "gzip", "zstd"), 1),
        "compat": libraries,
        "cat": 0,
    }
    assert json.loads(done.stdout)["data"] == "x"
