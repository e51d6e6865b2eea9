"""A loopback server with the streaming APIs of the SDKs that `install()` supports.

The base URL of an SDK selects what is streamed (`SdkServer.base`): a scenario of one of the `APIS`,
in one of the `WIRE_FORMATS`. A request that the API would reject gets the API's 4xx and error
object.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from tests.support.scripted_server import Play, Request, Stage, serve_stage

KEY = "sk-of-the-tests"
# Characters of two, three and four bytes, and every character at which str.splitlines() splits.
WORDS = (
    "Grüße",
    ", ",
    "日本",
    "語",
    " 🙂",
    "👩‍🚀",
    " a\u2028b",
    "\u0085",
    "c\x0bd",
    "\n\n",
    "data: ",
    "fin",
)
TEXT = "".join(WORDS)
ARGUMENTS = {"city": "Zürich 🏔", "days": [1, 2], "note": "data: x\n\nid: 7"}


class Sent(NamedTuple):
    """An event as an API sends it: its type or None, and its data as an object or text."""

    event: str | None
    data: Any

    @property
    def text(self) -> str:
        if isinstance(self.data, str):
            return self.data
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))


DONE = Sent(None, "[DONE]")


@dataclass(frozen=True)
class Scenario:
    events: Sequence[Sent]
    tail: bytes = b""  # sent after the last event, in every wire format
    framing: Literal["chunked", "chunked-truncated"] = "chunked"
    end: Literal["fin", "hang"] = "fin"

    @property
    def objects(self) -> list[Any]:
        return [sent.data for sent in self.events if not isinstance(sent.data, str)]


# -- Wire formats ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WireFormat:
    """How events are written as bytes, and how the bytes are divided into HTTP chunks."""

    newline: bytes = b"\n"
    bom: bool = False
    comments: bool = False  # before, within and after events
    ids: bool = False  # write id and retry lines
    lines: bool = False  # write objects over several lines
    tight: bool = False  # no space after the colon
    # The largest size of an HTTP chunk in bytes; 0: a single chunk; None: one chunk per event.
    cut: int | None = None

    def block(self, number: int, sent: Sent) -> bytes:
        lines = []
        if self.comments:
            lines += [": keep-alive", ":", ""] if number % 2 else [": ü🙂"]
        if self.ids:
            lines += [f"id: {number}", "retry: 3000"]
        if sent.event is not None:
            lines.append(f"event: {sent.event}")
        if self.comments:
            lines += [":data: nothing", "unknown: field"]
        text = sent.text
        if self.lines and not isinstance(sent.data, str):
            text = json.dumps(sent.data, ensure_ascii=False, indent=1)
        lines += [f"data: {line}" for line in text.split("\n")]
        if self.comments and number % 3 == 0:
            lines += ["", ": ping"]
        if self.tight:
            lines = [line.replace(": ", ":", 1) for line in lines]
        return b"".join(line.encode() + self.newline for line in [*lines, ""])

    def chunks(self, scenario: Scenario) -> list[bytes]:
        blocks = [self.block(number, sent) for number, sent in enumerate(scenario.events, 1)]
        if self.bom:
            blocks[0] = b"\xef\xbb\xbf" + blocks[0]
        if scenario.tail:
            blocks.append(scenario.tail)
        if self.cut is None:
            return blocks
        whole = b"".join(blocks)
        if not self.cut:
            return [whole]
        dice = random.Random(whole)
        pieces, at = [], 0
        while at < len(whole):
            # A BOM is always cut after its first byte.
            size = 1 if self.bom and not at else dice.randint(1, self.cut)
            pieces.append(whole[at : at + size])
            at += size
        return pieces


WIRE_FORMATS = {
    "plain": WireFormat(),
    "at-once": WireFormat(cut=0),
    "crlf": WireFormat(newline=b"\r\n"),
    "cr": WireFormat(newline=b"\r"),
    "comments": WireFormat(comments=True),
    "ids": WireFormat(ids=True),
    "lines": WireFormat(lines=True),
    "tight": WireFormat(tight=True),
    "cut": WireFormat(cut=40),
    "cut-crlf": WireFormat(newline=b"\r\n", comments=True, cut=30),
    "cut-cr": WireFormat(newline=b"\r", lines=True, cut=30),
    "bytes": WireFormat(newline=b"\r\n", cut=1),
    "bom": WireFormat(bom=True),
    "bom-cut": WireFormat(bom=True, cut=30),
}


# -- What is streamed ------------------------------------------------------------------------------


def pieces(text: str) -> list[str]:
    """Split into pieces of four characters, like the arguments of a tool call."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def typed(*objects: dict[str, Any]) -> list[Sent]:
    """Return events whose type is also a member of their object."""
    return [Sent(data["type"], data) for data in objects]


