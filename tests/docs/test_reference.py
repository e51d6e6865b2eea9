"""The reference has every public name, argument, default and field."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

import sse_fast
from tests.support.pages import blocks, read

API = read("docs/reference/api.md")


def section(title: str) -> str:
    _, found, text = API.partition(f"\n## {title}\n")
    assert found, title
    return text.partition("\n## ")[0]


def test_api_names_every_public_name() -> None:
    named = set(re.findall(r"\w+", API))
    assert set(sse_fast.__all__) <= named


def rows_of_three(text: str) -> dict[str, str]:
    """The rows of tables of arguments or fields: name -> default."""
    rows = re.findall(r"^\| `(\w+)` \| *([^|]*?) *\| [^|]+ \|$", text, re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize(
    "title",
    [
        "Parser",
        "iter_events, aiter_events",
        "relay",
        "open_stream, aopen_stream",
        "EventSource, AsyncEventSource",
        "read_columns, iter_columns",
    ],
)
def test_api_has_every_argument_and_default(title: str) -> None:
    # In columns, the former name of `oversize`.
    aliases = {"on_error"} if "columns" in title else set()
    wanted: dict[str, Any] = {}
    for name in title.split(", "):
        for parameter in inspect.signature(getattr(sse_fast, name)).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in aliases:
                wanted[parameter.name] = parameter.default
    rows = rows_of_three(section(title))
    assert set(rows) == set(wanted)
    for name, default in wanted.items():
        if name == "oversize":
            # None in the signature, which tells it from the former name.
            assert rows[name] == '`"raise"`'
        elif isinstance(default, (str, bool, float)) or default is None:
            assert rows[name].strip("`").replace('"', "'") == repr(default), name


def test_reconnection_has_every_field_and_default() -> None:
    _, _, text = read("docs/reference/reconnection.md").partition("\n## Fields\n")
    rows = rows_of_three(text)
    fields = {
        each.name: each.default
        for each in dataclasses.fields(sse_fast.ReconnectPolicy)
        if not each.name.startswith("_")
    }
    assert list(rows) == list(fields)
    for name, default in fields.items():
        if name == "retry_statuses":
            assert default == {408, 425, 429, *range(500, 600)} - {501, 505}
        else:
            assert rows[name] == repr(default)


def test_errors_are_those_of_the_package() -> None:
    (tree,) = [block.code for block in blocks("docs/reference/api.md", "text")]
    named = set(
        re.findall(r"\b(?:[A-Z]\w+Error|[A-Z]\w+Timeout|\w+Incomplete|EventTooLarge)\b", tree)
    )
    errors = {
        name
        for name in sse_fast.__all__
        if isinstance(getattr(sse_fast, name), type)
        and issubclass(getattr(sse_fast, name), Exception)
    }
    assert named == errors
    assert issubclass(sse_fast.StreamTimeout, sse_fast.TransportError)
