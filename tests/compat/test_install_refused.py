"""What `install()` and `uninstall()` refuse, and that nothing of it is done by half."""

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
from tests.support.installing import (
    OWNERS,
    TWO,
    Before,
    at_once,
    changed,
    everything,
    find,
    replaced,
    run,
)
from tests.support.installing import before as before
from tests.support.libraries import INSTALLED

# -- Refusals --------------------------------------------------------------------------------------


def test_no_name(before: Before) -> None:
    with pytest.raises(ValueError) as caught:
        install()
    assert str(caught.value) == f"install() needs at least one name: {', '.join(LIBRARIES)}"


@pytest.mark.parametrize("wrong", ["requests", "", "OpenAI", "httpx-sse", "_strict", "sseclient"])
def test_an_unknown_name(before: Before, wrong: str) -> None:
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


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
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
    assert run(code, directory=tmp_path) == "done\n"


def test_what_the_library_needs_is_not_there(tmp_path: Path) -> None:
    """That is its own error, which names it."""
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
    assert run(code, directory=tmp_path) == "done\n"


# What is looked at before anything is replaced: the path, and the parameters if it is called.
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
# Anthropic's has lines too since version 1, and what it is called with is not looked at.
NOT_CALLED = {("anthropic._streaming", "ServerSentEvent")}
EACH_PART = [
    pytest.param(name, *part, id=f"{part[0]}.{part[1]}")
    for name in INSTALLED
    for part in PARTS[name]
]
EACH_CALLED = [
    each for each in EACH_PART if each.values[3] is not None and each.values[1:3] not in NOT_CALLED
]


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make `install()` check a library as if for the first time."""
    for name in INSTALLED:
        import_module(f"sse_fast.compat.{name}")

    def forget(name: str) -> None:
        module = import_module(f"sse_fast.compat.{name}")
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.setattr(compat, name, module)

    return forget


def refusal(name: str, before: Before) -> tuple[str, str]:
    """Return what `install()` expected and found, alone and beside a library with a known layout."""
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
def test_a_part_is_missing(
    afresh: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str | None,
) -> None:
    monkeypatch.delattr(find(path), attribute)
    afresh(name)
    found = everything("httpx_sse" if name == "cohere" else "cohere")
    assert refusal(name, found) == (f"{path}.{attribute}", "no such attribute")


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_CALLED)
def test_a_part_is_called_otherwise(
    afresh: Callable[[str], None],
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

        # In place, as whoever else imported the class has it too.
        monkeypatch.setattr(original, "__init__", init)
    else:

        def other(renamed: object, *more: object) -> None:
            raise AssertionError

        monkeypatch.setattr(find(path), attribute, other)
    afresh(name)
    expected, found = refusal(name, everything())
    # The two modules of an SDK share one decoder class, which is checked in _streaming first.
    owner = "_streaming" if attribute == "SSEDecoder" else path.rpartition(".")[2]
    assert f".{expected}".endswith(f".{owner}.{attribute}({parameters})")
    assert found == "(renamed, more)"


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_CALLED)
def test_a_part_cannot_be_called(
    afresh: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str,
) -> None:
    monkeypatch.setattr(find(path), attribute, "text")
    afresh(name)
    assert refusal(name, everything()) == (f"{path}.{attribute}({parameters})", "'text'")


@pytest.mark.parametrize(
    ("name", "module"),
    [(name, path) for name in INSTALLED for path in dict.fromkeys(p[0] for p in PARTS[name])],
)
def test_a_module_is_missing(
    afresh: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    if find(module).__class__ is not types.ModuleType:
        module = module.rpartition(".")[0]
    # So nobody can import it any more.
    before = everything("httpx_sse" if name == "cohere" else "cohere")
    monkeypatch.setitem(sys.modules, module, None)
    afresh(name)
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
def test_events_are_read_otherwise(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As it would be with a version that no longer makes events without data."""
    path, attribute = READING[name]
    original = getattr(find(path), attribute)

    @functools.wraps(original)
    def without_the_first(*arguments: Any, **options: Any) -> Iterator[Any]:
        events = original(*arguments, **options)
        next(events, None)
        yield from events

    monkeypatch.setattr(find(path), attribute, without_the_first)
    before = everything()
    # The events with sse_fast, the stream, and the events without sse_fast.
    expected, found = refusal(name, before)
    assert expected.startswith("the events [")
    events, _, fed = expected.removeprefix("the events ").partition("] of ")
    assert fed == repr(compat._PROBE)
    first, *rest = ast.literal_eval(events + "]")
    assert rest == ast.literal_eval(found)
    assert "7" in str(first)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "mistralai"])
