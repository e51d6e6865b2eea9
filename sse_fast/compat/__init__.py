"""Names and decoders of other libraries, with the parser of sse_fast.

- `httpx_sse` and `sseclient` are modules to be imported in place of httpx-sse and sseclient-py;
- `openai` and `anthropic` have an `SSEDecoder` for the SDK of that name;
- `install()` has libraries that are there use this parser, and `uninstall()` takes it back.

What the originals do otherwise than the standard is kept, but for what loses data: docs/compat.md.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext, suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sse_fast.compat._hooks import LIBRARIES, Hook, UnknownLayout

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LIBRARIES", "Installation", "UnknownLayout", "install", "uninstall"]

# Each way in which the originals differ from the standard, and each end-of-line; nothing that this
# package reads otherwise.
_PROBE = (
    b": comment\nretry: +5\nid: 7\n\n\nevent: a\n\ndata: x\ndata: y\nunknown: z\n\nevent: b\r\n"
    b"retry: 0x\r\ndata\r\n\r\nid\n\n\nevent: c\rdata: \xc3\xa9\xe2\x80\xa8\r\rdata: the end\n"
)

_lock = threading.RLock()
_installed: dict[str, dict[Hook, Any]] = {}
"""By library, each hook with what it replaced."""


class Installation:
    """What one `install()` has put in place; as a context manager it takes that away again.

    Also from blocks within that came later, in another thread say: whoever wants to keep a library
    installed for the whole program installs it before.

    Attributes:
        names: the libraries; those are not among them that had been installed before.
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
            # Not what was taken away meanwhile, and perhaps installed anew.
            names = [name for name in self.names if _installed.get(name) is self._replaced[name]]
            # What is raised already says more than that somebody else is in the way.
            with suppress(RuntimeError) if error is not None else nullcontext():
                if names:
                    uninstall(*names)

    def __repr__(self) -> str:
        return f"Installation(names={self.names!r})"


def install(*names: str) -> Installation:
    """Have libraries parse event streams with sse_fast, in this process, from now on.

    Streams that are being read go on as they began. All of the names or none: if one is refused,
    nothing is changed. A name that is installed stays so.

    Args:
        names: of `LIBRARIES`.

    Returns:
        What was installed: a context manager, if it is to be for a while only.

    Raises:
        ValueError: no name, or one that is not of `LIBRARIES`.
        ImportError: a library is not there.
        UnknownLayout: it is there, but a part is missing, is called otherwise, reads a stream
            otherwise, or is somebody else's. A wrapper by `functools.wraps` cannot be told from the
            original: it is passed by until `uninstall()`.
    """
    _check_names(names)
    if not names:
        raise ValueError(f"Expected what to install: some of {', '.join(LIBRARIES)}")
    # Before the lock is taken, the libraries first: what hangs on their import may come here too.
    for name in names:
        LIBRARIES[name].module(name)
    modules = {name: import_module(f"sse_fast.compat.{name}") for name in names}
    with _lock:
        done: dict[str, dict[Hook, Any]] = {}
        try:
            for name, module in modules.items():
                before = _installed.get(name, {})
                if before and all(hook.is_in_place for hook in before):
                    continue
                # For the first time, or anew as a part of the library was loaded anew.
                done[name] = {}
                _put_in_place(name, module, before, done[name])
        except BaseException:
            for replaced in done.values():
                _put_back(replaced)
            raise
        _installed.update(done)
        return Installation(done)


def uninstall(*names: str) -> None:
    """Take back what `install()` did.

    Args:
        names: of `LIBRARIES`; none: all of them. What is not installed stays so.

    Raises:
        ValueError: a name that is not of `LIBRARIES`.
        RuntimeError: somebody else has replaced the same part since; nothing is changed.
    """
    _check_names(names)
    with _lock:
        wanted = [name for name in _installed if name in names or not names]
        for name in wanted:
            for hook in _installed[name]:
                if not hook.is_in_place and not hook.is_original:
                    raise RuntimeError(
                        f"Expected {hook} as install() left it, found {hook.found!r}: "
                        "take that back first"
                    )
        for name in wanted:
            _put_back(_installed.pop(name))


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in LIBRARIES:
            raise ValueError(f"Expected some of {', '.join(LIBRARIES)}, got {name!r}")


def _put_in_place(
    name: str, module: Any, earlier: dict[Hook, Any], replaced: dict[Hook, Any]
) -> None:
    hooks: list[Hook] = module.hooks()
    for hook in hooks:
        if not hook.is_in_place and not hook.is_original:
            raise UnknownLayout(
                f"Expected {hook} as {LIBRARIES[name].distribution} made it, found somebody else's "
                f"{hook.found!r}: take that back first, or leave {name!r} out"
            )
    before = _read(name, module)
    for hook in hooks:
        replaced[hook] = earlier.get(hook, hook.found) if hook.is_in_place else hook.found
        setattr(hook.owner, hook.name, hook.replacement)
    after = _read(name, module)
    if before != after:
        raise LIBRARIES[name].unknown(f"the events {after} of {_PROBE!r}", str(before))


def _put_back(replaced: dict[Hook, Any]) -> None:
    for hook, original in replaced.items():
        if hook.is_in_place:
            setattr(hook.owner, hook.name, original)


def _read(name: str, module: Any) -> list[Any]:
    """The events of `_PROBE`, to be compared: some classes of events only equal themselves."""
    try:
        return [
            event if isinstance(event, dict) else (type(event).__name__, dict(vars(event)))
            for event in module.read([_PROBE])
        ]
    except Exception as error:
        raise LIBRARIES[name].unknown(f"the events of {_PROBE!r}", repr(error)) from error
