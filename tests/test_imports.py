"""The rooms import inward only: checked on the syntax tree of each file, and at run time."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import PACKAGE
from tests.support.commands import run_python

# Room -> the rooms it may import, besides itself: one row each, inward only. A file directly in the
# package is a room of its own.
CORE = {"_errors", "_hosts", "_interrupts", "_mime", "_seconds"}
STREAM = CORE | {"_background", "_core", "_source", "_wake"}
TRANSPORT = STREAM | {"_check", "_request", "_stream", "_stream_base", "_watch"}
ADAPTERS = TRANSPORT | {"_http1"}
POLICY = ADAPTERS | {"adapters"}
PUBLIC = POLICY | {"", "_client", "_relay", "columns", "compat"}
MAY_IMPORT = {
    "_errors": {"_seconds"},
    "_hosts": set(),
    "_interrupts": set(),
    "_seconds": set(),
    "_mime": set(),
    "_request": CORE,
    "_core": CORE,
    # The native interface, with the `.pxd` of the package.
    "lines": {"_core"},
    "_source": CORE,
    "_background": set(),
    "_wake": CORE | {"_background"},
    "_watch": CORE,
    "_stream_c": {"_core"},
    "_stream_base": STREAM | {"_watch"},
    "_stream": STREAM | {"_stream_base", "_stream_c", "_watch"},
    "_relay": STREAM,
    "_check": TRANSPORT,
    "_http1": TRANSPORT,
    "adapters": ADAPTERS,
    "_client": POLICY | {"_stream_c"},
    "columns": POLICY,
    "compat": CORE | {"_core"},
    "_bench": {"", "_core"},
    "_cli": PUBLIC | {"_bench"},
    "__main__": {"_cli"},
    "": PUBLIC,
}
# The state machine of the client decides without a clock, a socket or a sleep.
PURE = {"_errors", "_request", "_core", "_source", "_stream", "_stream_base", "_stream_c"}
PURE_FILES = {"_client/policy.py", "_client/reconnect.py"}
INPUT_AND_OUTPUT = {"asyncio", "http", "logging", "select", "selectors", "socket", "ssl"} | {
    "threading",
    "time",
    "datetime",
    "urllib.request",
}
_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
BENCH = {"rich", "matplotlib"} | {
    "anthropic",
    "assel",
    "httpx_sse",
    "ld_eventsource",
    "openai",
    "sseclient",
}
LIBRARIES = {"aiohttp", "anyio", "httptools", "httpx", "httpx2", "requests", "trio", "urllib3"} | {
    "idna"
}


def _imports_of(node: ast.AST) -> set[str]:
    names: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names.update(alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = child.module or ""
            names.add(module)
            # `from package import x` may name a module.
            directory = PACKAGE.parent.joinpath(*module.split("."))
            names.update(
                f"{module}.{alias.name}"
                for alias in child.names
                if any((directory / f"{alias.name}{end}").exists() for end in (".py", ".pyx"))
            )
    return names


def _is_type_checking(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imports(path: Path, *, only_at_import: bool = False) -> set[str]:
    """The modules that a file names; or those that importing it loads."""
    source = path.read_text()
    if path.suffix != ".py":
        return set(re.findall(r"^(?:from|import|cimport)\s+([\w.]+)", source, re.MULTILINE))
    tree = ast.parse(source)
    if only_at_import:
        tree.body = [
            node
            for node in tree.body
            if not _is_type_checking(node) and not isinstance(node, _LATER)
        ]
    return _imports_of(tree)


def room_of(path: Path) -> str:
    """The room that a file of the package is in: a folder, or a file directly in the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] == "__init__" else parts[0]


FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _rooms_imported(path: Path) -> set[str]:
    return {
        module.removeprefix("sse_fast").lstrip(".").partition(".")[0]
        for module in imports(path)
        if module.partition(".")[0] == "sse_fast"
    }


