"""Streams for the benchmarks: seeded, named, and with the events that a parser has to give."""

from __future__ import annotations

import json
import random
from typing import NamedTuple


class Stream(NamedTuple):
    """A stream and its events as (type, data, id)."""

    name: str
    blocks: list[bytes]
    """The bytes of one event each."""
    events: list[tuple[str, str, str]]

    def chunks(self, size: int | None) -> list[bytes]:
        """In pieces of `size` bytes; None: one event each."""
        if size is None:
            return self.blocks
        whole = b"".join(self.blocks)
        return [whole[at : at + size] for at in range(0, len(whole), size)]


def openai_chunks(count: int) -> Stream:
    """Stream a: the chunks of an OpenAI chat completion, about 330 bytes of ASCII JSON each."""
    dice = random.Random(42)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    words = ["".join(dice.choices(letters[:26], k=dice.randint(1, 9))) for _ in range(500)]
    completion = "chatcmpl-" + "".join(dice.choices(letters, k=29))
    blocks, events = [], []
    for _ in range(count):
        data = json.dumps(
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
                        "delta": {"content": " " + dice.choice(words)},
                        "logprobs": None,
                        "finish_reason": None,
                    }
                ],
                "usage": None,
                "obfuscation": "".join(dice.choices(letters, k=dice.randint(4, 12))),
            },
            separators=(",", ":"),
        )
        blocks.append(b"data: %b\n\n" % data.encode())
        events.append(("message", data, ""))
    return Stream("a", blocks, events)
