"""Classes of events, and helpers, for the tests of the dialects."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sse_fast.compat._dialect import Dialect
from tests.support.commands import run_python

BOM = b"\xef\xbb\xbf"


class Plain:
    """Attributes in a dict, and a constructor that must not be called."""

    def __init__(self, no_default: object) -> None:
        raise AssertionError


@dataclass(frozen=True)
class Frozen:
    event: str | None
    data: str
    id: str | None
    retry: Any
    lines: list[str] | None = None

    def __post_init__(self) -> None:
        raise AssertionError


class Hidden:
    """A class whose properties read underscored attributes, as in httpx-sse."""

    event = property(lambda self: self._event)
    data = property(lambda self: self._data)
    id = property(lambda self: self._id)
    retry = property(lambda self: self._retry)
    lines = property(lambda self: self._lines)


class Slotted:
    __slots__ = ("data", "event", "id", "lines", "retry")


class Stubborn:
    """A class whose attributes cannot be set."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError

    def __new__(cls) -> Any:
        return super().__new__(cls)


NAMES = ("event", "data", "id", "retry", "lines")
CLASSES: dict[type | None, tuple[str, ...]] = {
    None: NAMES,
    Plain: NAMES,
    Frozen: NAMES,
    Hidden: tuple(f"_{name}" for name in NAMES),
    Slotted: NAMES,
    Stubborn: NAMES,
}


def dialect_parser(core: ModuleType) -> Any:
    """Return the class DialectParser that belongs to a core of the parser."""
    name = core.__name__.rpartition("_")[2]
    return import_module(f"sse_fast.compat._dialect_{name}").DialectParser


def dialect(event_class: type | None = Plain, **flags: Any) -> Dialect:
    """Make a dialect that names the attributes of the class."""
    attributes = CLASSES[event_class][: 5 if flags.get("keep_lines") else 4]
    return Dialect(event_class, attributes, **flags)


def values(event: Any, keep_lines: bool = False) -> tuple[Any, ...]:
    """Return the values of an event, in the order of `attributes`."""
    found = (event.event, event.data, event.id, event.retry)
    return (*found, event.lines) if keep_lines else found


def odd(value: str) -> int | None:
    number = int(value)
    if number % 2:
        raise UnicodeError
    return number or None


class Fault(Exception):
    pass


def parse_dialect(
    core: Any, settings: Dialect, *chunks: bytes, **options: Any
) -> list[tuple[Any, ...]]:
    """Return the attributes of the events of the chunks."""
    parser = dialect_parser(core)(settings, **options)
    has_lines = settings.keep_lines and settings.event_class is not None
    return [values(event, has_lines) for chunk in chunks for event in parser.feed(chunk)]


def run_with(core: Any, code: str) -> str:
    """Run code in a process of its own, as it may crash."""
    begin = (
        f"from {core.__name__} import *\n"
        f"from {dialect_parser(core).__module__} import DialectParser\n"
        "from sse_fast.compat._dialect import Dialect\n"
    )
    # Outside of the source tree, which may have no extension.
    return run_python(begin + code, directory=Path(tempfile.gettempdir()))
