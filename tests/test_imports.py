"""Who may import whom: inward only. Held against each file's syntax tree, and at run time."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sse_fast"

# File -> the modules of the package that it may name. Whoever adds a file adds a line.
CORE = {"_errors"}
STREAM = CORE | {"_parser", "_source"}
ADAPTER = STREAM | {"_stream", "_request"}
CLIENT = ADAPTER | {"adapters", "_reconnect"}
COMPAT = CORE | {"_parser", "_dialect", "compat"}
PUBLIC = ADAPTER | {"adapters", "_client", "columns", "compat", ""}
MAY_IMPORT = {
    "_lines.pxd": set(),
    "_buffers.pxd": set(),
    "_event_types.pxd": set(),
    "_rows.pxd": {"_event_types", "_lines"},
    "_errors.py": set(),
    "_parser_c.pyx": CORE | {"_buffers", "_lines"},
    "_columns_c.pyx": CORE | {"_buffers", "_event_types", "_lines", "_rows"},
    "_parser_py.py": CORE | {"_dialect"},
    "_dialect.py": set(),
    "_parser.py": CORE | {"_parser_c", "_parser_py"},
    "_source.py": CORE,
    "_request.py": set(),
    "_stream.py": STREAM,
    "adapters/__init__.py": ADAPTER,
    "adapters/_http1.py": ADAPTER,
    "adapters/_http1_asyncio.py": ADAPTER | {"adapters"},
    # "adapters" are the public functions of the package: what is below, the checks.
    "adapters/aiohttp.py": ADAPTER | {"adapters"},
    "adapters/asyncio.py": ADAPTER,
    "adapters/http_client.py": ADAPTER | {"adapters"},
    "adapters/httpx.py": ADAPTER | {"adapters"},
    "adapters/requests.py": ADAPTER | {"adapters"},
    "adapters/sockets.py": ADAPTER | {"adapters"},
    "adapters/urllib3.py": ADAPTER | {"adapters"},
    "_reconnect.py": ADAPTER,
    "_client_base.py": CLIENT,
    "_client.py": CLIENT | {"_client_base"},
    "_captures.py": STREAM,
    # The extension by name, when it is needed.
    "_batches.py": STREAM | {"_captures", "_stream"},
    "columns.py": CLIENT | {"_batches", "_captures"},
    "compat/__init__.py": COMPAT,
    "compat/_library.py": COMPAT,
    "compat/_sdk.py": COMPAT,
    "compat/_strict.py": COMPAT,
    "compat/anthropic.py": COMPAT,
    "compat/cohere.py": COMPAT,
    "compat/httpx2.py": COMPAT,
    "compat/httpx_sse.py": COMPAT,
    "compat/mistralai.py": COMPAT,
    "compat/openai.py": COMPAT,
    "compat/sseclient.py": COMPAT,
    "__init__.py": PUBLIC,
    "__main__.py": {"_cli"},
    "_bench/__init__.py": set(),
    # The rivals get their modules by name, sse_fast's own two among them.
    "_bench/javascript.py": {"_bench"},
    "_bench/machine.py": set(),
    "_bench/measure.py": {"_bench", "_parser_c", ""},
    "_bench/plot.py": {"_bench"},
    "_bench/rivals.py": {""},
    "_bench/streams.py": set(),
    "_cli/__init__.py": PUBLIC | {"_cli"},
    "_cli/_common.py": PUBLIC,
    "_cli/_server.py": PUBLIC,
    "_cli/_timing.py": PUBLIC,
    "_cli/bench.py": PUBLIC | {"_cli", "_bench"},
    "_cli/cat.py": PUBLIC | {"_cli"},
    "_cli/convert.py": PUBLIC | {"_captures", "_cli"},
    "_cli/demo.py": PUBLIC | {"_cli"},
    "_cli/doctor.py": PUBLIC,
    "_cli/record.py": PUBLIC | {"_cli"},
    "_cli/replay.py": PUBLIC | {"_cli"},
}
BELOW_THE_ADAPTERS = [
    name
    for name in MAY_IMPORT
    if re.match(r"_(errors|dialect|parser|source|stream|lines|request|reconnect)", name)
]
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
LIBRARIES = {"aiohttp", "anyio", "httptools", "httpx", "httpx2", "requests", "trio", "urllib3"}


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
                if (directory / f"{alias.name}.py").exists()
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


def test_every_file_has_its_line() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".pyx", ".pxd")
    }
    assert found == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_inward_only(name: str) -> None:
    ours = {
        module.removeprefix("sse_fast").lstrip(".").partition(".")[0]
        for module in imports(PACKAGE / name)
        if module.partition(".")[0] == "sse_fast"
    }
    assert ours <= MAY_IMPORT[name]


@pytest.mark.parametrize("name", BELOW_THE_ADAPTERS)
def test_no_input_and_output_below_the_adapters(name: str) -> None:
    found = imports(PACKAGE / name)
    assert not {module for module in found if module.partition(".")[0] in INPUT_AND_OUTPUT}
    assert not found & (INPUT_AND_OUTPUT | LIBRARIES)


# That one stands in for httpx-sse, whose exceptions are httpx's.
@pytest.mark.parametrize(
    "name", [name for name in MAY_IMPORT if re.fullmatch(r"(?!compat/httpx_sse).*\.py", name)]
)
def test_no_library_is_needed_to_import(name: str) -> None:
    found = imports(PACKAGE / name, only_at_import=True)
    assert not {module.partition(".")[0] for module in found} & LIBRARIES


def test_an_adapter_names_no_other() -> None:
    files = {f"sse_fast.adapters.{path.stem}" for path in (PACKAGE / "adapters").glob("[!_]*.py")}
    assert len(files) == 7
    for path in PACKAGE.rglob("*.py"):
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
    assert {module.partition(".")[0] for module in imports(PACKAGE / "_lines.pxd")} == {"libc"}
    source = (PACKAGE / "_lines.pxd").read_text()
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
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "sse_fast._stream" in loaded
    assert not {name.partition(".")[0] for name in loaded} & (
        LIBRARIES | {"asyncio", "ssl", "email"}
    )
    beyond = ("sse_fast.adapters.", "sse_fast._cli", "sse_fast._bench")
    assert not {name for name in loaded if name.startswith(beyond)}


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
    late = ("sse_fast._bench", "sse_fast.columns", "sse_fast._captures")
    assert not {name for name in loaded if name.startswith(late)}
