"""A naive implementation of sections 9.2.5 and 9.2.6 over a whole stream, to compare cores with."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """All visible results of a parser after a stream was fed to it."""

    events: list[tuple[str, Any, str, int | None]]
    last_event_id: str
    retry: int | None
    pending: bool
    comments: list[str]
    done: bool = False


def interpret(stream: bytes, until_event: Collection[str] = ()) -> Outcome:
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, unfinished = re.split("\r\n|\r|\n", text)
    events: list[tuple[str, Any, str, int | None]] = []
    comments: list[str] = []
    last_id, retry = "", None
    data, event_type, id_buffer, block_retry, pending = "", "", "", None, False
    names_type = False
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        pending = pending or name != ""
        if line == "":
            last_id = id_buffer
            if data:
                events.append((event_type or "message", data[:-1], last_id, block_retry))
            if (data or names_type) and (event_type or "message") in until_event:
                return Outcome(events, last_id, retry, False, comments, True)
            data, event_type, block_retry, pending = "", "", None, False
            names_type = False
        elif name == "":
            comments.append(value)
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            event_type, names_type = value, True
        elif name == "id" and "\0" not in value:
            id_buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            # int() rejects more than 4300 digits, and 20 digits exceed the maximum already.
            retry = block_retry = min(int(value.lstrip("0")[:20] or "0"), 2**63 - 1)
    pending = pending or (unfinished != "" and unfinished[0] != ":")
    return Outcome(events, last_id, retry, pending, comments)


def feed_all(parser: Any, chunks: Any) -> list[Any]:
    """Return the events of all chunks."""
    return [event for chunk in chunks for event in parser.feed(chunk)]


def parse(core: Any, chunks: Any, **options: Any) -> Outcome:
    """Feed the chunks to a parser of a core."""
    comments: list[str] = []
    parser = core.Parser(on_comment=comments.append, **options)
    events = feed_all(parser, chunks)
    return Outcome(
        [(event.event, event.data, event.id, event.retry) for event in events],
        parser.last_event_id,
        parser.retry,
        parser.pending,
        comments,
        parser.done,
    )


def cut(stream: bytes, places: Any) -> list[bytes]:
    """Cut the stream at the given places."""
    bounds = [0, *sorted(places), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(bounds)]


def chunkings(stream: bytes) -> Iterator[list[bytes]]:
    """Yield the stream whole, in single bytes, in threes, and split in two at every place.

    Long streams are split in two at 64 places.
    """
    yield [stream]
    yield cut(stream, range(1, len(stream)))
    yield cut(stream, range(3, len(stream), 3))
    splits: Any = range(len(stream) + 1)
    if len(stream) > 512:
        splits = random.Random(len(stream)).sample(splits, 64)
    for place in splits:
        yield cut(stream, [place])