def test_every_room_has_a_row() -> None:
    assert {room_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_inward(path: Path) -> None:
    room = room_of(path)
    assert _rooms_imported(path) - {room} <= MAY_IMPORT[room]


def test_no_room_imports_in_a_circle() -> None:
    order: list[str] = []
    left = {room: wanted - {room} for room, wanted in MAY_IMPORT.items() if room != ""}
    while left:
        # The package's own face imports every room, and the outermost rooms import it.
        free = [room for room, wanted in left.items() if wanted - {""} <= set(order)]
        assert free, left
        order += free
        for room in free:
            del left[room]


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if room_of(path) in PURE or _name(path) in PURE_FILES],
    ids=_name,
)
def test_pure_rooms_do_no_io(path: Path) -> None:
    found = imports(path)
    assert not {module for module in found if module.partition(".")[0] in INPUT_AND_OUTPUT}
    assert not found & (INPUT_AND_OUTPUT | LIBRARIES)


# That one stands in for httpx-sse, whose exceptions are httpx's.
@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.suffix == ".py" and _name(path) != "compat/httpx_sse.py"],
    ids=_name,
)
def test_no_library_is_needed_to_import(path: Path) -> None:
    found = imports(path, only_at_import=True)
    assert not {module.partition(".")[0] for module in found} & LIBRARIES


def test_only_the_tables_name_an_adapter() -> None:
    """An adapter never imports another, and is loaded when an object of its library is given."""
    files = {f"sse_fast.adapters.{path.stem}" for path in (PACKAGE / "adapters").glob("[!_]*.py")}
    assert len(files) == 7
    for path in PACKAGE.rglob("*.py"):
        if _name(path) in ("adapters/_registry.py", "adapters/_clients.py"):
            assert not imports(path, only_at_import=True) & files, path
        elif _name(path) != "adapters/__init__.py":
            assert not imports(path) & files, path


@pytest.mark.parametrize(
    "line",
    [
        "import sse_fast.adapters.httpx",
        "from sse_fast.adapters import httpx",
        "from sse_fast.adapters.httpx import open_source",
        "def later():\n    from sse_fast.adapters import open_source, httpx",
    ],
)
def test_every_way_to_name_a_module_is_seen(line: str) -> None:
    assert "sse_fast.adapters.httpx" in _imports_of(ast.parse(line))


def test_the_lines_know_nothing_of_python() -> None:
    assert {module.partition(".")[0] for module in imports(PACKAGE / "_core" / "lines.pxd")} == {
        "libc"
    }
    source = (PACKAGE / "_core" / "lines.pxd").read_text()
    functions = re.findall(r"^cdef inline [^\"]*?:$", source, re.MULTILINE | re.DOTALL)
    assert len(functions) > 15
    assert all(function.endswith("noexcept nogil:") for function in functions)


def test_importing_the_package_loads_no_library(tmp_path: Path) -> None:
    """Nothing that a program which only parses would not want to wait for."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import sse_fast\n"
        "list(sse_fast.iter_events([b'data: a\\n\\n']))\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = set(run_python(script, directory=tmp_path).split())
    assert "sse_fast._stream" in loaded
    assert not {name.partition(".")[0] for name in loaded} & (
        LIBRARIES | {"asyncio", "ssl", "email"}
    )
    rooms = {name.split(".")[1] for name in loaded if name.startswith("sse_fast.")}
    assert not rooms & {"_http1", "_client", "columns", "compat", "_cli", "_bench"}
    adapters = {name for name in loaded if name.startswith("sse_fast.adapters.")}
    assert adapters == {"sse_fast.adapters._registry"}


def test_the_commands_do_without_what_others_need(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from sse_fast._cli import main\n"
        "main(['cat', '-'])\n"
        "for command in ('bench', 'convert'):\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert {"sse_fast._cli.bench", "sse_fast._cli.convert"} <= loaded
    assert not {name.partition(".")[0] for name in loaded} & (LIBRARIES | BENCH | {"pyarrow"})
    late = ("sse_fast._bench", "sse_fast.columns")
    assert not {name for name in loaded if name.startswith(late)}
