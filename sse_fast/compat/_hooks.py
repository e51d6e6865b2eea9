"""The parts of another library: looked up, held against what is known of them, replaced."""

from __future__ import annotations

import inspect
from importlib import import_module, metadata
from types import ModuleType
from typing import Any, NamedTuple

from sse_fast._errors import SSEError

__all__ = ["LIBRARIES", "Hook", "Library", "UnknownLayout"]


class UnknownLayout(SSEError):
    """The installed version of a library is not laid out as any that sse_fast knows."""


class Hook(NamedTuple):
    """What `install()` puts in place of a part of a library."""

    owner: Any
    """The module or class."""
    name: str
    replacement: Any

    @property
    def found(self) -> Any:
        """What is in that place now."""
        return vars(self.owner).get(self.name)

    @property
    def is_in_place(self) -> bool:
        return self.found is self.replacement

    @property
    def is_original(self) -> bool:
        """What is there is the library's own: neither ours nor anybody else's."""
        return _package_of(self.found) == _package_of(self.owner)

    def __str__(self) -> str:
        return f"{_path_of(self.owner)}.{self.name}"


def _path_of(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__


def _package_of(part: Any) -> str:
    path = part.__name__ if isinstance(part, ModuleType) else getattr(part, "__module__", None)
    return str(path).partition(".")[0]


class Library(NamedTuple):
    """A library as it is known here.

    Attributes:
        name: what `install()` calls it.
        distribution: what pip calls it.
        versions: those that have the layout, as pip would write them.
    """

    name: str
    distribution: str
    versions: str

    def version(self) -> str | None:
        """The version that is installed; None: none is."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def module(self, path: str) -> Any:
        """Import a module of the library.

        Raises:
            ImportError: the library is not installed.
            UnknownLayout: it is, without this module.
        """
        package = path.partition(".")[0]
        try:
            # The package first, as everybody else imports it: a thread that is at it meanwhile
            # would find its parts half done otherwise.
            import_module(package)
            return import_module(path)
        except ModuleNotFoundError as error:
            if error.name == package:
                raise ImportError(
                    f"Expected the library {package!r}, which is not installed: "
                    f"pip install '{self.distribution}{self.versions}'"
                ) from None
            if error.name is None or not error.name.startswith(f"{package}."):
                raise
            raise self.unknown(f"a module {path}", "none") from None

    def part(self, owner: Any, name: str, parameters: str | None = None) -> Any:
        """Return a part of a module or class; if it is to be called, with these parameters.

        Raises:
            UnknownLayout: it is not there, or is called otherwise.
        """
        what = f"{_path_of(owner)}.{name}"
        try:
            found = inspect.getattr_static(owner, name)
        except AttributeError:
            raise self.unknown(what, "nothing of that name") from None
        if parameters is not None:
            try:
                names = ", ".join(inspect.signature(found).parameters)
            except (TypeError, ValueError):
                raise self.unknown(f"{what}({parameters})", repr(found)) from None
            if names != parameters:
                raise self.unknown(f"{what}({parameters})", f"({names})")
        return found

    def unknown(self, expected: str, found: str) -> UnknownLayout:
        return UnknownLayout(
            f"Expected {expected}, as {self.distribution} {self.versions} has it, "
            f"found {found} in {self.distribution} {self.version()}: "
            f"leave {self.name!r} out, or look for a newer sse_fast"
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
"""What `install()` takes, by name."""
