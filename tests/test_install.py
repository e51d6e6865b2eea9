"""`install()` and `uninstall()`: all of what was asked for or nothing, and back to what was."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from libraries import INSTALLED, ORIGINALS, state

import sse_fast
from sse_fast import compat
from sse_fast.compat import LIBRARIES, Installation, UnknownLayout, install, uninstall

# By library, the owners of what is replaced: a module, or a class in it.
REPLACED = {
    "openai": {
        "openai._base_client": {"SSEDecoder"},
        "openai._streaming": {"SSEDecoder"},
    },
    "anthropic": {
        "anthropic._base_client": {"SSEDecoder"},
        "anthropic._streaming": {"SSEDecoder"},
    },
    "httpx2": {"httpx2._sse": {"_SSEParser"}},
    "httpx_sse": {"httpx_sse._api.EventSource": {"iter_sse", "aiter_sse"}},
    "cohere": {"cohere.core.http_sse._api.EventSource": {"_decode_response", "_adecode_response"}},
    "mistralai": {
        f"mistralai.{service}client.utils.eventstreaming": {"stream_events", "stream_events_async"}
        for service in ("", "azure.", "gcp.")
    },
}
# Two that are small.
TWO = ("httpx_sse", "cohere")


def find(path: str) -> Any:
    """A module, or what is in it, by its dotted name; None: it cannot be imported here."""
    try:
        return import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        if not (name[:1].isupper() or name.startswith("_")):
            return None
        return getattr(import_module(module), name)


def _owners(name: str) -> dict[str, Any]:
    found = {path: find(path) for path in REPLACED[name]}
    return {path: owner for path, owner in found.items() if owner is not None}


# As they are before a test changes them.
OWNERS = {name: _owners(name) for name in INSTALLED}


def everything(*names: str) -> dict[tuple[str, str], Any]:
    """Each attribute of each owner, not only those that are replaced."""
    return {
        (path, attribute): value
        for name in names or INSTALLED
        for path, owner in OWNERS[name].items()
        for attribute, value in vars(owner).items()
        # Which `warnings` writes to.
        if attribute != "__warningregistry__"
    }


def changed(before: dict[tuple[str, str], Any]) -> set[tuple[str, str]]:
    """What is another object now than before."""
    after = everything()
    paths = {path for path, _ in before}
    return {
        key
        for key in {*before, *after}
        if key[0] in paths and before.get(key, before) is not after.get(key, before)
    }


def replaced(*names: str) -> set[tuple[str, str]]:
    return {
        (path, attribute)
        for name in names
        for path in OWNERS[name]
        for attribute in REPLACED[name][path]
    }


@pytest.fixture
def before() -> Iterator[dict[tuple[str, str], Any]]:
    """What is there before a test, and is to be there after it."""
    assert not compat._installed
    found = everything()
    yield found
    left = changed(found)
    compat._installed.clear()
    for (path, attribute), value in found.items():
        if (path, attribute) in left:
            owner = next(each[path] for each in OWNERS.values() if path in each)
            setattr(owner, attribute, value)
    assert not left


Before = dict[tuple[str, str], Any]


# -- Back to what was ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_replaced(before: Before, name: str) -> None:
    assert replaced(name)
    with install(name) as installation:
        assert changed(before) == replaced(name)
        assert installation.names == (name,)
        for path, attribute in replaced(name):
            assert vars(find(path))[attribute].__module__ == f"sse_fast.compat.{name}"
    assert not changed(before)


def test_all_of_them(before: Before) -> None:
    installation = install(*INSTALLED)
    assert installation.names == tuple(INSTALLED)
    assert changed(before) == replaced(*INSTALLED)
    assert uninstall() is None
    assert not changed(before)
    uninstall()
    assert not changed(before)


def test_the_public_names(before: Before) -> None:
    assert sse_fast.install is install
    assert sse_fast.uninstall is uninstall
    assert set(LIBRARIES) == set(REPLACED)
    assert issubclass(UnknownLayout, sse_fast.SSEError)
    with install("httpx_sse") as installation:
        assert type(installation) is Installation
        assert repr(installation) == "Installation(names=('httpx_sse',))"


@pytest.mark.parametrize("name", INSTALLED)
def test_twice_is_once(before: Before, name: str) -> None:
    first = install(name)
    once = everything()
    second = install(name, name)
    assert (first.names, second.names) == ((name,), ())
    assert not changed(once)
    # The second has nothing to take back.
    with second:
        pass
    assert not changed(once)
    uninstall(name)
    assert not changed(before)


def test_a_name_twice(before: Before) -> None:
    with install(*TWO, *TWO) as installation:
        assert installation.names == TWO
    assert not changed(before)


def test_again_and_again(before: Before) -> None:
    for _ in range(20):
        with install(*TWO):
            assert changed(before) == replaced(*TWO)
        assert not changed(before)


def test_an_exception_within(before: Before) -> None:
    class Wrong(Exception):
        pass

    with pytest.raises(Wrong), install(*TWO):
        raise Wrong
    assert not changed(before)


def test_an_exception_says_more_than_what_is_in_the_way(
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


def test_what_was_installed_anew_meanwhile(before: Before) -> None:
    with install("httpx_sse") as outer:
        uninstall("httpx_sse")
        again = install("httpx_sse")
    # It is not what this block has put there.
    assert (outer.names, again.names) == (("httpx_sse",), ("httpx_sse",))
    assert changed(before) == replaced("httpx_sse")
    with again:
        pass
    assert not changed(before)


def test_nested(before: Before) -> None:
    with install("httpx_sse"):
        with install("cohere", "httpx_sse") as inner:
            assert inner.names == ("cohere",)
            assert changed(before) == replaced(*TWO)
            with install(*TWO) as innermost:
                assert innermost.names == ()
            assert changed(before) == replaced(*TWO)
        assert changed(before) == replaced("httpx_sse")
    assert not changed(before)


def test_not_in_the_order_of_a_stack(before: Before) -> None:
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


def test_uninstall_by_name(before: Before) -> None:
    install(*TWO)
    uninstall("httpx_sse")
    assert changed(before) == replaced("cohere")
    uninstall("httpx_sse", "mistralai")
    assert changed(before) == replaced("cohere")
    uninstall(*TWO)
    assert not changed(before)


# -- Refusals --------------------------------------------------------------------------------------


def test_no_name(before: Before) -> None:
    with pytest.raises(ValueError) as caught:
        install()
    assert str(caught.value) == f"Expected what to install: some of {', '.join(LIBRARIES)}"


@pytest.mark.parametrize("wrong", ["requests", "", "OpenAI", "httpx-sse", "_strict", "sseclient"])
def test_an_unknown_name(before: Before, wrong: str) -> None:
    for call in (install, uninstall):
        with pytest.raises(ValueError) as caught:
            call("httpx_sse", wrong)
        assert str(caught.value) == f"Expected some of {', '.join(LIBRARIES)}, got {wrong!r}"
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


def run(code: str, *arguments: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=directory
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
                f"Expected the library {{name!r}}, which is not installed: "
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
    """Has `install()` look at a library as if for the first time."""

    def forget(name: str) -> None:
        module = import_module(f"sse_fast.compat.{name}")
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.setattr(compat, name, module)

    return forget


def refusal(name: str, before: Before) -> str:
    """Why a library is refused, alone and beside one that is known."""
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
    assert f", as {library.distribution} {library.versions} has it, found " in message
    end = f" in {library.distribution} {version}: leave {name!r} out, or look for a newer sse_fast"
    assert message.endswith(end)
    return message.removesuffix(end)


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_PART)
def test_a_part_is_missing(
    afresh: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str | None,
) -> None:
    import_module(f"sse_fast.compat.{name}")
    monkeypatch.delattr(find(path), attribute)
    afresh(name)
    found = everything("httpx_sse" if name == "cohere" else "cohere")
    message = refusal(name, found)
    assert message.startswith(f"Expected {path}.{attribute}, as ")
    assert message.endswith(", found nothing of that name")


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
        found = "(renamed, more)"
    else:

        def other(renamed: object, *more: object) -> None:
            raise AssertionError

        monkeypatch.setattr(find(path), attribute, other)
        found = "(renamed, more)"
    afresh(name)
    before = everything()
    message = refusal(name, before)
    # Of one class by two names, the first is looked at first.
    owner = "_streaming" if attribute == "SSEDecoder" else path.rpartition(".")[2]
    assert f"{owner}.{attribute}({parameters}), as " in message
    assert message.endswith(f", found {found}")


@pytest.mark.parametrize(("name", "path", "attribute", "parameters"), EACH_CALLED)
def test_a_part_cannot_be_called(
    afresh: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    path: str,
    attribute: str,
    parameters: str,
) -> None:
    import_module(f"sse_fast.compat.{name}")
    monkeypatch.setattr(find(path), attribute, "text")
    afresh(name)
    message = refusal(name, everything())
    assert message.startswith(f"Expected {path}.{attribute}({parameters}), as ")
    assert message.endswith(", found 'text'")


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
    message = refusal(name, before)
    assert message.startswith(f"Expected a module {module}, as ")
    assert message.endswith(", found none")


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
    message = refusal(name, before)
    assert message.startswith("Expected the events [")
    # What comes of it with sse_fast, what was fed, and what comes of it without.
    expected, _, found = message.partition(", found ")
    events, _, fed = expected.removeprefix("Expected the events ").partition("] of ")
    assert fed.startswith(f"{compat._PROBE!r}, as ")
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
    message = refusal(name, everything())
    assert message.partition(", found ")[2].count("'received': 1") >= 4


@pytest.mark.parametrize("name", ["httpx_sse", "cohere"])
def test_a_part_is_inherited(
    afresh: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It could be put there, but not be taken back."""
    path, attribute = READING[name]
    owner = find(path)
    heir = type(owner.__name__, (owner,), {"__module__": owner.__module__})
    monkeypatch.setattr(find(path.rpartition(".")[0]), owner.__name__, heir)
    import_module(f"sse_fast.compat.{name}")
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
    assert "unexpected" in refusal(name, everything())


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
                assert message.startswith("Expected ")
                assert f"{owner.__name__}.{attribute} as install() left it" in message
                assert f", found {found}: take that back first" in message
                assert not changed(now)
            # Nor is it done once more.
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*, found "):
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
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*, found "):
                install(name)
            assert not changed(now)


