"""The vectors recorded from browsers: `spec` where Chromium and the standard differ."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.support import DATA
from tests.support.each import check_each
from tests.support.reference import cut

VECTORS = json.loads((DATA / "vectors.json").read_bytes())
NAMED = [(vector["name"], vector) for vector in VECTORS]


def test_vectors_file_is_complete() -> None:
    assert len(VECTORS) == 397
    assert sum("dispatch_after_chunk" in vector for vector in VECTORS) == 103


def test_parser_agrees_with_browsers(core: Any) -> None:
    check_each(NAMED, lambda vector: check_agreement(core, vector))


def check_agreement(core: Any, vector: dict[str, Any]) -> None:
    expected = vector.get("spec", vector)
    retry = expected["retry"]
    recorded = [base64.b64decode(chunk) for chunk in vector["chunks"]]
    stream = b"".join(recorded)
    chunkings = {
        "as recorded": recorded,
        "whole": [stream],
        "byte by byte": cut(stream, range(1, len(stream))),
        "in threes": cut(stream, range(3, len(stream), 3)),
    }
    for name, chunks in chunkings.items():
        parser = core.Parser()
        events, completed_by = [], []
        for index, chunk in enumerate(chunks):
            for event in parser.feed(chunk):
                events.append({"type": event.event, "data": event.data, "last_event_id": event.id})
                completed_by.append(index)

        assert events == expected["events"], name
        assert parser.last_event_id == expected["last_event_id"], name
        assert parser.retry == (None if retry is None else min(int(retry), 2**63 - 1)), name
        if name == "as recorded" and "dispatch_after_chunk" in vector:
            assert completed_by == vector["dispatch_after_chunk"]
