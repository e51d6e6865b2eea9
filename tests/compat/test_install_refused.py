"""`install()` refuses unknown names, missing libraries and unknown layouts."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sse_fast import compat
from sse_fast.compat import LIBRARIES, UnknownLayout, install, uninstall
from tests.support.commands import run_python
from tests.support.installing import (
    Before,
    changed,
    find,
    replaced,
    snapshot,
)
from tests.support.installing import before as before
from tests.support.libraries import INSTALLED

# -- Names and missing libraries -------------------------------------------------------------------


def test_install_without_name_raises(before: Before) -> None:
    with pytest.raises(ValueError) as caught:
        install()
    assert str(caught.value) == f"install() needs at least one name: {', '.join(LIBRARIES)}"


@pytest.mark.parametrize("wrong", ["requests", "", "OpenAI", "httpx-sse", "_strict", "sseclient"])
def test_unknown_name_raises(before: Before, wrong: str) -> None:
    for call in (install, uninstall):
        with pytest.raises(ValueError) as caught:
            call("httpx_sse", wrong)
        assert str(caught.value) == f"Unknown library {wrong!r}: choose from {', '.join(LIBRARIES)}"
        assert not changed(before)
    install("httpx_sse")
    with pytest.raises(ValueError):
        uninstall("httpx_sse", wrong)
    assert changed(before) == replaced("httpx_sse")
    uninstall()


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_install_missing_library_raises_import_error(tmp_path: Path) -> None:
    blocked = set(LIBRARIES) - {"httpx_sse"}
    code = f"""
BLOCKED = {blocked!r}
{BLOCKER}
import httpx_sse
import sse_fast
from sse_fast.compat import LIBRARIES

before = dict(vars(httpx_sse.EventSource))
for name in sorted(BLOCKED):
    for names in ((name,), ("httpx_sse", name), (name, "httpx_sse")):
        try:
            sse_fast.install(*names)
        except ImportError as error:
            assert not isinstance(error, sse_fast.SSEError)
            library = LIBRARIES[name]
            assert str(error) == (
                f"The library {{name!r}} is not installed: "
                f"pip install '{{library.distribution}}{{library.versions}}'"
            ), error
        else:
            raise AssertionError(names)
        assert dict(vars(httpx_sse.EventSource)) == before
        assert not sse_fast.compat._installed
        sse_fast.uninstall(*names)
with sse_fast.install("httpx_sse"):
    assert dict(vars(httpx_sse.EventSource)) != before
assert dict(vars(httpx_sse.EventSource)) == before
print("done")
"""
    assert run_python(code, directory=tmp_path) == "done\n"


def test_install_missing_dependency_names_it(tmp_path: Path) -> None:
    """The error of the import is raised unchanged."""
    code = f"""
BLOCKED = {{"httpx"}}
{BLOCKER}
import sse_fast

try:
    sse_fast.install("cohere")
except ImportError as error:
    assert error.name == "httpx", error
    print("done")
