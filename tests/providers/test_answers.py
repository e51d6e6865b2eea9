"""The loops of docs/guides/providers.md over answers that are no chat completions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

import sse_fast
from tests.support.pages import blocks
from tests.support.recipes import CUT_OFF, PAGE, Recipe, chunks, loaded, recipe, replaced, rows
from tests.support.scripted_server import Framing, Play, stream

TYPED, IN_JSON, JUST_END = "Typed events", "Types in the JSON", "Streams that just end"


def lines(*events: tuple[str, Any] | str, space: str = " ", newline: str = "\n") -> bytes:
    """Return events of (type, data), where data is JSON or text; a str is sent unchanged."""
    parts = []
    for event in events:
        if isinstance(event, str):
            parts.append(event)
            continue
        kind, data = event
        text = data if isinstance(data, str) else json.dumps(data)
        parts.append(f"event:{space}{kind}\n" if kind else "")
        parts.append("".join(f"data:{space}{line}\n" for line in text.split("\n")) + "\n")
    return "".join(parts).replace("\n", newline).encode()


@dataclass
class Answer:
    """The stream of a provider: the text in its parts, then its end; or an error."""

    recipe: Recipe
    text: bytes
    end: bytes
    error: bytes = lines(("error", {"message": "out of luck"}))
    printed: str = "Hello"
    cut_off: str = CUT_OFF
    last_is_text: bool = False  # the text comes with the end, so that nothing is printed before


def just_end(function: str) -> Recipe:
    """The program for streams that just end, with another function of the page."""
    program = recipe(JUST_END)
    code = blocks(PAGE, "python")
    (functions,) = [block.code for block in code if f"def {function}(" in block.code]
    call = "text_and_reason(data)\n        print"
    return program.replacing(
        (call, call.replace("text_and_reason", function)), ("\nbody =", f"\n{functions}\n\nbody =")
    )


def jsonrpc(result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


def failed(state: str) -> dict[str, Any]:
    return {"state": state, "message": {"role": "agent", "parts": [{"text": "out of luck"}]}}


def response(kind: str, **more: Any) -> tuple[str, Any]:
    return kind, {"type": kind, "sequence_number": 4, **more}


HEL_LO = ("Hel", "lo")
PING_TIME = ": ping - 2026-11-30 09:00:00+00:00\n\n"

ANSWERS = {
    "Anthropic": Answer(
        replaced(TYPED, "Anthropic"),
        lines(
            ("message_start", {"type": "message_start", "message": {"content": []}}),
            ("ping", {"type": "ping"}),
            *(
                ("content_block_delta", {"delta": {"type": "text_delta", "text": text}})
                for text in HEL_LO
            ),
            ("content_block_delta", {"delta": {"type": "input_json_delta", "partial_json": ""}}),
            ("message_delta", {"delta": {"stop_reason": "end_turn"}}),
        ),
        lines(("message_stop", '{"type":"message_stop"       }')),
        lines(("error", {"type": "error", "error": {"message": "out of luck"}})),
    ),
    "OpenAI assistants": Answer(
        replaced(TYPED, "OpenAI assistants"),
        lines(
            ("thread.run.created", {"id": "run_1"}),
            *(
                (
                    "thread.message.delta",
                    {"delta": {"content": [{"type": "text", "text": {"value": text}}]}},
                )
                for text in HEL_LO
            ),
            (
                "thread.message.delta",
                {"delta": {"content": [{"type": "image_file", "image_file": {"file_id": "f"}}]}},
            ),
            ("thread.message.delta", {"delta": {"role": "assistant"}}),
        ),
        lines(("done", "[DONE]")),
    ),
    "Cohere v2": Answer(
        replaced(TYPED, "Cohere v2"),
        lines(
            ("message-start", {"type": "message-start"}),
            ("content-delta", {"delta": {"message": {"content": {"thinking": "Hm"}}}}),
            *(
                ("content-delta", {"delta": {"message": {"content": {"text": text}}}})
                for text in HEL_LO
            ),
        ),
        lines(("message-end", {"delta": {"finish_reason": "COMPLETE"}}), ("", "[DONE]")),
    ),
    "Coze": Answer(
        replaced(TYPED, "Coze"),
        lines(
            ("conversation.chat.created", {"status": "created"}),
            *(("conversation.message.delta", {"content": text}) for text in HEL_LO),
            ("conversation.message.completed", {"content": "Hello"}),
            space="",
        ),
        lines(("done", '"[DONE]"'), space=""),
        lines(("error", {"code": 4000, "msg": "out of luck"}), space=""),
    ),
    "Gradio, /call": Answer(
        replaced(TYPED, "Gradio, `/call`"),
        lines(("heartbeat", "null"), ("generating", ["Hel"]), ("heartbeat", "null")),
        lines(("complete", ["Hello"])),
        lines(("error", "null")),
        last_is_text=True,
    ),
    "LangServe": Answer(
        replaced(TYPED, "LangServe"),
        lines(
            ("metadata", {"run_id": "1"}),
            ("data", "Hel".join('""')),
            PING_TIME,
            ("data", {"content": "lo", "type": "AIMessageChunk"}),
            newline="\r\n",
        ),
        b"event: end\r\n\r\n",
        lines(("error", {"status_code": 500, "message": "out of luck"}), newline="\r\n"),
    ),
    "GraphQL over SSE": Answer(
        replaced(TYPED, "GraphQL over SSE"),
        lines(":\n\n", ("next", {"data": {"greetings": "Hi"}}), ("next", {"errors": ["no"]})),
        lines("event: complete\n\n"),
        printed="{'greetings': 'Hi'}['no']",
    ),
    "GraphQL over SSE, complete with data": Answer(
        replaced(TYPED, "GraphQL over SSE"),
        lines(":\n\n", ("next", {"data": {"greetings": "Hi"}})),
        lines(("complete", "")),
        printed="{'greetings': 'Hi'}",
    ),
    "OpenAI responses": Answer(
        replaced(IN_JSON, "OpenAI responses"),
        lines(
            response("response.created"),
            *(response("response.output_text.delta", delta=text) for text in HEL_LO),
        ),
        lines(response("response.completed")),
        lines(response("error", message="out of luck")),
    ),
    "OpenAI responses, incomplete": Answer(
        replaced(IN_JSON, "OpenAI responses"),
        lines(*(response("response.output_text.delta", delta=text) for text in HEL_LO)),
        lines(response("response.incomplete")),
        lines(("error", "out of luck")),
    ),
    "OpenRouter, responses": Answer(
        replaced(IN_JSON, "OpenAI responses"),
        lines(
            ": OPENROUTER PROCESSING\n\n",
            *(("", response("response.output_text.delta", delta=text)[1]) for text in HEL_LO),
        ),
        lines(("", response("response.completed")[1]), ("", "[DONE]")),
        lines(("", {"error": {"message": "out of luck"}})),
    ),
    "xAI responses": Answer(
        replaced(IN_JSON, "OpenAI responses"),
        lines(*(response("response.output_text.delta", delta=text) for text in HEL_LO)),
        lines(response("response.completed")),
        lines(response("response.failed", why="out of luck")),
    ),
    "Bedrock, types in the JSON only": Answer(
        replaced(IN_JSON, "OpenAI responses"),
        lines(*(("", response("response.output_text.delta", delta=text)[1]) for text in HEL_LO)),
        lines(("", response("response.completed")[1])),
    ),
    "OpenAI transcription": Answer(
        replaced(IN_JSON, "OpenAI transcription"),
        lines(
            *(("", {"type": "transcript.text.delta", "delta": text}) for text in HEL_LO),
            newline="\r\n",
        ),
        lines(
            ("", {"type": "transcript.text.done", "text": "Hello"}), ("", "[DONE]"), newline="\r\n"
        ),
        lines(("", {"error": {"message": "out of luck"}})),
    ),
    "Dify": Answer(
        replaced(IN_JSON, "Dify"),
        lines("event: ping\n\n", *(("", {"event": "message", "answer": text}) for text in HEL_LO)),
        lines(("", {"event": "message_end", "metadata": {}})),
        lines(("", {"event": "error", "message": "out of luck"})),
    ),
    "AG-UI": Answer(
        replaced(IN_JSON, "AG-UI"),
        lines(
            ": keep-alive\n\n",
            ("", {"type": "RUN_STARTED"}),
            *(("", {"type": "TEXT_MESSAGE_CONTENT", "delta": text}) for text in HEL_LO),
        ),
        lines(("", {"type": "RUN_FINISHED"})),
        lines(("", {"type": "RUN_ERROR", "message": "out of luck"})),
    ),
    "Gradio, /queue": Answer(
        replaced(IN_JSON, "Gradio, `/queue`"),
        lines(
            ("", {"msg": "estimation", "rank": 0}),
            ("", {"msg": "heartbeat"}),
            ("", {"msg": "process_completed", "success": True, "output": {"data": ["Hello"]}}),
        ),
        lines(("", {"msg": "close_stream"})),
        lines(
            (
                "",
                {
                    "msg": "process_completed",
                    "success": False,
                    "output": {"error": "out of luck"},
                },
            )
        ),
    ),
    "Gemini, Vertex": Answer(
        recipe(JUST_END),
        lines(
            ("", {"candidates": [{"content": {"parts": [{"text": "Hel"}], "role": "model"}}]}),
            ("", {"candidates": [{"content": {"parts": [{"text": "lo"}]}}]}),
            newline="\r\n",
        ),
        lines(
            ("", {"candidates": [{"content": {}, "finishReason": "STOP"}], "usageMetadata": {}}),
            newline="\r\n",
        ),
        lines(("", {"error": {"code": 429, "message": "out of luck"}}), newline="\r\n"),
    ),
    "TGI": Answer(
        just_end("tgi"),
        lines(
            *(("", {"token": {"text": text}, "generated_text": None}) for text in HEL_LO), space=""
        ),
        lines(
            ("", {"token": {"text": "</s>", "special": True}, "generated_text": "Hello"}), space=""
        ),
        lines(("", {"error": "out of luck", "error_type": "overloaded"}), space=""),
    ),
    "TGI, no text": Answer(
        just_end("tgi"),
        lines(": ping\n\n"),
        lines(("", {"token": {"text": "</s>", "special": True}, "generated_text": ""})),
        lines(("", {"error": "out of luck", "error_type": "overloaded"})),
        printed="",
    ),
    "watsonx": Answer(
        just_end("watsonx"),
        lines(
            "id: 1\n",
            ("message", {"results": [{"generated_text": "Hel", "stop_reason": "not_finished"}]}),
            "id: 2\n",
            ("message", {"results": [{"generated_text": "lo", "stop_reason": "not_finished"}]}),
        ),
        lines("id: 3\n", ("message", {"results": [{"generated_text": "", "stop_reason": "eos"}]})),
    ),
    "DashScope": Answer(
        just_end("dashscope"),
        lines(
            *(
                f"id:{number}\nevent:result\n:HTTP_STATUS/200\ndata:"
                + json.dumps(
                    {
                        "output": {
                            "choices": [{"message": {"content": text}, "finish_reason": reason}]
                        }
                    }
                )
                + "\n\n"
                for number, text, reason in ((1, "Hel", "null"), (2, "lo", "null"))
            )
        ),
        lines(
            "id:3\nevent:result\n:HTTP_STATUS/200\n",
            ("", {"output": {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}}),
        ),
        lines("id:3\nevent:error\n:HTTP_STATUS/400\n", ("", {"message": "out of luck"})),
    ),
    "A2A": Answer(
        recipe("JSON-RPC", 1),
        lines(
            ": ping\n\n",
            ("", jsonrpc({"kind": "task", "status": {"state": "working"}})),
            *(
                ("", jsonrpc({"kind": "artifact-update", "artifact": {"parts": [{"text": text}]}}))
                for text in HEL_LO
            ),
        ),
        lines(("", jsonrpc({"kind": "status-update", "final": True}))),
        lines(("", {"jsonrpc": "2.0", "id": 1, "error": {"message": "out of luck"}})),
    ),
    "A2A, one message": Answer(
        recipe("JSON-RPC", 1),
        lines(": ping\n\n"),
        lines(("", jsonrpc({"kind": "message", "role": "agent", "parts": [{"text": "Hello"}]}))),
        lines(("", jsonrpc({"kind": "status-update", "status": failed("failed")}))),
        last_is_text=True,
    ),
    "A2A 1.0": Answer(
        recipe("JSON-RPC", 1),
        lines(
            ("", jsonrpc({"task": {"id": "t", "status": {"state": "TASK_STATE_SUBMITTED"}}})),
            ("", jsonrpc({"statusUpdate": {"status": {"state": "TASK_STATE_WORKING"}}})),
            *(
                ("", jsonrpc({"artifactUpdate": {"artifact": {"parts": [{"text": text}]}}}))
                for text in HEL_LO
            ),
        ),
        lines(("", jsonrpc({"statusUpdate": {"status": {"state": "TASK_STATE_COMPLETED"}}}))),
        lines(("", jsonrpc({"statusUpdate": {"status": failed("TASK_STATE_FAILED")}}))),
    ),
    "A2A 1.0, a whole task": Answer(
        recipe("JSON-RPC", 1),
        lines(": ping\n\n"),
        lines(
            (
                "",
                jsonrpc(
                    {
                        "task": {
                            "status": {"state": "TASK_STATE_COMPLETED"},
                            "artifacts": [{"parts": [{"text": text}]} for text in HEL_LO],
                        }
                    }
                ),
            )
        ),
        lines(("", jsonrpc({"task": {"status": failed("TASK_STATE_REJECTED")}}))),
        last_is_text=True,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_answer_whole_prints_its_text(name: str, framing: Framing) -> None:
    answer = ANSWERS[name]
    outcome = answer.recipe.run(Play(body=chunks(answer.text + answer.end), framing=framing))
    assert (outcome.printed, outcome.error) == (answer.printed, None)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_cut_off_says_so(name: str) -> None:
    """By an end of the body, also within the last event, and by a lost connection."""
    answer = ANSWERS[name]
    printed = "" if answer.last_is_text else answer.printed
    for body in (answer.text, (answer.text + answer.end).rstrip(b"\r\n")):
        if b"[DONE]" in answer.end and body.endswith(b"[DONE]"):
            continue  # The event before it is the last of the answer.
        outcome = answer.recipe.run(stream(*chunks(body)))
        assert (outcome.printed, outcome.error) == (printed + CUT_OFF, None)
    outcome = answer.recipe.run(Play(body=chunks(answer.text), framing="chunked-truncated"))
    assert isinstance(outcome.error, sse_fast.TransportError)


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_with_error_within_200_raises(name: str) -> None:
    answer = ANSWERS[name]
    outcome = answer.recipe.run(stream(*chunks(answer.text + answer.error)))
    assert outcome.printed == ("" if answer.last_is_text else answer.printed)
    assert isinstance(outcome.error, RuntimeError)
    assert ("null" if b"null" in answer.error else "out of luck") in str(outcome.error)


@pytest.mark.parametrize("document", [b'[{\n "error": {"code": 429}\n}]\n', b'{\n "error": {}\n}'])
def test_gemini_bare_json_raises_it(document: bytes) -> None:
    outcome = ANSWERS["Gemini, Vertex"].recipe.run(stream(document))
    assert isinstance(outcome.error, RuntimeError)
    assert '"error"' in str(outcome.error)


def test_langgraph_ends_with_its_body() -> None:
    program = recipe(TYPED, 1)
    body = lines(
        ("metadata", {"run_id": "1"}),
        *(("messages", [{"content": text}, {"node": "agent"}]) for text in HEL_LO),
        ": heartbeat\n\n",
        newline="\r\n",
    )
    outcome = program.run(stream(*chunks(body)))
    assert (outcome.printed, outcome.error) == ("Hello", None)
    outcome = program.run(Play(body=chunks(body), framing="chunked-truncated"))
    assert isinstance(outcome.error, sse_fast.TransportError)
    outcome = program.run(stream(body, lines(("error", {"message": "out of luck"}))))
    assert isinstance(outcome.error, RuntimeError)


REPLICATE = b"retry: 0\n\n" + lines(
    ":hi\n\n",
    "id: 1:0\n",
    ("output", "Hel"),
    "id: 2:0\n",
    ("output", ""),
)


def test_replicate_is_resumed_after_its_timeout() -> None:
    rest = lines("id: 3:0\n", ("output", "l\no\n"), "id: 4:0\n", ("done", {}))
    outcome = recipe("Text").run(
        stream(*chunks(REPLICATE), b":408: 408 Request Timeout\n\n"), stream(rest)
    )
    assert (outcome.printed, outcome.error) == ("Hell\no\n", None)
    assert [request.get("Last-Event-ID") for request in outcome.requests] == [None, b"2:0"]


def test_replicate_error_raises() -> None:
    outcome = recipe("Text").run(stream(REPLICATE, lines(("error", "out of luck"))))
    assert outcome.printed == "Hel"
    assert isinstance(outcome.error, RuntimeError)
    assert len(outcome.requests) == 1


MCP = recipe("JSON-RPC")
PRIME = b"retry: 0\nid: 0\ndata: \n\n"


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_mcp_is_resumed_by_get_after_a_priming_event(newline: bytes) -> None:
    begun = PRIME + lines("id: 1\n", ("message", {"method": "notifications/progress"}), PING_TIME)
    rest = lines("id: 2\n", ("message", jsonrpc({"content": []})))
    outcome = MCP.run(
        stream(*chunks(begun.replace(b"\n", newline))), stream(rest.replace(b"\n", newline))
    )
    assert (outcome.printed, outcome.error) == ("notifications/progress\n{'content': []}\n", None)
    assert [request.method for request in outcome.requests] == ["POST", "GET"]
    assert outcome.requests[1].get("Last-Event-ID") == b"1"


def test_mcp_request_of_the_server_is_no_response() -> None:
    """Its id comes from a count of its own."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}}
    answered = jsonrpc({"content": []})
    outcome = MCP.run(stream(PRIME, lines(("message", asked), ("message", answered))))
    assert outcome.printed == "sampling/createMessage\n{'content': []}\n"
    assert len(outcome.requests) == 1


