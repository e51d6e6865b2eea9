"""Objects of other libraries are used by their public names; the few exceptions are listed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sse_fast

ROOT = Path(sse_fast.__file__).parent
ADAPTERS = sorted(path for path in (ROOT / "adapters").glob("*.py") if path.name != "__init__.py")
FILES = sorted([*(ROOT / "adapters").glob("*.py"), *(ROOT / "_client").glob("*.py")])

# Private names of responses, because there is no public way to the same knowledge. Clients and
# sessions have none.
PRIVATE: dict[tuple[str, str], str] = {
    ("requests.py", "_content"): "whether the body was read; `content` would read all of it",
    ("requests.py", "_content_consumed"): "whether the body was iterated over",
    ("urllib3.py", "_body"): "whether the body was read or consumed; `data` would read all of it",
    ("urllib3.py", "_fp"): "the http.client response inside, which costs a third to read",
    ("aiohttp.py", "_body"): "whether the body was read; `read()` would read all of it",
    ("aiohttp.py", "_read_nowait"): "bytes that had arrived before an error",
    ("asyncio.py", "_buffer"): "bytes that had arrived before an error",
    ("http_client.py", "_sock"): "the socket, to wake a thread that reads it",
}
# Words that copy or patch elsewhere, and here only look at a response.
LOOKED_UP = {
    ("http_client.py", "__dict__"): "the method by which a stand-in replaces `read`",
    ("state.py", "__dict__"): "a slot of our own class",
}


def is_private(name: str) -> bool:
    # `_replace` is a public method of named tuples.
    return (
        name.startswith("_")
        and name.isidentifier()
        and not name.endswith("__")
        and name != "_replace"
    )


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private attributes of anything but `self` and `cls`, also those by `getattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if is_private(node.attr) and not is_own:
                yield node.attr
        elif isinstance(node, ast.Call):
            for each in node.args:
                if isinstance(each, ast.Constant) and is_private(str(each.value)):
                    yield str(each.value)


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_adapter_uses_only_listed_private_names(path: Path) -> None:
    names = set(private_names(ast.parse(path.read_text())))
    assert names == {name for file, name in PRIVATE if file == path.name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_source_copies_and_patches_nothing(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    for word in ("__dict__", "object.__new__", "setattr(", "copy.copy"):
        assert word not in source or (path.name, word) in LOOKED_UP, word
    # Nothing is assigned to an attribute of a client or a session.
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                assert target.value.id not in {"client", "session", "pool"}
