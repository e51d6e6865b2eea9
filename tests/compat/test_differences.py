"""How sse_fast differs from each original: "What is not kept" in docs/guides/other-parsers.md.

Each row has a test that runs the original too, so a row that is no longer true fails. The tests in
test_same_events.py show that there are no other differences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import httpx
import httpx_sse
import pytest
import requests
import sseclient

import sse_fast
import sse_fast.compat.httpx_sse
import sse_fast.compat.sseclient
from sse_fast.compat import LIBRARIES
from tests.support import ROOT
from tests.support.libraries import (
    ASYNC,
    EVENT_STREAM,
    ORIGINALS,
    Original,
    Reader,
    state,
)
from tests.support.reference import cut
from tests.support.server import Answer, Server

PAGE = (ROOT / "docs" / "guides" / "other-parsers.md").read_text(encoding="utf-8")
BOM = b"\xef\xbb\xbf"
# Originals that split the stream into blocks before they split it into lines.
BLOCKWISE = {"anthropic", "compat.sseclient"}
if tuple(map(int, version("openai").split(".")[:2])) < (3, 4):
    BLOCKWISE |= {"openai"}


# -- The table -------------------------------------------------------------------------------------

TABLE = {
    cells[0]: {name.split()[0] for name in cells[1].split(", ")}
    for cells in (
        line.strip("| ").split(" | ")
        for line in PAGE.partition("## What is not kept")[2].splitlines()
    )
    if len(cells) == 4 and cells[0] not in ("What", "---")
}
ROWS: dict[str, set[str]] = {}


def row(name: str, *libraries: str) -> Callable[[Any], Any]:
    """Mark a test as asserting this row of the table for these libraries."""
    ROWS.setdefault(name, set()).update(each.removeprefix("compat.") for each in libraries)
    return pytest.mark.parametrize("name", libraries)


def test_page_every_row_has_a_test() -> None:
    absent = {"httpx2"} - set(ORIGINALS)
    expected = {name: libraries - absent for name, libraries in TABLE.items()}
    assert {name: found - absent for name, found in ROWS.items()} == expected
    assert len(TABLE) == 17


def lines(*lines: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(line + end for line in lines)


TWO = lines(b"data: 1", b"", b"data: 2", b"")


@row(
    "byte order mark",
    *("openai", "anthropic", "httpx2", "httpx_sse", "cohere"),
    *("compat.httpx_sse", "compat.sseclient"),
)
def test_bom_loses_no_event(name: str) -> None:
    if name not in ORIGINALS:
        pytest.skip("httpx2 does not support this Python")
    original = ORIGINALS[name]
    stream = BOM + TWO
    assert original.read([stream], ours=False).data == ["2"]
    for at in range(1, 5):
        chunks = cut(stream, [at])
        assert original.read(chunks, ours=True) == original.read([TWO], ours=False)
        if name in ASYNC:
            assert original.aread(chunks, ours=True) == original.read([TWO], ours=False)
    # In a block with several fields, the original only loses the first one.
    named = BOM + lines(b"event: a", b"data: 1", b"")
    (theirs,) = original.read([named], ours=False).attributes()
    (ours,) = original.read([named], ours=True).attributes()
    assert (theirs["data"], ours["data"], ours["event"]) == ("1", "1", "a")
    assert theirs["event"] != "a"


@row("byte order mark in two chunks", "mistralai")
def test_bom_in_two_chunks_loses_no_event(name: str) -> None:
    original = ORIGINALS[name]
    stream = BOM + TWO
    whole = original.read([TWO], ours=False)
    assert original.read([stream], ours=False) == original.read([stream], ours=True) == whole
    for at in (1, 2):
        chunks = cut(stream, [at])
        assert original.read(chunks, ours=False).data == [2]
        assert original.read(chunks, ours=True) == whole


@row("byte order mark later on", "mistralai")
def test_bom_after_start_is_part_of_field_name(name: str) -> None:
    original = ORIGINALS[name]
    chunks = [lines(b"data: 1", b""), BOM + lines(b"data: 2", b"")]
    assert original.read(chunks, ours=False).data == [1, 2]
    assert original.read(chunks, ours=True).data == [1]
    whole = [b"".join(chunks)]
    assert original.read(whole, ours=False) == original.read(whole, ours=True)


class Copies:
    """Counts the bytes that the original copies when it concatenates chunks."""

    def __init__(self) -> None:
        self.bytes = 0

    def chunk(self, kind: type[Any], value: Any) -> Any:
        copies = self

        class Counted(kind):  # type: ignore[misc]
            def splitlines(self, keepends: bool = False) -> list[Any]:
                return [Counted(line) for line in kind.splitlines(self, keepends)]

            def __radd__(self, other: Any) -> Any:
                copies.bytes += len(other) + len(self)
                return other.__add__(kind(self))

        return Counted(value)


class CountingDecoder:
    """A text decoder whose output counts copies."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies

    def decode(self, chunk: bytes, final: bool = False) -> str:
        text: str = self.copies.chunk(str, chunk.decode())
        return text


