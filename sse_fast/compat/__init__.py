"""Drop-in replacements for the event stream parsers of other libraries.

- Import the modules `httpx_sse` and `sseclient` in place of httpx-sse and sseclient-py.
- The modules `openai` and `anthropic` define an `SSEDecoder` for the SDK of that name.
- `install()` makes installed libraries parse with sse_fast, and `uninstall()` reverts it.

Each library's deviations from the standard are preserved, unless they lose data:
docs/guides/other-parsers.md lists them.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sse_fast.compat._hooks import LIBRARIES, Hook, UnknownLayout
from sse_fast.compat._loading import load_library, load_replacement

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LIBRARIES", "Installation", "UnknownLayout", "install", "uninstall"]

# This stream has every preserved deviation of the originals and every line end, but none of the
# deviations that docs/guides/other-parsers.md lists as not kept.
_PROBE = (
    b": comment\nretry: +5\nid: 7\n\n\nevent: a\n\ndata: x\ndata: y\nunknown: z\n\nevent: b\r\n"
    b"retry: 0x\r\ndata\r\n\r\nid\n\n\nevent: c\rdata: \xc3\xa9\xe2\x80\xa8\r\rdata: the end\n"
)

_lock = threading.RLock()
_installed: dict[str, dict[Hook, Any]] = {}
"""Library -> hook -> the object that the hook replaced."""


class Installation:
    """The libraries that one call of `install()` replaced.

    As a context manager, it uninstalls them on exit, even if nested or concurrent blocks still want
    them: call `install()` outside of any block to keep a library installed for the process.

    Attributes:
        names: the libraries that this call installed, without those that already were.
    """

    names: tuple[str, ...]

    def __init__(self, replaced: dict[str, dict[Hook, Any]]) -> None:
        self.names = tuple(replaced)
        self._replaced = replaced

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _lock:
            # A library that was uninstalled in the meantime may belong to another installation now.
            names = [name for name in self.names if _installed.get(name) is self._replaced[name]]
            # The exception from the block matters more than a failure to uninstall.
            with suppress(RuntimeError) if error is not None else nullcontext():
                if names:
                    uninstall(*names)

    def __repr__(self) -> str:
        return f"Installation(names={self.names!r})"


def install(*names: str) -> Installation:
    """Make libraries parse event streams with sse_fast, in this process, from now on.

    Streams that are already being read keep their parser. The call is atomic: if one name is
    refused, nothing changes. Names that are already installed stay installed.

    Args:
        names: Keys of `LIBRARIES`.

    Returns:
        The installation. Use it as a context manager to uninstall at the end of a block.

    Raises:
        ValueError: No name was given, or one that is not in `LIBRARIES`.
        ImportError: A library is not installed.
        UnknownLayout: A part of a library is missing, has other parameters, reads a test stream
            differently, or was replaced by a third party. A wrapper made with `functools.wraps`
            looks like the original: it is replaced too, and restored by `uninstall()`.
    """
    _check_names(names)
    if not names:
        raise ValueError(f"install() needs at least one name: {', '.join(LIBRARIES)}")
    # Import before taking the lock, libraries first: import hooks may call install() themselves.
    for name in names:
        load_library(name)
    modules = {name: load_replacement(name) for name in names}
    with _lock:
        done: dict[str, dict[Hook, Any]] = {}
        try:
            for name, module in modules.items():
                before = _installed.get(name, {})
                if before and all(hook.is_in_place for hook in before):
                    continue
                # The library is not installed yet, or a part of it was reloaded since.
                done[name] = {}
                _replace_parts(name, module, before, done[name])
        except BaseException:
            for replaced in done.values():
                _restore_parts(replaced)
            raise
        _installed.update(done)
        return Installation(done)


def uninstall(*names: str) -> None:
    """Revert `install()`.

    Args:
        names: Keys of `LIBRARIES`; by default every installed library. Libraries that are not
            installed are ignored.

    Raises:
        ValueError: A name is not in `LIBRARIES`.
        RuntimeError: Other code has replaced the same part since; nothing changes.
    """
    _check_names(names)
    with _lock:
        wanted = [name for name in _installed if name in names or not names]
        for name in wanted:
            for hook in _installed[name]:
                if not hook.is_in_place and not hook.is_original:
                    raise RuntimeError(
                        f"{hook} was replaced by {hook.current!r} after install(): undo that first"
                    )
        for name in wanted:
            _restore_parts(_installed.pop(name))


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in LIBRARIES:
            raise ValueError(f"Unknown library {name!r}: choose from {', '.join(LIBRARIES)}")


def _replace_parts(
    name: str, module: Any, earlier: dict[Hook, Any], replaced: dict[Hook, Any]
) -> None:
    hooks: list[Hook] = module.find_hooks()
    for hook in hooks:
        if not hook.is_in_place and not hook.is_original:
            raise UnknownLayout(
                f"{hook} was replaced by {hook.current!r}, which does not belong to "
                f"{LIBRARIES[name].distribution}: undo that first, or leave {name!r} out"
            )
    before = _read_probe(name, module)
    for hook in hooks:
        replaced[hook] = earlier.get(hook, hook.current) if hook.is_in_place else hook.current
        setattr(hook.owner, hook.name, hook.replacement)
    after = _read_probe(name, module)
    if before != after:
        raise LIBRARIES[name].unknown_layout(f"the events {after} of {_PROBE!r}", str(before))


def _restore_parts(replaced: dict[Hook, Any]) -> None:
    for hook, original in replaced.items():
        if hook.is_in_place:
            setattr(hook.owner, hook.name, original)


def _read_probe(name: str, module: Any) -> list[Any]:
    """Read `_PROBE` and return its events as values, since some event classes lack `__eq__`."""
    try:
        return [
            event if isinstance(event, dict) else (type(event).__name__, dict(vars(event)))
            for event in module.read_events([_PROBE])
        ]
    except Exception as error:
        raise LIBRARIES[name].unknown_layout(f"the events of {_PROBE!r}", repr(error)) from error