def chat_chunks(*choices: tuple[dict[str, Any], str | None], mistral: bool = False) -> list[Sent]:
    """Return the chunks of a chat completion of OpenAI or Mistral, without the final [DONE]."""
    common = {
        "id": "chatcmpl-C1üßx",
        "object": "chat.completion.chunk",
        "created": 1_763_000_000,
        "model": "mistral-small-latest" if mistral else "gpt-4o-mini-2024-07-18",
    }
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    sent = []
    for delta, finish_reason in choices:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        if mistral:
            sent.append(Sent(None, {**common, "choices": [choice]}))
            continue
        choice["logprobs"] = None
        fields = {"system_fingerprint": "fp_560af6e559", "usage": None}
        sent.append(Sent(None, {**common, **fields, "choices": [choice]}))
    if mistral:
        sent[-1].data["usage"] = usage
    else:
        sent.append(Sent(None, {**common, "choices": [], "usage": usage}))
    return sent


def chat_calls(mistral: bool = False) -> list[tuple[dict[str, Any], str | None]]:
    """Return two tool calls, which Mistral sends whole and OpenAI in pieces."""
    text = json.dumps(ARGUMENTS, ensure_ascii=False)
    choices: list[tuple[dict[str, Any], str | None]] = []
    for index in range(2):
        call = {"index": index, "id": f"call_{index}", "type": "function"}
        if mistral:
            del call["type"]
            call["function"] = {"name": "weather", "arguments": text}
            choices.append(({"content": "", "tool_calls": [call]}, None))
            continue
        call["function"] = {"name": "weather", "arguments": ""}
        choices.append(({"tool_calls": [call]}, None))
        for piece in pieces(text):
            part = {"index": index, "function": {"arguments": piece}}
            choices.append(({"tool_calls": [part]}, None))
    return choices


def chat(mistral: bool = False) -> dict[str, Scenario]:
    first: dict[str, Any] = {"role": "assistant", "content": ""}
    if not mistral:
        first["refusal"] = None
    words = [({"content": word}, None) for word in WORDS]
    text = [(first, None), *words, ({} if not mistral else {"content": ""}, "stop")]
    calls = [(first, None), *chat_calls(mistral), ({}, "tool_calls")]
    error = {
        "message": "Überlastet: try again 🙂",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    started = chat_chunks(*text, mistral=mistral)
    scenarios = {
        "text": Scenario([*started, DONE]),
        "tools": Scenario([*chat_chunks(*calls, mistral=mistral), DONE]),
        # Events after [DONE] must be ignored.
        "after-done": Scenario([*started, DONE, *started[:2]]),
    }
    if not mistral:
        scenarios["error"] = Scenario([*started[:3], Sent(None, {"error": error})])
    return scenarios


def responses() -> dict[str, Scenario]:
    """Return scenarios of OpenAI's Responses API, whose events have a type and a number."""
    text = TEXT
    arguments = json.dumps(ARGUMENTS, ensure_ascii=False)

    def response(status: str, output: list[Any], **fields: Any) -> dict[str, Any]:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1_763_000_000,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": "gpt-4o-mini-2024-07-18",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
            **fields,
        }

    def numbered(*objects: dict[str, Any]) -> list[Sent]:
        return typed(*({**data, "sequence_number": at} for at, data in enumerate(objects)))

    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 21,
    }
    head = [
        {"type": "response.created", "response": response("in_progress", [])},
        {"type": "response.in_progress", "response": response("in_progress", [])},
    ]

    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant"}
    item = {**message, "status": "completed", "content": [part]}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    of_text = [
        *head,
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**message, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *(
            {"type": "response.output_text.delta", **at, "delta": word, "logprobs": []}
            for word in WORDS
        ),
        {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {
            "type": "response.completed",
            "response": response("completed", [item], usage=usage),
        },
    ]

    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather"}
    called = {**call, "status": "completed", "arguments": arguments}
    at = {"item_id": "fc_1", "output_index": 0}
    of_call = [
        *head,
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**call, "status": "in_progress", "arguments": ""},
        },
        *(
            {"type": "response.function_call_arguments.delta", **at, "delta": piece}
            for piece in pieces(arguments)
        ),
        {
            "type": "response.function_call_arguments.done",
            **at,
            "name": "weather",
            "arguments": arguments,
        },
        {"type": "response.output_item.done", "output_index": 0, "item": called},
        {
            "type": "response.completed",
            "response": response("completed", [called], usage=usage),
        },
    ]
    error = {"type": "error", "code": "server_error", "message": "Überlastet 🙂", "param": None}
    return {
        "text": Scenario(numbered(*of_text)),
        "tools": Scenario(numbered(*of_call)),
        "error": Scenario(numbered(*of_text[:6], error)),
    }


