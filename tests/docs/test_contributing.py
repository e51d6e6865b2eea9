"""CONTRIBUTING names what is there: files, rooms, sessions, stages of the parser."""

from __future__ import annotations

import ast
import re

from tests.support import PACKAGE, ROOT
from tests.support.pages import read

CONTRIBUTING = read("CONTRIBUTING.md")
# Where a name without its folder is looked for.
FOLDERS = ("sse_fast", *(f"sse_fast/{room}" for room in ("_core", "_http1", "adapters", "_client")))


def test_contributing_names_files_that_exist() -> None:
    names = set(re.findall(r"`([\w./-]*\w\.(?:py|pyx|pxd|h|md))`", CONTRIBUTING))
    assert len(names) > 15
    for name in names:
        assert any((ROOT / folder / name).exists() for folder in ("", *FOLDERS)), name
    for name in re.findall(r"`((?:sse_fast|tests|docs)/[\w/]*)`", CONTRIBUTING):
        assert (ROOT / name).exists(), name


def test_contributing_stages_have_one_name_in_both_cores() -> None:
    core = PACKAGE / "_core"
    native = "".join((core / name).read_text() for name in ("parser_c.pyx", "lines.pxd"))
    python = (core / "parser_py.py").read_text()
    for stage in ("feed", "_split_lines", "_process_field", "_dispatch", "after_cr"):
        assert f"`{stage}`" in CONTRIBUTING or f".{stage}`" in CONTRIBUTING
        assert re.search(rf"\b{stage}\b", native), stage
        assert re.search(rf"\b_?{stage}\b", python), stage


def test_contributing_answers_name_what_is_there() -> None:
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert "def failed(" in sources[PACKAGE / "_client" / "reconnect.py"]
    assert "retry_statuses" in sources[PACKAGE / "_client" / "reconnect.py"]
    for table in ("_registry.py", "_clients.py"):
        assert '"requests' in sources[PACKAGE / "adapters" / table]
    for path in (PACKAGE / "adapters").glob("[!_]*.py"):
        assert re.search(r"\bopen_source\b", sources[path]), path


def test_contributing_names_the_files_that_import_asyncio() -> None:
    importing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                if "asyncio" in {str(name).partition(".")[0] for name in names}:
                    importing.add(path.relative_to(PACKAGE).as_posix())
    (paragraph,) = re.findall(r"^- \*\*asyncio\*\*.*?(?=^\n|\Z)", CONTRIBUTING, re.M | re.S)
    named = set(re.findall(r"`([\w/]+\.py)`", paragraph.partition(" only.")[0]))
    assert named == importing


def test_contributing_lists_every_room() -> None:
    table = CONTRIBUTING.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table))
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    files = {path.stem for path in PACKAGE.glob("_[!_]*.py")}
    assert rooms | files <= named


def test_contributing_lists_every_session() -> None:
    tree = ast.parse(read("noxfile.py"))
    sessions = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                code = ast.unparse(decorator)
                if code.startswith("nox.session"):
                    (name,) = re.findall(r"name='([\w-]+)'", code) or [node.name]
                    sessions.add(name)
    table = CONTRIBUTING.partition("\n| Session |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == sessions