def test_events_have_more(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """They are made without their constructor: what else it does would be missing."""
    path = next(path for path, attribute, _ in PARTS[name] if attribute == "ServerSentEvent")
    event_class = find(path).ServerSentEvent
    # A dataclass that freezes itself sets its attributes so.
    original = event_class.__init__

    @functools.wraps(original)
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        object.__setattr__(self, "received", 1)

    monkeypatch.setattr(event_class, "__init__", init)
    _, found = refusal(name, everything())
    assert found.count("'received': 1") >= 4


@pytest.mark.parametrize("name", ["httpx_sse", "cohere"])
def test_a_part_is_inherited(
    afresh: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It could be put there, but not be taken back."""
    path, attribute = READING[name]
    owner = find(path)
    heir = type(owner.__name__, (owner,), {"__module__": owner.__module__})
    monkeypatch.setattr(find(path.rpartition(".")[0]), owner.__name__, heir)
    afresh(name)
    before = everything()
    with pytest.raises(UnknownLayout, match=f"{owner.__name__}.{attribute}"):
        install(name)
    assert not changed(before)
    assert attribute not in vars(heir)


@pytest.mark.parametrize("name", INSTALLED)
def test_reading_raises(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, attribute = READING[name]
    original = getattr(find(path), attribute)

    @functools.wraps(original)
    def fails(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise TypeError("unexpected")
        yield

    monkeypatch.setattr(find(path), attribute, fails)
    assert "unexpected" in refusal(name, everything())[1]


# -- Nothing by half -------------------------------------------------------------------------------


class Interrupted:
    """Control-C at the nth place of `compat` where a signal can come in: calls and returns."""

    def __init__(self, place: int) -> None:
        self.places_to_go = place

    def __enter__(self) -> None:
        self._former = sys.getprofile()
        sys.setprofile(self._profile)

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(self._former)

    def _profile(self, frame: types.FrameType, event: str, argument: object) -> None:
        # Signals wait while a function in C is about to be called.
        if frame.f_code.co_filename == compat.__file__ and event != "c_call":
            self.places_to_go -= 1
            if not self.places_to_go:
                raise KeyboardInterrupt


def try_the_lock() -> bool:
    if not compat._lock.acquire(timeout=5):
        return False
    compat._lock.release()
    return True


def test_interrupted_anywhere(before: Before) -> None:
    place, all_of_them = 0, 0
    while True:
        place += 1
        interrupted = Interrupted(place)
        try:
            with interrupted:
                install(*TWO)
        except KeyboardInterrupt:
            # No other thread waits for ever.
            assert at_once(try_the_lock) == [True]
            if compat._installed:
                # It was about to return.
                all_of_them += 1
                assert changed(before) == replaced(*compat._installed) == replaced(*TWO)
                uninstall()
            assert not changed(before)
        else:
            break
    uninstall()
    assert interrupted.places_to_go > 0
    assert place > 50
    assert all_of_them < 10


def test_a_module_that_lets_nobody_set(before: Before) -> None:
    class Closed(types.ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    module = find("openai._streaming")
    kind = module.__class__
    module.__class__ = Closed
    try:
        with pytest.raises((AttributeError, UnknownLayout)):
            install("httpx_sse", "openai")
        state = changed(before), set(compat._installed)
    finally:
        types.ModuleType.__setattr__(module, "__class__", kind)
    for key in changed(before):
        setattr(find(key[0]), key[1], before[key])
    compat._installed.clear()
    assert state == (set(), set())


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_somebody_else_on_top(
    before: Before, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    other = "cohere" if name == "httpx_sse" else "httpx_sse"
    install(other, name)
    ours = everything()
    for path, attribute in sorted(replaced(name)):
        owner = find(path)
        with monkeypatch.context() as patch:
            if how == "replaced":
                patch.setattr(owner, attribute, len)
                found = "<built-in function len>"
            else:
                patch.delattr(owner, attribute)
                found = "None"
            now = everything()
            for names in ((), (name,), (other, name), (name, other)):
                with pytest.raises(RuntimeError) as caught:
                    uninstall(*names)
                message = str(caught.value)
                assert f"{owner.__name__}.{attribute} was replaced by {found} after" in message
                assert message.endswith(" install(): undo that first")
                assert not changed(now)
            # Nor is it done once more.
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*( replaced by |, found )"):
                install(name)
            assert not changed(now)
    assert not changed(ours)
    uninstall()
    assert not changed(before)


def test_somebody_else_below(before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was there is what comes back."""
    owner = find("httpx_sse._api.EventSource")
    original = vars(owner)["iter_sse"]

    @functools.wraps(original)
    def iter_sse(self: Any) -> Iterator[Any]:
        yield from original(self)

    monkeypatch.setattr(owner, "iter_sse", iter_sse)
    with install("httpx_sse"):
        assert vars(owner)["iter_sse"] is not iter_sse
    assert vars(owner)["iter_sse"] is iter_sse


def test_somebody_else_who_hides_what_was_below(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes of it cannot be known: it is refused."""
    for name in INSTALLED:
        path, attribute = next(iter(sorted(replaced(name))))
        with monkeypatch.context() as patch:
            patch.setattr(OWNERS[name][path], attribute, len)
            now = everything()
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*( replaced by |, found )"):
                install(name)
            assert not changed(now)