def test_mcp_error_raises() -> None:
    error = {"jsonrpc": "2.0", "id": 1, "error": {"message": "out of luck"}}
    outcome = MCP.run(stream(PRIME, lines(("message", error))))
    assert isinstance(outcome.error, RuntimeError)
    assert len(outcome.requests) == 1


def test_mcp_document_is_in_the_error() -> None:
    document = json.dumps(jsonrpc({"content": []})).encode()
    play = Play(fields=[("Content-Type", "application/json")], body=[document], framing="length")
    error = MCP.run(play).error
    assert isinstance(error, sse_fast.ResponseError)
    assert json.loads(error.response.body)["id"] == 1


def test_lenient_decoder_leaves_text() -> None:
    decode = loaded("Data that is not always JSON", 0, "decode")
    assert [decode(data) for data in (b"ping", b"[DONE]", b"", b"null", b'{"a": 1}')] == [
        "ping",
        "[DONE]",
        "",
        None,
        {"a": 1},
    ]


# -- The tables ------------------------------------------------------------------------------------


def test_every_row_of_the_tables_is_read() -> None:
    named = [*rows(TYPED), *rows(IN_JSON)]
    read_by_test = {name.partition(",")[0] for name in ANSWERS}
    assert {name.partition(",")[0] for name in named} <= read_by_test


def test_rows_of_the_program_are_its_own() -> None:
    """The program below a heading has the parts of the first row, each of them."""
    for heading, provider in ((TYPED, "Anthropic"), (IN_JSON, "OpenAI responses")):
        assert replaced(heading, provider).block.code == recipe(heading).block.code