@row("quadratic time", "openai", "anthropic", "cohere", "compat.sseclient")
def test_event_in_many_chunks_is_copied_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ORIGINALS[name]

    def copied(pieces: int, ours: bool) -> int:
        copies = Copies()
        chunks = [b"data: ", *[b"x" * 100] * pieces, b"\n\n"]
        if name == "cohere":
            api = import_module("cohere.core.http_sse._api")
            decoder = CountingDecoder(copies)
            monkeypatch.setattr(api.EventSource, "_new_text_decoder", lambda *_: decoder)
        else:
            chunks = [copies.chunk(bytes, chunk) for chunk in chunks]
        assert original.read(chunks, ours=ours).data == ["x" * 100 * pieces]
        return copies.bytes

    once, twice = copied(200, ours=False), copied(400, ours=False)
    if name in BLOCKWISE | {"cohere"}:
        assert once > 50 * 100 * 200
        assert twice / once > 3.9
    else:
        assert (once, twice) == (0, 0)
    # Only the probe of install() is copied.
    assert copied(400, ours=True) == copied(200, ours=True) < 200


@row("CR, CR and LF in two chunks", "openai", "anthropic")
def test_cr_cr_lf_in_two_chunks_is_one_blank_line(name: str) -> None:
    original = ORIGINALS[name]
    chunks = [b"id: 1\rdata: a\r\r", b"\ndata: b\n\n"]
    (one, two) = original.read(chunks, ours=True).events
    theirs = original.read(chunks, ours=False)
    if name in BLOCKWISE:
        assert theirs.data == ["a", "", "b"]
        assert [theirs.events[0], theirs.events[2]] == [one, two]
    else:
        assert theirs.events == [one, two]
    whole = [b"".join(chunks)]
    assert original.read(whole, ours=False) == original.read(whole, ours=True)


@row("mixed line ends", "compat.sseclient")
def test_mixed_line_ends_each_end_an_event(name: str) -> None:
    original = ORIGINALS[name]
    for stream in (b"data: a\n\r\ndata: b\n\n", b"data: a\r\r\ndata: b\r\r"):
        assert original.read([stream], ours=False).data == ["a\nb"]
        assert original.read([stream], ours=True).data == ["a", "b"]


@row("NUL in an id", "compat.sseclient")
def test_id_with_nul_is_ignored(name: str) -> None:
    stream = lines(b"id: 1", b"id: a\0b", b"data: x", b"")
    assert ids(name, stream, ours=False) == ["a\0b"]
    assert ids(name, stream, ours=True) == ["1"]


def ids(name: str, stream: bytes, ours: bool) -> list[str]:
    return [event["id"] for event in ORIGINALS[name].read([stream], ours=ours).attributes()]


@row("position of invalid UTF-8", "openai", "anthropic", "mistralai", "compat.sseclient")
def test_unicode_error_position_counts_from_chunk(name: str) -> None:
    original = ORIGINALS[name]
    chunks = [b"data: 1\n\n: a comm", b"ent\ndata: \xff\n\ndata: 2\n\n"]

    def error(ours: bool) -> UnicodeDecodeError:
        with sse_fast.install(name) if ours and original.installed else nullcontext():
            reader = original.ours() if ours else original.theirs()
            with pytest.raises(UnicodeDecodeError) as caught:
                list(reader.read(chunks))
        return caught.value

    theirs, ours = error(False), error(True)
    assert ours.object[ours.start : ours.end] == theirs.object[theirs.start : theirs.end] == b"\xff"
    assert (ours.object, ours.start) == (chunks[1], 10)
    assert bytes(theirs.object) in (b"data: \xff", b": a comment\ndata: \xff")
    assert len(original.read(chunks, ours=True).events) == 1


@row('an event type of ""', "mistralai")
def test_empty_event_type_counts_as_none(name: str) -> None:
    original = ORIGINALS[name]
    stream = lines(b"event:", b"data: 1", b"")
    assert original.read([stream], ours=False).attributes() == [{"event": "", "data": 1}]
    assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("a block without a valid field", "mistralai")
def test_block_without_valid_field_is_no_event(name: str) -> None:
    original = ORIGINALS[name]
    for line in (b"id: a\0b", b"retry: soon"):
        stream = lines(line, b"", b"data: 1", b"")
        assert original.read([stream], ours=False).attributes() == [{}, {"data": 1}]
        assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("digits that `int()` rejects", "mistralai")
