"""The JavaScript parsers under comparison, run by Node where it is there; nothing is downloaded.

    npm install eventsource-parser@4.1.3 @microsoft/fetch-event-source@2.0.1

puts them into the current folder, where they are looked for, unless another one is named.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sse_fast._bench.rivals import Events


class Found(NamedTuple):
    """What there is of a parser."""

    version: str
    """Of its package, which need not be the one of `JAVASCRIPT`."""
    node: str
    """The version of Node."""


JAVASCRIPT: dict[str, str] = {
    "eventsource-parser (JS)": "eventsource-parser@4.1.3",
    "fetch-event-source (JS)": "@microsoft/fetch-event-source@2.0.1",
}
"""Name -> what npm installs.

eventsource-parser takes text: a `TextDecoder` for each stream belongs to it. Of fetch-event-source
it is the parser alone, without the `fetch`."""

_SCRIPT = Path(__file__).with_name("javascript.mjs")


def find(name: str, folder: Path | None = None) -> Found:
    """Look a parser up.

    Args:
        name: one of `JAVASCRIPT`.
        folder: where npm installed it, here or in a folder above; None: the current one.

    Raises:
        ImportError: there is no Node, or no such package; it says which, and what to do.
    """
    answer = _run(name, folder)
    return Found(answer["version"], answer["node"])


def read(name: str, chunks: Iterable[bytes], folder: Path | None = None) -> Events:
    """The events that a parser gives, as (type or "message", data, id or "").

    Raises:
        ImportError: as `find` does.
        RuntimeError: the parser failed.
    """
    events = _run(name, folder, "read", chunks)["events"]
    return [(event_type, data, event_id) for event_type, data, event_id in events]


def time(
    name: str,
    chunks: Iterable[bytes],
    events: int,
    seconds: float = 1.0,
    folder: Path | None = None,
) -> float:
    """The time that a new parser takes for all of the chunks, in nanoseconds.

    It is the least of as many passes as fit `seconds`, but at least of one, in one process and
    without its start. Each event is counted and dropped.

    Args:
        events: how many there have to be.

    Raises:
        ImportError: as `find` does.
        RuntimeError: the parser failed, or gave another number of events.
    """
    return float(_run(name, folder, "time", chunks, str(events), str(seconds))["ns"])


def _run(
    name: str,
    folder: Path | None,
    what: str | None = None,
    chunks: Iterable[bytes] = (),
    *options: str,
) -> dict[str, Any]:
    if name not in JAVASCRIPT:
        raise ValueError(f"Expected a parser of {', '.join(map(repr, JAVASCRIPT))}, got {name!r}")
    node = shutil.which("node")
    if node is None:
        raise ImportError(
            "Expected Node (node) on the PATH, got none: without it there are no numbers of "
            "JavaScript parsers"
        )
    requirement = JAVASCRIPT[name]
    package = re.sub(r"(?<=.)@.*", "", requirement)
    where = (folder or Path()).resolve()
    command = [node, str(_SCRIPT), package, str(where)]
    with tempfile.TemporaryDirectory() as temporary:
        if what is not None:
            file = Path(temporary, "chunks")
            with file.open("wb") as written:
                for chunk in chunks:
                    written.write(len(chunk).to_bytes(4, "little") + chunk)
            command += [what, str(file), *options]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = " ".join((done.stderr or done.stdout).split())[:200] or "nothing"
        broken = (
            f"Expected Node ({node}) to run {name}, got exit status {done.returncode} "
            f"and {said!r}: it may be too old"
        )
        # Asked whether it is there, it is not.
        raise (ImportError if what is None else RuntimeError)(broken) from None
    if "missing" in answer:
        raise ImportError(
            f"Expected the npm package {package} in {where} or above, got none that loads "
            f"({answer['missing']}): npm install --prefix {where} {requirement}"
        )
    if "wrong" in answer:
        raise RuntimeError(f"Expected {options[0]} events, but {name} {answer['wrong']}")
    return answer
