"""Streams for the benchmarks: seeded, named, and with the events that a parser must return."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

CHUNKINGS: dict[str, int | None] = {
    "whole": 0,
    "64 KiB": 65536,
    "4 KiB": 4096,
    "one event": None,
    "16 bytes": 16,
    "1 byte": 1,
}
"""Name -> bytes of a chunk; None: one event in each; 0: the whole stream in one."""


class Stream(NamedTuple):
    """A stream and its events as (type, data, id)."""

    name: str
    what: str
    """One line for tables."""
    blocks: list[bytes]
    """The bytes of one event each."""
    events: list[tuple[str, str, str]]

    def chunks(self, chunking: str) -> list[bytes]:
        """Return the stream in chunks of a kind that `CHUNKINGS` names."""
        if chunking not in CHUNKINGS:
            raise ValueError(f"Expected a chunking of {_listed(CHUNKINGS)}, got {chunking!r}")
        size = CHUNKINGS[chunking]
        if size is None:
            return list(self.blocks)
        whole = b"".join(self.blocks)
        size = size or len(whole)
        return [whole[at : at + size] for at in range(0, len(whole), size)]


def make(name: str, size: int | None = None) -> Stream:
    """Make a stream.

    Args:
        name: one of `STREAMS`.
        size: the number of events, or for e1 and e2 the bytes of data in the one event. None: a
            stream that fits a processor's cache, some 256 KiB (e1 and e2: 1 MiB).
    """
    if name not in STREAMS:
        raise ValueError(f"Expected a stream of {_listed(STREAMS)}, got {name!r}")
    if size is None:
        size = _SIZES[name]
    if size < 1:
        raise ValueError(f"Expected a size of at least 1, got {size}")
    return STREAMS[name](size)


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(map(repr, names))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# Words of other languages, by the width of their characters in memory.
_WORDS = (
    "où déjà été naïve cœur garçon señal mañana corazón über schön größte Straße fjørd smörgås",
    "привет мир это слово который потом ничего большой москва вопрос ответ сегодня",
    "今日 世界 東京 你好 我们 因为 問題 言語 학교 감사 時間 の です",
    "🎉 🚀 😀 👍🏽 🌍 ❤️‍🔥 🧪 🐍",
)


def openai_chunks(count: int) -> Stream:
    """Make stream a: the chunks of an OpenAI chat completion, 330 bytes of ASCII JSON each."""
    dice = random.Random(42)
    words = ["".join(dice.choices(_LETTERS[:26], k=dice.randint(1, 9))) for _ in range(500)]
    return _openai(
        "a", "OpenAI chat chunks, 330 B of JSON", dice, count, lambda _: dice.choice(words)
    )


def openai_chunks_of_all_scripts(count: int) -> Stream:
    """Make stream au: like a, but with non-ASCII text in 30 % of the events."""
    dice = random.Random(43)
    words = ["".join(dice.choices(_LETTERS[:26], k=dice.randint(1, 9))) for _ in range(500)]
    scripts = [line.split() for line in _WORDS]
    others = set(dice.sample(range(count), round(0.3 * count)))
    return _openai(
        "au",
        "OpenAI chat chunks, 30 % of them not ASCII",
        dice,
        count,
        lambda number: dice.choice(dice.choice(scripts) if number in others else words),
    )


def _openai(
    name: str, what: str, dice: random.Random, count: int, word: Callable[[int], str]
) -> Stream:
    completion = "chatcmpl-" + "".join(dice.choices(_LETTERS, k=29))
    blocks, events = [], []
    for number in range(count):
        data = _json(
            {
                "id": completion,
                "object": "chat.completion.chunk",
                "created": 1_763_000_000,
                "model": "gpt-4o-mini-2024-07-18",
                "service_tier": "default",
                "system_fingerprint": "fp_560af6e559",
                "choices": [
                    {
                        "index": 0,
                        "delta": {"content": " " + word(number)},
                        "logprobs": None,
                        "finish_reason": None,
                    }
                ],
                "usage": None,
                "obfuscation": "".join(dice.choices(_LETTERS, k=dice.randint(4, 12))),
            }
        )
        blocks.append(b"data: %b\n\n" % data.encode())
        events.append(("message", data, ""))
    return Stream(name, what, blocks, events)


def anthropic_deltas(count: int) -> Stream:
    """Make stream b: the deltas of an Anthropic message, about 130 bytes each."""
    dice = random.Random(44)
    words = ["".join(dice.choices(_LETTERS[:26], k=dice.randint(1, 9))) for _ in range(500)]
    event_type = "content_block_delta"
    blocks, events = [], []
    for _ in range(count):
        text = " ".join(["", *dice.choices(words, k=dice.randint(1, 4))])
        delta = {"type": "text_delta", "text": text}
        data = _json({"type": event_type, "index": 0, "delta": delta})
        blocks.append(b"event: %b\ndata: %b\n\n" % (event_type.encode(), data.encode()))
        events.append((event_type, data, ""))
    return Stream("b", "Anthropic deltas: event: and data:, 130 B", blocks, events)


def recent_changes(count: int) -> Stream:
    """Make stream c: Wikimedia's recent changes, with 150 bytes of id and 1.2 kB of data each."""
    dice = random.Random(45)
    hexadecimal = "0123456789abcdef"
    words = ["".join(dice.choices(_LETTERS[:26], k=dice.randint(2, 10))) for _ in range(500)]
    blocks, events = [], []
    for number in range(count):
        milliseconds = 1_763_000_000_000 + number * 37
        when = datetime.fromtimestamp(milliseconds // 1000, timezone.utc)
        revision = dice.randint(1_200_000_000, 1_299_999_999)
        length = dice.randint(1000, 90_000)
        title = " ".join(dice.choices(words, k=dice.randint(2, 4))).capitalize()
        link = "https://en.wikipedia.org/wiki/" + title.replace(" ", "_")
        comment = " ".join(dice.choices(words, k=dice.randint(12, 36)))
        topics = ("eqiad.mediawiki.recentchange", "codfw.mediawiki.recentchange")
        event_id = _json(
            [
                {"topic": topics[0], "partition": 0, "timestamp": milliseconds},
                {"topic": topics[1], "partition": 0, "offset": -1},
            ]
        )
        data = _json(
            {
                "$schema": "/mediawiki/recentchange/1.0.0",
                "meta": {
                    "uri": link,
                    "request_id": "".join(dice.choices(hexadecimal, k=36)),
                    "id": "".join(dice.choices(hexadecimal, k=36)),
                    "domain": "en.wikipedia.org",
                    "stream": "mediawiki.recentchange",
                    "dt": f"{when:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z",
                    "topic": topics[0],
                    "partition": 0,
                    "offset": 5_800_000_000 + number,
                },
                "id": dice.randint(1_900_000_000, 1_999_999_999),
                "type": "edit",
                "namespace": 0,
                "title": title,
                "title_url": link,
                "comment": comment,
                "timestamp": milliseconds // 1000,
                "user": dice.choice(words).capitalize() + str(dice.randint(1, 999)),
                "bot": dice.random() < 0.3,
                "notify_url": f"https://en.wikipedia.org/w/index.php?diff={revision}&oldid=12345",
                "minor": dice.random() < 0.2,
                "patrolled": True,
                "length": {"old": length, "new": length + dice.randint(-200, 900)},
                "revision": {"old": revision - dice.randint(1, 10**6), "new": revision},
                "server_url": "https://en.wikipedia.org",
                "server_name": "en.wikipedia.org",
                "server_script_path": "/w",
                "wiki": "enwiki",
                "parsedcomment": f'<span dir="auto" class="autocomment">{comment}</span>',
            }
        )
        blocks.append(b"event: message\nid: %b\ndata: %b\n\n" % (event_id.encode(), data.encode()))
        events.append(("message", data, event_id))
    return Stream("c", "Wikimedia changes: event:, id:, data:, 1.5 kB", blocks, events)


def ticks(count: int) -> Stream:
    """Make stream d: the shortest events found in practice, 13 bytes each."""
    dice = random.Random(46)
    numbers = [str(dice.randint(10_000, 99_999)) for _ in range(count)]
    blocks = [b"data: %b\n\n" % number.encode() for number in numbers]
    events = [("message", number, "") for number in numbers]
    return Stream("d", "ticks, data: 12345", blocks, events)


def one_line(size: int) -> Stream:
    """Make stream e1: one event of `size` bytes in one line, like an image in base64."""
    data = _base64(47, size)
    block = b"data: %b\n\n" % data.encode()
    return Stream("e1", "one event in one line, 1 MiB by default", [block], [("message", data, "")])


def many_lines(size: int) -> Stream:
    """Make stream e2: one event of `size` bytes in lines of 105 bytes, 10,000 lines at 1 MiB."""
    text = _base64(48, size)
    count = max(1, size * 10_000 // 2**20)
    bounds = [size * number // count for number in range(count + 1)]
    lines = [text[bounds[number] : bounds[number + 1]] for number in range(count)]
    block = "".join(f"data: {line}\n" for line in lines) + "\n"
    return Stream(
        "e2",
        "one event in 10,000 lines, 1 MiB by default",
        [block.encode()],
        [("message", "\n".join(lines), "")],
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _base64(seed: int, size: int) -> str:
    return base64.b64encode(random.Random(seed).randbytes(size))[:size].decode()


STREAMS: dict[str, Callable[[int], Stream]] = {
    "a": openai_chunks,
    "au": openai_chunks_of_all_scripts,
    "b": anthropic_deltas,
    "c": recent_changes,
    "d": ticks,
    "e1": one_line,
    "e2": many_lines,
}
"""Name -> function that makes the stream from a number of events (e1 and e2: of bytes)."""
_SIZES = {"a": 800, "au": 800, "b": 2000, "c": 180, "d": 20_000, "e1": 2**20, "e2": 2**20}
