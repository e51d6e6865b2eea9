"""Names and decoders of other libraries, with the parser of sse_fast.

- `httpx_sse` and `sseclient` are modules to be imported in place of httpx-sse and sseclient-py;
- `openai` and `anthropic` have an `SSEDecoder` for the SDK of that name;
- `install()` has libraries that are there use this parser, and `uninstall()` takes it back.

What the originals do otherwise than the standard is kept, but for what loses data: docs/compat.md.
"""

from __future__ import annotations

import threading
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sse_fast.compat._library import LIBRARIES, Hook, UnknownLayout

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LIBRARIES", "Installation", "UnknownLayout", "install", "uninstall"]

# Each way in which the originals differ from the standard, and each end-of-line; nothing that this
# package reads otherwise.
_PROBE = (
    b": comment\nretry: +5\nid: 7\n\n\nevent: a\n\ndata: x\ndata: y\nunknown: z\n\nevent: b\r\n"
    b"retry: 0x\r\ndata\r\n\r\nid\n\n\nevent: c\rdata: \xc3\xa9\xe2\x80\xa8\r\rdata: the end\n"
)

_lock = threading.Lock()
_installed: dict[str, list[tuple[Hook, Any]]] = {}
"""By library, each hook with what it replaced."""


class Installation:
    """What one `install()` has put in place; as a context manager it takes that away again.

    Attributes:
        names: the libraries; those are not among them that had been installed before.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.names:
            uninstall(*self.names)

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
        UnknownLayout: it is there in a version that is not known here: a part is missing, is called
            otherwise, or reads a stream otherwise.
    """
    _check_names(names)
    if not names:
        raise ValueError(f"Expected what to install: some of {', '.join(LIBRARIES)}")
    with _lock:
        done: list[str] = []
        try:
            for name in dict.fromkeys(names):
                if name not in _installed:
                    done.append(name)
                    _put_in_place(name)
        except BaseException:
            for name in done:
                _put_back(name)
            raise
        return Installation(tuple(done))


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
            for hook, _ in _installed[name]:
                if vars(hook.owner).get(hook.name) is not hook.replacement:
                    raise RuntimeError(
                        f"Expected {hook.owner.__name__}.{hook.name} as install() left it, found "
                        f"{vars(hook.owner).get(hook.name)!r}: take that back first"
                    )
        for name in wanted:
            _put_back(name)


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in LIBRARIES:
            raise ValueError(f"Expected some of {', '.join(LIBRARIES)}, got {name!r}")


def _put_in_place(name: str) -> None:
    module = import_module(f"sse_fast.compat.{name}")
    replaced = [(hook, vars(hook.owner)[hook.name]) for hook in module.hooks()]
    before = _read(name, module)
    # From here on there is something to put back.
    _installed[name] = replaced
    for hook, _ in replaced:
        setattr(hook.owner, hook.name, hook.replacement)
    after = _read(name, module)
    if before != after:
        raise LIBRARIES[name].unknown(f"the events {after} of {_PROBE!r}", str(before))


def _put_back(name: str) -> None:
    for hook, original in _installed.get(name, ()):
        setattr(hook.owner, hook.name, original)
    _installed.pop(name, None)


def _read(name: str, module: Any) -> list[Any]:
    """The events of `_PROBE`, to be compared: some classes of events only equal themselves."""
    try:
        return [
            event if isinstance(event, dict) else (type(event).__name__, vars(event))
            for event in module.read([_PROBE])
        ]
    except Exception as error:
        raise LIBRARIES[name].unknown(f"the events of {_PROBE!r}", repr(error)) from error