def anthropic() -> dict[str, Scenario]:
    arguments = json.dumps(ARGUMENTS, ensure_ascii=False)
    start = {
        "type": "message_start",
        "message": {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    }
    ping = {"type": "ping"}

    def block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> Iterator[Any]:
        yield {"type": "content_block_start", "index": index, "content_block": block}
        if not index:
            yield ping
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}

    def end(stop_reason: str) -> Iterator[Any]:
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": 12},
        }
        yield {"type": "message_stop"}

    words = [{"type": "text_delta", "text": word} for word in WORDS]
    text = [start, *block(0, {"type": "text", "text": ""}, *words), *end("end_turn")]
    tools = [
        start,
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            *({"type": "thinking_delta", "thinking": word} for word in WORDS[:4]),
            {"type": "signature_delta", "signature": "c2lnbmF0dXJl"},
        ),
        *block(1, {"type": "text", "text": ""}, *words),
        ping,
        *block(
            2,
            {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {}},
            *({"type": "input_json_delta", "partial_json": part} for part in pieces(arguments)),
        ),
        *end("tool_use"),
    ]
    error = {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Überlastet 🙂"},
        "request_id": "req_1",
    }
    return {
        "text": Scenario(typed(*text)),
        "tools": Scenario(typed(*tools)),
        "error": Scenario(typed(*text[:5], error)),
    }


def cohere() -> dict[str, Scenario]:
    arguments = json.dumps(ARGUMENTS, ensure_ascii=False)
    content = {"type": "text", "text": ""}
    start = {
        "type": "message-start",
        "id": "29f14a5a",
        "delta": {"message": {"role": "assistant", "content": [], "tool_calls": []}},
    }

    def end(finish_reason: str) -> dict[str, Any]:
        usage = {
            "billed_units": {"input_tokens": 9, "output_tokens": 12},
            "tokens": {"input_tokens": 70, "output_tokens": 12},
        }
        delta = {"finish_reason": finish_reason, "usage": usage}
        return {"type": "message-end", "id": "29f14a5a", "delta": delta}

    def delta(kind: str, name: str, value: Any, **fields: Any) -> dict[str, Any]:
        return {"type": kind, **fields, "delta": {"message": {name: value}}}

    def call(kind: str, value: Any) -> dict[str, Any]:
        return delta(kind, "tool_calls", value, index=0)

    named = {"name": "weather", "arguments": ""}
    text = [
        start,
        delta("content-start", "content", content, index=0),
        *(delta("content-delta", "content", {"text": word}, index=0) for word in WORDS),
        {"type": "content-end", "index": 0},
        end("COMPLETE"),
    ]
    tools = [
        start,
        *(delta("tool-plan-delta", "tool_plan", word) for word in WORDS),
        call("tool-call-start", {"id": "weather_0", "type": "function", "function": named}),
        *(
            call("tool-call-delta", {"function": {"arguments": piece}})
            for piece in pieces(arguments)
        ),
        {"type": "tool-call-end", "index": 0},
        end("TOOL_CALL"),
    ]
    return {
        "text": Scenario([*typed(*text), DONE]),
        "tools": Scenario([*typed(*tools), DONE]),
    }


