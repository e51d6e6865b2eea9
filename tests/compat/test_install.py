"""`install()` and `uninstall()`: which parts are replaced, and that they are restored."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from sse_fast.compat import LIBRARIES, Installation, UnknownLayout, install, uninstall
from tests.support import ROOT
from tests.support.commands import run_python
from tests.support.installing import (
    REPLACED,
    TWO,
    Before,
    changed,
    find,
    replaced,
    run_concurrently,
    snapshot,
)
from tests.support.installing import before as before
from tests.support.libraries import INSTALLED, ORIGINALS, state

# -- Installing and restoring ----------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTALLED)
def test_install_replaces_documented_parts(before: Before, name: str) -> None:
    assert replaced(name)
    with install(name) as installation:
        assert changed(before) == replaced(name)
        assert installation.names == (name,)
        for path, attribute in replaced(name):
            assert vars(find(path))[attribute].__module__ == f"sse_fast.compat.{name}"
    assert not changed(before)


def test_install_all_then_uninstall_restores(before: Before) -> None:
    installation = install(*INSTALLED)
    assert installation.names == tuple(INSTALLED)
    assert changed(before) == replaced(*INSTALLED)
    assert uninstall() is None
    assert not changed(before)
    uninstall()
    assert not changed(before)


def test_install_is_exported_at_top_level(before: Before) -> None:
    assert sse_fast.install is install
    assert sse_fast.uninstall is uninstall
    assert set(LIBRARIES) == set(REPLACED)
    assert issubclass(UnknownLayout, sse_fast.SSEError)
    with install("httpx_sse") as installation:
        assert type(installation) is Installation
        assert repr(installation) == "Installation(names=('httpx_sse',))"


@pytest.mark.parametrize("name", INSTALLED)
def test_install_twice_is_idempotent(before: Before, name: str) -> None:
    first = install(name)
    once = snapshot()
    second = install(name, name)
    assert (first.names, second.names) == ((name,), ())
    assert not changed(once)
    # The second installation has nothing to uninstall.
    with second:
        pass
    assert not changed(once)
    uninstall(name)
    assert not changed(before)


def test_install_duplicate_name_is_ignored(before: Before) -> None:
    with install(*TWO, *TWO) as installation:
        assert installation.names == TWO
    assert not changed(before)


def test_install_repeatedly_restores_each_time(before: Before) -> None:
    for _ in range(20):
        with install(*TWO):
            assert changed(before) == replaced(*TWO)
        assert not changed(before)


def test_installation_block_exception_uninstalls(before: Before) -> None:
    class Wrong(Exception):
        pass

    with pytest.raises(Wrong), install(*TWO):
        raise Wrong
    assert not changed(before)


def test_installation_exit_keeps_block_exception(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = find("httpx_sse._api.EventSource")

    def run(error: type[Exception] | None) -> None:
        with monkeypatch.context() as patch, install("httpx_sse"):
            patch.setattr(owner, "iter_sse", len)
            if error is not None:
                raise error

    for error in (KeyError, None):
        with pytest.raises(RuntimeError if error is None else error):
            run(error)
        uninstall()
        assert not changed(before)


def test_installation_exit_keeps_later_installation(before: Before) -> None:
    with install("httpx_sse") as outer:
        uninstall("httpx_sse")
        again = install("httpx_sse")
    # The block only uninstalls its own installation.
    assert (outer.names, again.names) == (("httpx_sse",), ("httpx_sse",))
    assert changed(before) == replaced("httpx_sse")
    with again:
        pass
    assert not changed(before)


def test_installation_nested_restores_own_names(before: Before) -> None:
    with install("httpx_sse"):
        with install("cohere", "httpx_sse") as inner:
            assert inner.names == ("cohere",)
            assert changed(before) == replaced(*TWO)
            with install(*TWO) as innermost:
                assert innermost.names == ()
            assert changed(before) == replaced(*TWO)
        assert changed(before) == replaced("httpx_sse")
    assert not changed(before)


def test_installation_exit_in_any_order(before: Before) -> None:
    outer, inner = install("httpx_sse"), install("cohere")
    with outer:
        pass
    assert changed(before) == replaced("cohere")
    with inner:
        uninstall()
        assert not changed(before)
    with inner:
        pass
    assert not changed(before)


def test_uninstall_by_name_leaves_others(before: Before) -> None:
    install(*TWO)
    uninstall("httpx_sse")
    assert changed(before) == replaced("cohere")
    uninstall("httpx_sse", "mistralai")
    assert changed(before) == replaced("cohere")
    uninstall(*TWO)
    assert not changed(before)


# -- On import -------------------------------------------------------------------------------------


def test_import_loads_no_library(tmp_path: Path) -> None:
    code = """
import sys
import sse_fast
from sse_fast import compat