def test_retry_that_int_refuses_is_ignored(name: str) -> None:
    original = ORIGINALS[name]
    for digits in ("²", "9" * 4301):
        stream = lines(f"retry: {digits}".encode(), b"data: 1", b"")
        assert original.read([stream], ours=False).error == "ValueError"
        assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("the size of an event", "httpx2")
def test_httpx2_limit_counts_kept_bytes_only(name: str) -> None:
    if name not in ORIGINALS:
        pytest.skip("httpx2 does not support this Python")
    parser = import_module("httpx2._sse")._SSEParser
    refused = import_module("httpx2").SSEError

    def read(text: str, limit: int) -> list[str] | None:
        found = parser(limit)
        try:
            return [event.data for event in found.decode(text)]
        except refused as error:
            return (
                None if str(error).endswith(f"exceeded the {limit} byte limit.") else [str(error)]
            )

    for text, limit, data in (
        ("data: a\ndata: a\ndata: a\n\n", 16, ["a\na\na"]),
        ("data: a\nunknown: 12345\n\n", 16, ["a"]),
    ):
        assert read(text, limit) is None
        with sse_fast.install("httpx2"):
            parser = import_module("httpx2._sse")._SSEParser
            assert read(text, limit) == data
            assert read("data: " + "x" * limit, limit) is None
            assert read("data: 1\n\ndata: " + "x" * limit, limit) is None
        parser = import_module("httpx2._sse")._SSEParser


@row("a very long line", "cohere")
def test_cohere_line_limit_is_four_times_in_bytes(name: str) -> None:
    original = ORIGINALS[name]
    # One piece more than the original accepts, and one more than sse_fast accepts.
    for pieces, expected in ((17, ["a", "x" * 17 * 65536]), (65, ["a"])):
        chunks = [lines(b"data: a", b""), b"data: ", *[b"x" * 65536] * pieces, b"\n\n"]
        theirs, ours = (original.read(chunks, ours=ours) for ours in (False, True))
        assert (theirs.data, theirs.error) == (["a"], "SSEError")
        assert (ours.data, ours.error) == (expected, None if len(expected) == 2 else "SSEError")


@row("the id of a truncated event", "openai", "anthropic", "cohere")
def test_id_of_truncated_event_is_dropped(name: str) -> None:
    first, second = [b"id: 1\ndata: a\n\nid: 2\ndata: half\n"], [b"data: b\n\n"]

    def read_both() -> list[Any]:
        if name == "cohere":
            api = import_module("cohere.core.http_sse._api")
            responses = iter([first, second])

            @contextmanager
            def connect(last_event_id: str) -> Iterator[httpx.Response]:
                assert last_event_id == "1"
                yield httpx.Response(200, headers=EVENT_STREAM, content=iter(next(responses)))

            options = {"resumable": True, "stream_terminator": "[DONE]", "reconnect": connect}
            with connect("1") as response:
                source = api.EventSource(response, **options)
                source._sleep_before_reconnect = lambda retry: None
                source._max_stream_reconnection_attempts = 1
                events = source.iter_sse()
                return [state(next(events))[1]["id"] for _ in range(2)]
        decoder = import_module(f"{name}._base_client").SSEDecoder()
        events = [*decoder.iter_bytes(iter(first)), *decoder.iter_bytes(iter(second))]
        return [event.id for event in events]

    theirs = read_both()
    with sse_fast.install(name):
        ours = read_both()
    is_fixed = name == "openai" and name not in BLOCKWISE
    assert theirs == (["1", None] if is_fixed else ["1", "2"])
    assert ours == (["1", None] if is_fixed else ["1", "1"])


@row("headers of the caller", "compat.httpx_sse")
def test_connect_sse_copies_headers_of_caller(name: str, server: Server) -> None:
    server.answers["/events"] = Answer([TWO])
    url = server.url + "/events"
    sent = {}
    for module in (httpx_sse, sse_fast.compat.httpx_sse):
        headers = {"accept": "*/*", "X-Any": "1"}
        with (
            httpx.Client() as client,
            module.connect_sse(client, "GET", url, headers=headers) as it,
        ):
            assert [event.data for event in it.iter_sse()] == ["1", "2"]
        fields = it.response.request.headers
        sent[module] = (fields.get_list("accept"), fields.get_list("cache-control"), headers)
        assert fields["x-any"] == "1"
    mine = {"accept": "*/*", "X-Any": "1"}
    changed = {**mine, "Accept": "text/event-stream", "Cache-Control": "no-store"}
    assert sent[httpx_sse] == (["*/*", "text/event-stream"], ["no-store"], changed)
    assert sent[sse_fast.compat.httpx_sse] == (["text/event-stream"], ["no-store"], mine)
    pairs = [("X-Any", "1")]
    with httpx.Client() as client:
        with pytest.raises(TypeError), httpx_sse.connect_sse(client, "GET", url, headers=pairs):
            pass
        with sse_fast.compat.httpx_sse.connect_sse(client, "GET", url, headers=pairs) as it:
            assert it.response.request.headers["x-any"] == "1"


