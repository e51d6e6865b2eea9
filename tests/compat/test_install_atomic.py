"""`install()` and `uninstall()` are atomic, also if they are interrupted or refused."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from sse_fast import compat
from sse_fast.compat import UnknownLayout, install, uninstall
from tests.support.installing import (
    TWO,
    Before,
    changed,
    find,
    owners_of,
    replaced,
    run_concurrently,
    snapshot,
)
from tests.support.installing import before as before
from tests.support.libraries import INSTALLED


class Interrupted:
    """Raises KeyboardInterrupt at the nth call or return in `compat`, as a signal handler might."""

    def __init__(self, place: int) -> None:
        self.places_to_go = place

    def __enter__(self) -> None:
        self._former = sys.getprofile()
        sys.setprofile(self._profile)

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(self._former)

    def _profile(self, frame: types.FrameType, event: str, argument: object) -> None:
        # The interpreter handles no signal right before the call of a C function.
        if frame.f_code.co_filename == compat.__file__ and event != "c_call":
            self.places_to_go -= 1
            if not self.places_to_go:
                raise KeyboardInterrupt


def is_lock_free() -> bool:
    if not compat._lock.acquire(timeout=5):
        return False
    compat._lock.release()
    return True


def test_install_interrupted_is_all_or_nothing(before: Before) -> None:
    place, completed = 0, 0
    while True:
        place += 1
        interrupted = Interrupted(place)
        try:
            with interrupted:
                install(*TWO)
        except KeyboardInterrupt:
            # The lock was released.
            assert run_concurrently(is_lock_free) == [True]
            if compat._installed:
                # The interrupt came when everything was installed.
                completed += 1
                assert changed(before) == replaced(*compat._installed) == replaced(*TWO)
                uninstall()
            assert not changed(before)
        else:
            break
    uninstall()
    assert interrupted.places_to_go > 0
    assert place > 50
    assert completed < 10


def test_install_read_only_module_changes_nothing(before: Before) -> None:
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
def test_uninstall_after_foreign_patch_is_refused(
    before: Before, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    other = "cohere" if name == "httpx_sse" else "httpx_sse"
    install(other, name)
    ours = snapshot()
    for path, attribute in sorted(replaced(name)):
        owner = find(path)
        with monkeypatch.context() as patch:
            if how == "replaced":
                patch.setattr(owner, attribute, len)
                found = "<built-in function len>"
            else:
                patch.delattr(owner, attribute)
                found = "None"
            now = snapshot()
            for names in ((), (name,), (other, name), (name, other)):
                with pytest.raises(RuntimeError) as caught:
                    uninstall(*names)
                message = str(caught.value)
                assert f"{owner.__name__}.{attribute} was replaced by {found} after" in message
                assert message.endswith(" install(): undo that first")
                assert not changed(now)
            # Installing again is refused, too.
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*( replaced by |, found )"):
                install(name)
            assert not changed(now)
    assert not changed(ours)
    uninstall()
    assert not changed(before)


def test_uninstall_restores_wrapped_original(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper that was there before `install()` is restored."""
    owner = find("httpx_sse._api.EventSource")
    original = vars(owner)["iter_sse"]

    @functools.wraps(original)
    def iter_sse(self: Any) -> Iterator[Any]:
        yield from original(self)

    monkeypatch.setattr(owner, "iter_sse", iter_sse)
    with install("httpx_sse"):
        assert vars(owner)["iter_sse"] is not iter_sse
    assert vars(owner)["iter_sse"] is iter_sse


def test_install_over_foreign_patch_is_refused(
    before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `functools.wraps`, the wrapper cannot be told from unrelated code."""
    for name in INSTALLED:
        path, attribute = next(iter(sorted(replaced(name))))
        with monkeypatch.context() as patch:
            patch.setattr(owners_of(name)[path], attribute, len)
            now = snapshot()
            with pytest.raises(UnknownLayout, match=rf"{attribute}\b.*( replaced by |, found )"):
                install(name)
            assert not changed(now)
