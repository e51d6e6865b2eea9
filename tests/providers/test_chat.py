"""The loop of the README over chat completions as each provider frames them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

import sse_fast
from tests.support.recipes import chunks, recipe
from tests.support.scripted_server import EVENT_STREAM, Play, stream

CHAT = recipe("A chat completion", page="README.md")
CUT_OFF = "\nThe completion was cut off.\n"
ERROR = {"message": "out of luck", "code": 503}
DONE = "[DONE]"


def choice(content: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None, **more}]}


HEL, LO = choice("Hel"), choice("lo")
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"total_tokens": 7}}


@dataclass
class Provider:
    """The chunks of a provider for "Hello": JSON, or text as it is."""

    sent: list[Any]
    error: list[Any] = field(default_factory=lambda: [{"error": ERROR}])
    newline: str = "\n"
    space: str = " "
    keep_alive: str = ""  # a block between any two events

    @property
    def finish(self) -> int:
        """The index of the chunk with the reason of the end."""
        return next(at for at, each in enumerate(self.sent) if '"stop"' in json.dumps(each))

    def encode(self, sent: Iterable[Any]) -> bytes:
        blocks = []
        for each in sent:
            data = each if isinstance(each, str) else json.dumps(each)
            blocks.append(data if "\n" in data else f"data:{self.space}{data}\n\n")
            blocks.append(self.keep_alive)
        return "".join(blocks).replace("\n", self.newline).encode()


OPENAI = [choice(""), HEL, LO, STOP, DONE]
WITH_USAGE = [choice(""), HEL, LO, STOP, USAGE, DONE]
NO_MARKER = [HEL, LO, STOP]
OBJECT_ERROR = [{"object": "error", **ERROR}]
EVENT_ERROR = [f"event: error\ndata: {json.dumps({'error': ERROR})}\n\n"]

PROVIDERS = {
    "OpenAI": Provider([choice(None, logprobs=None), HEL, LO, STOP, USAGE, DONE]),
    "Azure OpenAI": Provider(
        [
            {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
            HEL,
            LO,
            STOP,
            {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}}]},
            DONE,
        ]
    ),
    "Mistral": Provider(
        [
            choice([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]),
            choice([{"type": "text", "text": "Hel"}, {"type": "reference", "reference_ids": [1]}]),
            LO,
            STOP,
            DONE,
        ],
        OBJECT_ERROR,
    ),
    "Groq": Provider(OPENAI, EVENT_ERROR),
    "DeepSeek": Provider(
        [
            {"choices": [{"delta": {"content": None, "reasoning_content": "Hm"}}]},
            *OPENAI,
        ],
        keep_alive=": keep-alive\n\n",
    ),
    "OpenRouter": Provider(
        WITH_USAGE,
        [{"error": ERROR, "choices": [{"delta": {"content": ""}, "finish_reason": "error"}]}],
        keep_alive=": OPENROUTER PROCESSING\n\n",
    ),
    "Ollama": Provider(WITH_USAGE),
    "Cloudflare": Provider(WITH_USAGE),
    "Databricks": Provider(WITH_USAGE),
    "Z.ai": Provider(WITH_USAGE),
    "Snowflake": Provider(WITH_USAGE),
    "Crusoe": Provider(WITH_USAGE),
    "vLLM": Provider(WITH_USAGE, OBJECT_ERROR),
    "Perplexity": Provider(
        [{"choices": [{**each["choices"][0], "message": {"content": "?"}}]} for each in NO_MARKER],
        newline="\r\n",
        keep_alive=": ping - 2026-11-30 09:00:00+00:00\n\n",
    ),
    "Writer": Provider(NO_MARKER),
    "GPUStack": Provider(NO_MARKER),
    "Hugging Face router": Provider([*NO_MARKER, USAGE]),
    "no space after the colon": Provider(OPENAI, space=""),
    "events that are not JSON": Provider(["ping", HEL, "", LO, "null", STOP, DONE]),
    "tool call": Provider(
        [
            {"choices": [{"delta": {"content": None, "tool_calls": [{"index": 0}]}}]},
            {"choices": [{"delta": None}]},
            *OPENAI,
        ]
    ),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_chat_loop_reads_whole_answer(name: str) -> None:
    provider = PROVIDERS[name]
    outcome = CHAT.run(stream(*chunks(provider.encode(provider.sent))))
    assert (outcome.printed, outcome.error) == ("Hello", None)


@pytest.mark.parametrize("name", PROVIDERS)
def test_chat_loop_cut_off_says_so(name: str) -> None:
    """By an end of the body in the middle of an event, and by a lost connection."""
    provider = PROVIDERS[name]
    begun = provider.encode(provider.sent[: provider.finish - 1])
    part = begun + b'data: {"choices": [{"index"'
    outcome = CHAT.run(stream(*chunks(part)))
    assert outcome.printed.endswith(CUT_OFF)
    outcome = CHAT.run(Play(body=chunks(part), framing="chunked-truncated"))
    assert isinstance(outcome.error, sse_fast.TransportError)


@pytest.mark.parametrize("name", PROVIDERS)
def test_chat_loop_end_lost_after_finish_is_whole(name: str) -> None:
    provider = PROVIDERS[name]
    most = provider.encode(provider.sent[: provider.finish + 1])
    for framing in ("close", "chunked", "chunked-truncated"):
        outcome = CHAT.run(Play(body=chunks(most), framing=framing))
        assert (outcome.printed, outcome.error) == ("Hello", None)


@pytest.mark.parametrize("name", PROVIDERS)
def test_chat_loop_raises_error_within_200(name: str) -> None:
    provider = PROVIDERS[name]
    body = provider.encode([HEL, *provider.error])
    outcome = CHAT.run(stream(*chunks(body)))
    assert outcome.printed == "Hel"
    assert isinstance(outcome.error, RuntimeError)
    assert "out of luck" in str(outcome.error)


def test_chat_loop_json_document_within_200_is_in_the_error() -> None:
    document = json.dumps({"error": ERROR}).encode()
    play = Play(fields=[("Content-Type", "application/json")], body=[document], framing="length")
    error = CHAT.run(play).error
    assert isinstance(error, sse_fast.ResponseError)
    assert json.loads(error.response.body) == {"error": ERROR}


def test_chat_loop_bare_json_in_a_stream_is_cut_off() -> None:
    document = json.dumps({"error": ERROR}, indent=1).encode()
    outcome = CHAT.run(Play(fields=[EVENT_STREAM], body=[document], framing="length"))
    assert outcome.printed == CUT_OFF