packages = {name.partition(".")[0] for name in sys.modules}
assert not packages & {*compat.LIBRARIES, "httpx", "sseclient", "requests"}, packages
sse_fast.install, sse_fast.uninstall, compat.UnknownLayout
assert packages == {name.partition(".")[0] for name in sys.modules}
print("done")
"""
    assert run_python(code, directory=tmp_path) == "done\n"


# Importing an SDK in a new process takes a second or more.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("cohere", "httpx_sse") else pytest.mark.matrix)
        for name in INSTALLED
    ],
)
def test_compat_module_import_replaces_nothing(tmp_path: Path, name: str) -> None:
    """In a process of its own, where the library has not been imported yet."""
    code = f"""
import sys
from importlib import import_module

import sse_fast

import_module("sse_fast.compat.{name}")
assert {name!r} in sys.modules or {name!r} == "httpx_sse"
assert not sse_fast.compat._installed
for path, attributes in {list(REPLACED[name].items())!r}:
    if path.startswith(("mistralai.azure", "mistralai.gcp")):
        continue
    if path.endswith(".EventSource"):
        owner = import_module(path.removesuffix(".EventSource")).EventSource
    else:
        owner = import_module(path)
    for attribute in attributes:
        assert not vars(owner)[attribute].__module__.startswith("sse_fast"), path
print("done")
"""
    assert run_python(code, directory=tmp_path) == "done\n"


# -- Threads and running streams -------------------------------------------------------------------


def test_install_from_two_threads_installs_once(before: Before) -> None:
    for _ in range(20):
        one, two = run_concurrently(lambda: install(*TWO), lambda: install(*reversed(TWO)))
        # Each name was installed by exactly one of the two calls.
        assert sorted(one.names + two.names) == sorted(TWO)
        assert changed(before) == replaced(*TWO)
        assert run_concurrently(uninstall, lambda: uninstall(*TWO)) == [None, None]
        assert not changed(before)


def test_install_while_other_threads_uninstall(before: Before) -> None:
    def install_often() -> None:
        for _ in range(20):
            with install(*TWO):
                pass
            install("cohere")
            uninstall()

    run_concurrently(install_often, install_often, install_often)
    assert not changed(before)


MARK = b"\xef\xbb\xbf"
# A byte order mark in two chunks makes every original lose the first event.
CHUNKS = [MARK[:1], MARK[1:] + b"data: 1\n\n", b"data: 2\n\nda", b"ta: 3\n\n"]


def data(events: list[Any]) -> list[str]:
    attributes = [state(event)[1] for event in events]
    return [str(each.get("data", each.get("_data"))) for each in attributes]


@pytest.mark.parametrize("name", INSTALLED)
def test_running_stream_keeps_its_parser(before: Before, name: str) -> None:
    def begin() -> tuple[Any, list[Any]]:
        events = iter(ORIGINALS[name].theirs().read(CHUNKS))
        return events, [next(events)]

    theirs, seen_of_theirs = begin()
    with install(name):
        ours, seen_of_ours = begin()
        seen_of_theirs.append(next(theirs))
        theirs_too, seen_of_theirs_too = begin()
    seen_of_ours.append(next(ours))
    assert data([*seen_of_theirs, *theirs]) == ["2", "3"]
    with install(name):
        assert data([*seen_of_ours, *ours]) == ["1", "2", "3"]
    assert data([*seen_of_theirs_too, *theirs_too]) == ["1", "2", "3"]
    assert data(list(begin()[0])) == ["3"]


@pytest.mark.parametrize("name", [name for name in ("openai", "anthropic") if name in INSTALLED])
@pytest.mark.parametrize("kind", ["", "Async"])
def test_client_with_own_decoder_is_left_alone(before: Before, name: str, kind: str) -> None:
    module = import_module(name)
    client_class = getattr(module, kind + {"openai": "OpenAI", "anthropic": "Anthropic"}[name])
    decoder = import_module(f"{name}._streaming").SSEDecoder()

    class Own(client_class):  # type: ignore[misc]  # known at run time
        def _make_sse_decoder(self) -> Any:
            return decoder

    stream_class = getattr(module, f"{kind}Stream")
    ours = import_module(f"sse_fast.compat.{name}").SSEDecoder
    # Neither opens a connection, so there is nothing to close.
    own, plain = Own(api_key="any"), client_class(api_key="any")

    def used_by(client: Any) -> Any:
        http = import_module(type(client._client).__mro__[-3].__module__.partition(".")[0])
        response = http.Response(200, content=b"", request=http.Request("GET", "http://localhost"))
        stream = stream_class(cast_to=object, response=response, client=client)
        return stream._decoder

    with install(name):
        assert used_by(own) is decoder
        assert type(used_by(plain)) is ours
    assert used_by(own) is decoder
    assert type(used_by(plain)) is type(decoder)


# -- The page --------------------------------------------------------------------------------------


def test_page_table_lists_every_library() -> None:
    page = (ROOT / "docs" / "guides" / "other-parsers.md").read_text(encoding="utf-8")
    table = page.partition("| Name | Versions | Replaced parts |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows] == [
        (library.name, library.versions) for library in LIBRARIES.values()
    ]
    for name, cells in zip(LIBRARIES, rows, strict=True):
        for attributes in list(REPLACED[name].values())[:1]:
            assert all(attribute in cells[2] for attribute in attributes)
