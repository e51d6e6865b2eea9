"""The parts of other libraries that `install()` replaces, and checks of their layout."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

from sse_fast._errors import SSEError

__all__ = ["LIBRARIES", "Hook", "Library", "UnknownLayout"]


class UnknownLayout(SSEError):
    """The installed version of a library has a layout that sse_fast does not know."""


class Hook(NamedTuple):
    """A part of a library, and the replacement that `install()` puts in its place."""

    owner: Any
    """The module or class that has the part."""
    name: str
    replacement: Any

    @property
    def current(self) -> Any:
        """The object in that place now, or None."""
        return vars(self.owner).get(self.name)

    @property
    def is_in_place(self) -> bool:
        """Whether the replacement is installed."""
        return self.current is self.replacement

    @property
    def is_original(self) -> bool:
        """Whether the current object comes from the library itself."""
        return _package_of(self.current) == _package_of(self.owner)

    def __str__(self) -> str:
        return f"{_path_of(self.owner)}.{self.name}"


def _path_of(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__


def _package_of(part: Any) -> str:
    path = part.__name__ if isinstance(part, ModuleType) else getattr(part, "__module__", None)
    return str(path).partition(".")[0]


class Library(NamedTuple):
    """A library whose layout is known.

    Attributes:
        name: Its name for `install()`, and of its top-level package.
        distribution: Its name for pip.
        versions: The versions known to have this layout, as a pip specifier.
    """

    name: str
    distribution: str
    versions: str

    def find_version(self) -> str | None:
        """Return the installed version, or None if the library is not installed."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def load_module(self, path: str, load: Callable[[], object]) -> Any:
        """Import and return a module of the library.

        Args:
            path: Its name.
            load: Imports it by a statement, which freezing tools see. It imports the package first,
                as other code does: if another thread is importing it right now, importing a
                submodule alone would find half-initialized modules.

        Raises:
            ImportError: The library is not installed.
            UnknownLayout: It is installed, but has no such module.
        """
        package = path.partition(".")[0]
        try:
            load()
            return sys.modules[path]
        except ModuleNotFoundError as error:
            if error.name == package:
                raise ImportError(
                    f"The library {package!r} is not installed: "
                    f"pip install '{self.distribution}{self.versions}'"
                ) from None
            if error.name is None or not error.name.startswith(f"{package}."):
                raise
            raise self.unknown_layout(f"a module {error.name}", "none") from None

    def find_part(self, owner: Any, name: str, parameters: str | None = None) -> Any:
        """Return a part of a module or class after checking its signature.

        Args:
            owner: The module or class.
            name: The attribute.
            parameters: The expected names of its parameters, separated by ", "; None skips the
                check.

        Raises:
            UnknownLayout: The part is missing, or has other parameters.
        """
        path = f"{_path_of(owner)}.{name}"
        try:
            found = inspect.getattr_static(owner, name)
        except AttributeError:
            raise self.unknown_layout(path, "no such attribute") from None
        if parameters is not None:
            try:
                names = ", ".join(inspect.signature(found).parameters)
            except (TypeError, ValueError):
                raise self.unknown_layout(f"{path}({parameters})", repr(found)) from None
            if names != parameters:
                raise self.unknown_layout(f"{path}({parameters})", f"({names})")
        return found

    def unknown_layout(self, expected: str, found: str) -> UnknownLayout:
        """Return the error for a part that differs from the known layout."""
        return UnknownLayout(
            f"Unknown layout of {self.distribution} {self.find_version()}: "
            f"expected {expected} as in {self.distribution} {self.versions}, found {found}; "
            f"leave {self.name!r} out, or upgrade sse_fast"
        )


LIBRARIES = {
    library.name: library
    for library in (
        Library("openai", "openai", ">=2,<4"),
        Library("anthropic", "anthropic", ">=0.75,<3"),
        Library("httpx2", "httpx2", ">=2.10,<3"),
        Library("httpx_sse", "httpx-sse", ">=0.4.2,<0.5"),
        Library("cohere", "cohere", ">=7.1,<8"),
        Library("mistralai", "mistralai", ">=2.4.7,<4"),
    )
}
"""The libraries that `install()` accepts, by name."""
