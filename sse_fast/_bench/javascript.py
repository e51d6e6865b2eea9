"""The JavaScript parsers under comparison, run by Node if it is installed.

Nothing is downloaded. By default the packages are looked up from the current folder, into which

    npm install eventsource-parser@4.1.3 @microsoft/fetch-event-source@2.0.1

installs them.
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
    """The versions of an installed parser."""

    version: str
    """The version of its package, which may differ from the one in `JAVASCRIPT`."""
    node: str
    """The version of Node."""


JAVASCRIPT: dict[str, str] = {
    "eventsource-parser (JS)": "eventsource-parser@4.1.3",
    "fetch-event-source (JS)": "@microsoft/fetch-event-source@2.0.1",
}
"""Name -> npm package.

eventsource-parser takes text, so a `TextDecoder` for each stream is part of it. Of
fetch-event-source only the parser is measured, without `fetch`."""

_SCRIPT = Path(__file__).with_name("javascript.mjs")


def find(name: str, folder: Path | None = None) -> Found:
    """Find the versions of a parser and of Node.

    Args:
        name: one of `JAVASCRIPT`.
        folder: where npm installed it, or a folder below that; None: the current folder.

    Raises:
        ImportError: Node or the package is missing; the message says which, and the remedy.
    """
    answer = _run(name, folder)
    return Found(answer["version"], answer["node"])


def read(name: str, chunks: Iterable[bytes], folder: Path | None = None) -> Events:
    """Return the events of a parser, as (type or "message", data, id or "").

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
    """Return the time that a new parser takes for all chunks, in nanoseconds.

    It is the fastest of the passes that fit `seconds` (at least one), in one process and without
    its start. Events are counted and dropped.

    Args:
        name: one of `JAVASCRIPT`.
        chunks: the stream.
        events: the number of events that the stream has.
        seconds: the time to spend.
        folder: as in `find`.

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
        raise ImportError("node is not on the PATH: install Node to measure JavaScript parsers")
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
            f"Node ({node}) failed to run {name} with exit status {done.returncode} and "
            f"{said!r}: it may be too old"
        )
        # For `find`, a parser that does not run is missing.
        raise (ImportError if what is None else RuntimeError)(broken) from None
    if "missing" in answer:
        raise ImportError(
            f"The npm package {package} does not load from {where} "
            f"({answer['missing']}): npm install --prefix {where} {requirement}"
        )
    if "wrong" in answer:
        raise RuntimeError(f"Expected {options[0]} events, but {name} {answer['wrong']}")
    return answer