@row("logging", "compat.sseclient")
def test_sseclient_logs_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert len(ORIGINALS[name].read([TWO], ours=False).events) == 2
    assert len(caplog.records) == 3
    caplog.clear()
    assert len(ORIGINALS[name].read([TWO], ours=True).events) == 2
    assert not caplog.records


@row("responses of requests", "compat.sseclient")
def test_requests_response_is_read_in_large_chunks(name: str, server: Server) -> None:
    event = lines(b"data: " + b"x" * 1000, b"")
    server.answers["/events"] = Answer([event])
    url = server.url + "/events"
    for client, size in ((sseclient.SSEClient, 128), (sse_fast.compat.sseclient.SSEClient, 65536)):
        with requests.get(url, stream=True) as response:
            sizes = []

            def iter_content(
                size: int, response: Any = response, sizes: list[int] = sizes
            ) -> Iterable[bytes]:
                sizes.append(size)
                return type(response).iter_content(response, size)

            response.iter_content = iter_content
            assert [each.data for each in client(response).events()] == ["x" * 1000]
            assert sizes == [size]


# -- The rest of the page --------------------------------------------------------------------------

KEPT = {
    cells[0].removeprefix("the standard, "): cells[1:]
    for cells in (
        line.strip("| ").split(" | ")
        for line in PAGE.partition("## What is kept")[2].partition("\n## ")[0].splitlines()
    )
    if len(cells) == 8 and cells[0] not in ("", "---")
}
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_page_tables_are_complete() -> None:
    names = {original.removeprefix("compat.") for original in ORIGINALS}
    assert set(KEPT) == names | {"`Parser`", "httpx2"}
    assert len(CODE) == 4
    versions = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", PAGE, re.MULTILINE)
    assert versions == [(library.name, library.versions) for library in LIBRARIES.values()]


def parser_reader() -> Reader:
    parser = sse_fast.Parser()

    def read(chunks: Iterable[bytes]) -> Iterable[Any]:
        for chunk in chunks:
            for event in parser.feed(chunk):
                names = ("event", "data", "id", "retry")
                yield {name: getattr(event, name) for name in names}

    return Reader(read, None)


@pytest.mark.parametrize("name", KEPT)
def test_page_table_of_kept_deviations(name: str) -> None:
    event, first_id, without_data, blank_line, retry, invalid, size = KEPT[name]
    if name == "httpx2" and name not in ORIGINALS:
        pytest.skip("httpx2 does not support this Python")
    original = ORIGINALS.get(name) or ORIGINALS.get(f"compat.{name}")
    if original is None:
        original = Original(name, parser_reader, parser_reader, False)

    def read(*texts: bytes) -> list[dict[str, Any]]:
        outcome = original.read([lines(*texts, b"")], ours=True)
        assert outcome.error is None
        return outcome.attributes()

    (plain,) = read(b"data: x")
    assert plain.get("event") == eval(event)
    assert plain.get("id") == eval(first_id.partition(",")[0])
    assert len(read(b"event: x")) == without_data.startswith("an event")
    after_id = read(b"id: 1", b"data: x", b"", b"", b"data: y")
    assert len(after_id) == 2 + (blank_line == "an event")
    assert after_id[-1].get("id") == (None if "also for" in first_id else "1")
    kinds = {"as text": (["6", "+5", "x"]), "`int()`": [6, 5, None]}
    texts = (b"6", b"+5", b"x")
    found = [read(b"retry: " + text, b"data: x")[0].get("retry") for text in texts]
    assert found == kinds.get(retry, [6, None, None])
    broken = original.read([lines(b"data: \xff", b"")], ours=True)
    if invalid == "raises":
        assert (broken.events, broken.error) == ([], "UnicodeDecodeError")
    else:
        assert (broken.data, broken.error) == (["\ufffd"], None)
    # Larger than the default max_event_size.
    large = [*[b"data: " + b"x" * 2**16 + b"\n"] * 260, b"\n"]
    error = original.read(large, ours=True).error
    assert (error is None) == (size == "any")
    assert size in ("any", "`max_event_size`")


def test_page_code_runs() -> None:
    names: dict[str, Any] = {}
    for code in CODE:
        try:
            exec(compile(code, "other-parsers.md", "exec"), names)
        except ImportError:
            # httpx2 needs Python 3.11.
            assert find_spec("httpx2") is None
            assert '"httpx2"' in code
        finally:
            sse_fast.uninstall()
    assert names["httpx_sse"] is sse_fast.compat.httpx_sse
    assert names["sseclient"] is sse_fast.compat.sseclient
    with names["Client"](api_key="any") as client:
        assert type(client._make_sse_decoder()) is names["SSEDecoder"]