"""
    assert run_python(code, directory=tmp_path) == "done\n"


# -- Unknown layouts -------------------------------------------------------------------------------

# Parts that install() checks before it replaces anything: owner, name, and the parameters if it
# checks the signature.
PARTS = {
    **{
        name: [
            (f"{name}._streaming", "SSEDecoder", ""),
            (f"{name}._base_client", "SSEDecoder", ""),
            (f"{name}._streaming", "ServerSentEvent", "event, data, id, retry"),
            (f"{name}._streaming.SSEDecoder", "iter_bytes", "self, iterator"),
            (f"{name}._streaming.SSEDecoder", "aiter_bytes", "self, iterator"),
        ]
        for name in ("openai", "anthropic")
    },
    "httpx2": [
        ("httpx2._sse", "_SSEParser", "max_event_size"),
        ("httpx2._sse", "SSEError", None),
        ("httpx2._sse", "ServerSentEvent", "event, data, id, retry"),
        ("httpx2._sse._SSEParser", "decode", "self, text"),
        ("httpx2._sse._SSEParser", "flush", "self"),
    ],
    "httpx_sse": [
        ("httpx_sse._api", "EventSource", "response"),
        ("httpx_sse._api", "ServerSentEvent", "event, data, id, retry"),
        ("httpx_sse._api.EventSource", "_check_content_type", "self"),
        ("httpx_sse._api.EventSource", "iter_sse", "self"),
        ("httpx_sse._api.EventSource", "aiter_sse", "self"),
    ],
    "cohere": [
        ("cohere.core.http_sse._api", "EventSource", None),
        ("cohere.core.http_sse._api", "SSEError", None),
        ("cohere.core.http_sse._api", "ServerSentEvent", "event, data, id, retry"),
        *(
            (
                "cohere.core.http_sse._api.EventSource",
                method,
                "self, response, decoder, text_decoder",
            )
            for method in ("_decode_response", "_adecode_response")
        ),
    ],
    "mistralai": [
        (
            "mistralai.client.utils.eventstreaming",
            function,
            "response, decoder, sentinel, data_required",
        )
        for function in ("stream_events", "stream_events_async")
    ],
}
# The event of anthropic 1 has one more parameter than before, so its signature is not checked.
UNCHECKED_SIGNATURES = {("anthropic._streaming", "ServerSentEvent")}
EACH_PART = [
    pytest.param(name, *part, id=f"{part[0]}.{part[1]}")
    for name in INSTALLED
    for part in PARTS[name]
]
EACH_SIGNATURE = [
    each
    for each in EACH_PART
    if each.values[3] is not None and each.values[1:3] not in UNCHECKED_SIGNATURES
]


@pytest.fixture
def forget_checks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make `install()` check a library as if for the first time."""
    for name in INSTALLED:
        import_module(f"sse_fast.compat.{name}")

    def forget(name: str) -> None:
        module = import_module(f"sse_fast.compat.{name}")
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.setattr(compat, name, module)

    return forget


def refusal(name: str, before: Before) -> tuple[str, str]:
    """Return what `install()` expected and found, for the library alone and with another one."""
    other = "cohere" if name == "httpx_sse" else "httpx_sse"
    messages = set()
    for names in ((name,), (other, name), (name, other)):
        with pytest.raises(UnknownLayout) as caught:
            install(*names)
        messages.add(str(caught.value))
        assert not changed(before)
        assert not compat._installed
    (message,) = messages
    library = LIBRARIES[name]
    version = importlib.metadata.version(library.distribution)
    start = f"Unknown layout of {library.distribution} {version}: expected "
    end = f"; leave {name!r} out, or upgrade sse_fast"
    assert message.startswith(start)
    assert message.endswith(end)
    expected, known, found = message[len(start) : -len(end)].partition(
        f" as in {library.distribution} {library.versions}, found "
    )
    assert known
    return expected, found


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_PART)
def test_install_missing_part_is_refused(
    forget_checks: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str | None,
) -> None:
    monkeypatch.delattr(find(path), attribute)
    forget_checks(name)
    found = snapshot("httpx_sse" if name == "cohere" else "cohere")
    assert refusal(name, found) == (f"{path}.{attribute}", "no such attribute")


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_SIGNATURE)
def test_install_other_signature_is_refused(
    forget_checks: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str,
) -> None:
    original = getattr(find(path), attribute)
    if inspect.isclass(original):

        def init(self: Any, renamed: object, **more: object) -> None:
            raise AssertionError

        # Changed in place, since other modules have imported the class.
        monkeypatch.setattr(original, "__init__", init)
    else:

        def other(renamed: object, *more: object) -> None:
            raise AssertionError

        monkeypatch.setattr(find(path), attribute, other)
    forget_checks(name)
    expected, found = refusal(name, snapshot())
    # The two modules of an SDK share one decoder class, which is checked in _streaming first.
    owner = "_streaming" if attribute == "SSEDecoder" else path.rpartition(".")[2]
    assert f".{expected}".endswith(f".{owner}.{attribute}({parameters})")
    assert found == "(renamed, more)"


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_SIGNATURE)
def test_install_uncallable_part_is_refused(
    forget_checks: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str,
) -> None:
    monkeypatch.setattr(find(path), attribute, "text")
    forget_checks(name)
    assert refusal(name, snapshot()) == (f"{path}.{attribute}({parameters})", "'text'")