# -- On import -------------------------------------------------------------------------------------


def test_never_on_import(tmp_path: Path) -> None:
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
    assert run(code, directory=tmp_path) == "done\n"


def test_a_module_of_compat_replaces_nothing(tmp_path: Path) -> None:
    """They are imported, by whoever needs one, in a process that has imported none of them."""
    code = f"""
import sys
from importlib import import_module

import sse_fast

for name in {INSTALLED!r}:
    import_module(f"sse_fast.compat.{{name}}")
    assert name in sys.modules or name == "httpx_sse", name
assert not sse_fast.compat._installed
for path, attributes in {[each for name in INSTALLED for each in REPLACED[name].items()]!r}:
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
    assert run(code, directory=tmp_path) == "done\n"


# -- Meanwhile -------------------------------------------------------------------------------------


@contextmanager
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each returns, in a thread of its own."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def work(number: int) -> None:
        barrier.wait(10)
        results[number] = calls[number]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    with quick_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return results


def test_two_threads(before: Before) -> None:
    for _ in range(20):
        one, two = at_once(lambda: install(*TWO), lambda: install(*reversed(TWO)))
        # Each name by one of the two.
        assert sorted(one.names + two.names) == sorted(TWO)
        assert changed(before) == replaced(*TWO)
        assert at_once(uninstall, lambda: uninstall(*TWO)) == [None, None]
        assert not changed(before)


def test_one_thread_installs_and_another_uninstalls(before: Before) -> None:
    def often() -> None:
        for _ in range(20):
            with install(*TWO):
                pass
            install("cohere")
            uninstall()

    at_once(often, often, often)
    assert not changed(before)


MARK = b"\xef\xbb\xbf"
# A byte order mark in two chunks: whoever loses the first event is the original.
CHUNKS = [MARK[:1], MARK[1:] + b"data: 1\n\n", b"data: 2\n\nda", b"ta: 3\n\n"]


def data(events: list[Any]) -> list[str]:
    attributes = [state(event)[1] for event in events]
    return [str(each.get("data", each.get("_data"))) for each in attributes]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_stream_goes_on_as_it_began(before: Before, name: str) -> None:
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
def test_a_decoder_of_the_users_own(before: Before, name: str, kind: str) -> None:
    module = import_module(name)
    client_class = getattr(module, kind + {"openai": "OpenAI", "anthropic": "Anthropic"}[name])
    decoder = import_module(f"{name}._streaming").SSEDecoder()

    class Own(client_class):  # type: ignore[misc]  # known at run time
        def _make_sse_decoder(self) -> Any:
            return decoder

    stream_class = getattr(module, f"{kind}Stream")
    ours = import_module(f"sse_fast.compat.{name}").SSEDecoder
    # Neither has opened a connection: there is nothing to close.
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


def test_the_table_of_names() -> None:
    page = (Path(__file__).parent.parent / "docs" / "compat.md").read_text(encoding="utf-8")
    table = page.partition("| Name | Versions | Replaced |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows] == [
        (library.name, library.versions) for library in LIBRARIES.values()
    ]
    for name, cells in zip(LIBRARIES, rows, strict=True):
        for attributes in list(REPLACED[name].values())[:1]:
            assert all(attribute in cells[2] for attribute in attributes)