def with_ends(scenarios: dict[str, Scenario]) -> dict[str, Scenario]:
    """Add scenarios that end early or with invalid data after the first events."""
    text = scenarios["text"]
    begun = replace(text, events=text.events[:4])
    return {
        **scenarios,
        # The server waits until the client has left.
        "held": replace(begun, end="hang"),
        # Truncated between two events, and within one.
        "truncated": replace(begun, framing="chunked-truncated"),
        "truncated-within": replace(begun, tail=b'data: {"id', framing="chunked-truncated"),
        # A clean end within a line, and before the blank line of an event.
        "unfinished": replace(begun, tail=b'data: {"id'),
        "undispatched": replace(begun, tail=WireFormat().block(0, text.events[4])[:-1]),
        # Invalid JSON, and invalid UTF-8.
        "broken-json": replace(begun, tail=b"event: message_start\ndata: {\n\n"),
        "broken-utf8": replace(begun, tail=b'event: message_start\ndata: {"a": "\xff"}\n\n'),
    }


# -- The APIs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Api:
    path: str
    scenarios: dict[str, Scenario]
    error: Callable[[int, str], Any]
    """Makes the body of an error response from its status and message."""
    required: str = "messages"
    """The member of the request, besides model, that must not be empty."""
    is_versioned: bool = False
    """Whether a version header is required; the key may then be sent as x-api-key."""

    def find_error(self, request: Request, path: str) -> tuple[int, str] | None:
        """Return why the API rejects a request, as a status and a message, or None."""
        if path != self.path:
            return 404, f"no such path: {path}"
        if request.method != "POST":
            return 405, f"not a method for this path: {request.method}"
        key = request.get("Authorization") == b"Bearer %b" % KEY.encode()
        if not key and not (self.is_versioned and request.get("x-api-key") == KEY.encode()):
            return 401, "invalid key"
        if self.is_versioned and request.get("anthropic-version") is None:
            return 400, "anthropic-version: header is required"
        if not (request.get("Content-Type") or b"").startswith(b"application/json"):
            return 415, "not JSON"
        try:
            body = json.loads(request.body)
        except ValueError:
            return 400, "not JSON"
        for name in ("model", self.required):
            if not isinstance(body, dict) or not body.get(name):
                return 400, f"{name}: field required"
        if body.get("stream") is not True:
            return 400, "stream: only streams are served here"
        return None


def _openai_error(status: int, message: str) -> Any:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic_error(status: int, message: str) -> Any:
    kinds = {401: "authentication_error", 404: "not_found_error"}
    error = {"type": kinds.get(status, "invalid_request_error"), "message": message}
    return {"type": "error", "error": error}


APIS = {
    "openai": Api("/v1/chat/completions", with_ends(chat()), _openai_error),
    "responses": Api("/v1/responses", with_ends(responses()), _openai_error, required="input"),
    "anthropic": Api("/v1/messages", with_ends(anthropic()), _anthropic_error, is_versioned=True),
    "cohere": Api("/v2/chat", with_ends(cohere()), lambda status, message: {"message": message}),
    "mistralai": Api(
        "/v1/chat/completions",
        with_ends(chat(mistral=True)),
        lambda status, message: {"detail": message},
    ),
}


class SdkServer:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.plays = self._play

    def base(self, api: str, scenario: str = "text", wire_format: str = "plain") -> str:
        """Return the base URL of an API without its path, which starts with `/v1`."""
        return f"{self.stage.origin}/{api}/{scenario}/{wire_format}"

    @property
    def connections(self) -> list[int]:
        """The number of the connection of each request."""
        return [request.connection for request in self.stage.requests]

    def _play(self, number: int, request: Request) -> Play:
        _, name, scenario_name, wire_format, path = request.path.split("/", 4)
        api = APIS[name]
        error = api.find_error(request, f"/{path}")
        if error is not None:
            body = json.dumps(api.error(*error)).encode()
            fields = [("Content-Type", "application/json")]
            return Play(error[0], fields, [body], "length", keep_alive=True)
        scenario = api.scenarios[scenario_name]
        return Play(
            fields=[("Content-Type", "text/event-stream; charset=utf-8"), ("request-id", "req_1")],
            body=WIRE_FORMATS[wire_format].chunks(scenario),
            framing=scenario.framing,
            end=scenario.end,
            keep_alive=scenario.framing == "chunked",
        )


@contextmanager
def serve_sdks() -> Iterator[SdkServer]:
    with serve_stage() as stage:
        yield SdkServer(stage)