@pytest.mark.parametrize(
    ("name", "module"),
    [(name, path) for name in INSTALLED for path in dict.fromkeys(p[0] for p in PARTS[name])],
)
def test_install_missing_module_is_refused(
    forget_checks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    if find(module).__class__ is not types.ModuleType:
        module = module.rpartition(".")[0]
    # None in sys.modules makes every import of it fail.
    before = snapshot("httpx_sse" if name == "cohere" else "cohere")
    monkeypatch.setitem(sys.modules, module, None)
    forget_checks(name)
    assert refusal(name, before) == (f"a module {module}", "none")


READING = {
    "openai": ("openai._streaming.SSEDecoder", "iter_bytes"),
    "anthropic": ("anthropic._streaming.SSEDecoder", "iter_bytes"),
    "httpx2": ("httpx2._sse._SSEParser", "decode"),
    "httpx_sse": ("httpx_sse._api.EventSource", "iter_sse"),
    "cohere": ("cohere.core.http_sse._api.EventSource", "_decode_response"),
    "mistralai": ("mistralai.client.utils.eventstreaming", "stream_events"),
}


@pytest.mark.parametrize("name", INSTALLED)
def test_install_other_events_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """For example in a version that drops events without data."""
    path, attribute = READING[name]
    original = getattr(find(path), attribute)

    @functools.wraps(original)
    def without_the_first(*arguments: Any, **options: Any) -> Iterator[Any]:
        events = original(*arguments, **options)
        next(events, None)
        yield from events

    monkeypatch.setattr(find(path), attribute, without_the_first)
    before = snapshot()
    # The events with sse_fast, the stream, and the events without sse_fast.
    expected, found = refusal(name, before)
    assert expected.startswith("the events [")
    events, _, fed = expected.removeprefix("the events ").partition("] of ")
    assert fed == repr(compat._PROBE)
    first, *rest = ast.literal_eval(events + "]")
    assert rest == ast.literal_eval(found)
    assert "7" in str(first)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "mistralai"])
def test_install_other_event_attributes_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Events are made without calling `__init__`, so attributes that it adds would be missing."""
    path = next(path for path, attribute, _ in PARTS[name] if attribute == "ServerSentEvent")
    event_class = find(path).ServerSentEvent
    original = event_class.__init__

    @functools.wraps(original)
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        # Some event classes are frozen dataclasses.
        object.__setattr__(self, "received", 1)

    monkeypatch.setattr(event_class, "__init__", init)
    _, found = refusal(name, snapshot())
    assert found.count("'received': 1") >= 4


@pytest.mark.parametrize("name", ["httpx_sse", "cohere"])
def test_install_inherited_part_is_refused(
    forget_checks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A hook on an inherited attribute could be set, but not restored."""
    path, attribute = READING[name]
    owner = find(path)
    heir = type(owner.__name__, (owner,), {"__module__": owner.__module__})
    monkeypatch.setattr(find(path.rpartition(".")[0]), owner.__name__, heir)
    forget_checks(name)
    before = snapshot()
    with pytest.raises(UnknownLayout, match=f"{owner.__name__}.{attribute}"):
        install(name)
    assert not changed(before)
    assert attribute not in vars(heir)


@pytest.mark.parametrize("name", INSTALLED)
def test_install_failing_reader_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, attribute = READING[name]
    original = getattr(find(path), attribute)

    @functools.wraps(original)
    def fails(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise TypeError("unexpected")
        yield

    monkeypatch.setattr(find(path), attribute, fails)
    assert "unexpected" in refusal(name, snapshot())[1]
