"""The originals beside ours: the same events, but for the rows of "What is not kept".

Each library that `compat` stands in for reads streams by its own code and by ours: those that
hypothesis makes of what the libraries differ in, and those recorded from browsers. `is_a_row`
leaves out the streams that a row of the table is about. Each row has a test of its own, which runs
the original too: one that is no longer true fails.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import Any

import httpx
import httpx_sse
import openai._streaming
import pytest
import requests
import sseclient
from hypothesis import given
from hypothesis import strategies as st

import sse_fast
import sse_fast.compat.httpx_sse
import sse_fast.compat.sseclient
from sse_fast.compat import LIBRARIES
from tests.support import DATA, ROOT
from tests.support.examples import examples
from tests.support.libraries import (
    ASYNC,
    EVENT_STREAM,
    INSTALLED,
    ORIGINALS,
    Original,
    Reader,
    mistralai,
    state,
)
from tests.support.reference import cut
from tests.support.server import Answer, Server

PAGE = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
BOM = b"\xef\xbb\xbf"
# Those that cut the stream into blocks before they look at lines.
BLOCKWISE = {"anthropic", "compat.sseclient"}
if not hasattr(openai._streaming, "_SSELineDecoder"):
    # Before 3.4.
    BLOCKWISE |= {"openai"}


@pytest.fixture(params=ORIGINALS.values(), ids=list(ORIGINALS), scope="session")
def original(request: pytest.FixtureRequest) -> Original:
    library: Original = request.param
    return library


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
    """Of a test: it asserts that row of the table, for these libraries."""
    ROWS.setdefault(name, set()).update(each.removeprefix("compat.") for each in libraries)
    return pytest.mark.parametrize("name", libraries)


def test_every_row_has_its_assertion() -> None:
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
def test_byte_order_mark(name: str) -> None:
    if name not in ORIGINALS:
        pytest.skip("is not for this Python")
    original = ORIGINALS[name]
    stream = BOM + TWO
    assert original.read([stream], ours=False).data == ["2"]
    for at in range(1, 5):
        chunks = cut(stream, [at])
        assert original.read(chunks, ours=True) == original.read([TWO], ours=False)
        if name in ASYNC:
            assert original.aread(chunks, ours=True) == original.read([TWO], ours=False)
    # Of a block with more than one field, it is the first that is lost.
    named = BOM + lines(b"event: a", b"data: 1", b"")
    (theirs,) = original.read([named], ours=False).attributes()
    (ours,) = original.read([named], ours=True).attributes()
    assert (theirs["data"], ours["data"], ours["event"]) == ("1", "1", "a")
    assert theirs["event"] != "a"


@row("byte order mark in two chunks", "mistralai")
def test_byte_order_mark_in_two_chunks(name: str) -> None:
    original = ORIGINALS[name]
    stream = BOM + TWO
    whole = original.read([TWO], ours=False)
    assert original.read([stream], ours=False) == original.read([stream], ours=True) == whole
    for at in (1, 2):
        chunks = cut(stream, [at])
        assert original.read(chunks, ours=False).data == [2]
        assert original.read(chunks, ours=True) == whole


@row("byte order mark later on", "mistralai")
def test_byte_order_mark_later_on(name: str) -> None:
    original = ORIGINALS[name]
    chunks = [lines(b"data: 1", b""), BOM + lines(b"data: 2", b"")]
    assert original.read(chunks, ours=False).data == [1, 2]
    assert original.read(chunks, ours=True).data == [1]
    whole = [b"".join(chunks)]
    assert original.read(whole, ours=False) == original.read(whole, ours=True)


class Copies:
    """Counts what a concatenation of the original copies."""

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
    """A decoder of text whose pieces are counted."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies

    def decode(self, chunk: bytes, final: bool = False) -> str:
        text: str = self.copies.chunk(str, chunk.decode())
        return text


@row("quadratic time", "openai", "anthropic", "cohere", "compat.sseclient")
def test_quadratic_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    # No more than what `install()` reads.
    assert copied(400, ours=True) == copied(200, ours=True) < 200


@row("CR, CR and LF in two chunks", "openai", "anthropic")
def test_cr_cr_lf_in_two_chunks(name: str) -> None:
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


@row("mixed ends of line", "compat.sseclient")
def test_mixed_ends_of_line(name: str) -> None:
    original = ORIGINALS[name]
    for stream in (b"data: a\n\r\ndata: b\n\n", b"data: a\r\r\ndata: b\r\r"):
        assert original.read([stream], ours=False).data == ["a\nb"]
        assert original.read([stream], ours=True).data == ["a", "b"]


@row("NUL in an id", "compat.sseclient")
def test_nul_in_an_id(name: str) -> None:
    stream = lines(b"id: 1", b"id: a\0b", b"data: x", b"")
    assert ids(name, stream, ours=False) == ["a\0b"]
    assert ids(name, stream, ours=True) == ["1"]


def ids(name: str, stream: bytes, ours: bool) -> list[str]:
    return [event["id"] for event in ORIGINALS[name].read([stream], ours=ours).attributes()]


@row("where UTF-8 is invalid", "openai", "anthropic", "mistralai", "compat.sseclient")
def test_where_utf8_is_invalid(name: str) -> None:
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
def test_an_event_type_of_nothing(name: str) -> None:
    original = ORIGINALS[name]
    stream = lines(b"event:", b"data: 1", b"")
    assert original.read([stream], ours=False).attributes() == [{"event": "", "data": 1}]
    assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("a block of what does not count", "mistralai")
def test_a_block_of_what_does_not_count(name: str) -> None:
    original = ORIGINALS[name]
    for line in (b"id: a\0b", b"retry: soon"):
        stream = lines(line, b"", b"data: 1", b"")
        assert original.read([stream], ours=False).attributes() == [{}, {"data": 1}]
        assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("digits that are no number", "mistralai")
def test_digits_that_are_no_number(name: str) -> None:
    original = ORIGINALS[name]
    for digits in ("²", "9" * 4301):
        stream = lines(f"retry: {digits}".encode(), b"data: 1", b"")
        assert original.read([stream], ours=False).error == "ValueError"
        assert original.read([stream], ours=True).attributes() == [{"data": 1}]


@row("the size of an event", "httpx2")
def test_the_size_of_an_event(name: str) -> None:
    if name not in ORIGINALS:
        pytest.skip("is not for this Python")
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


@row("a line without end", "cohere")
def test_a_line_without_end(name: str) -> None:
    original = ORIGINALS[name]
    # One piece more than the original takes, and one more than ours does.
    for pieces, expected in ((17, ["a", "x" * 17 * 65536]), (65, ["a"])):
        chunks = [lines(b"data: a", b""), b"data: ", *[b"x" * 65536] * pieces, b"\n\n"]
        theirs, ours = (original.read(chunks, ours=ours) for ours in (False, True))
        assert (theirs.data, theirs.error) == (["a"], "SSEError")
        assert (ours.data, ours.error) == (expected, None if len(expected) == 2 else "SSEError")


@row("an id within an event that is cut off", "openai", "anthropic", "cohere")
def test_an_id_within_an_event_that_is_cut_off(name: str) -> None:
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
    mended = name == "openai" and name not in BLOCKWISE
    assert theirs == (["1", None] if mended else ["1", "2"])
    assert ours == (["1", None] if mended else ["1", "1"])


@row("header fields of the caller", "compat.httpx_sse")
def test_header_fields_of_the_caller(name: str, server: Server) -> None:
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


@row("messages to `logging`", "compat.sseclient")
def test_messages_to_logging(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert len(ORIGINALS[name].read([TWO], ours=False).events) == 2
    assert len(caplog.records) == 3
    caplog.clear()
    assert len(ORIGINALS[name].read([TWO], ours=True).events) == 2
    assert not caplog.records


@row("responses of requests", "compat.sseclient")
def test_responses_of_requests(name: str, server: Server) -> None:
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


def test_the_page_was_read() -> None:
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
def test_what_is_kept(name: str) -> None:
    event, first_id, without_data, blank_line, retry, invalid, size = KEPT[name]
    if name == "httpx2" and name not in ORIGINALS:
        pytest.skip("is not for this Python")
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
    assert after_id[-1].get("id") == (None if "anew" in first_id else "1")
    kinds = {"as text": (["6", "+5", "x"]), "`int()`": [6, 5, None]}
    texts = (b"6", b"+5", b"x")
    found = [read(b"retry: " + text, b"data: x")[0].get("retry") for text in texts]
    assert found == kinds.get(retry, [6, None, None])
    broken = original.read([lines(b"data: \xff", b"")], ours=True)
    if invalid == "raises":
        assert (broken.events, broken.error) == ([], "UnicodeDecodeError")
    else:
        assert (broken.data, broken.error) == (["\ufffd"], None)
    # More than the default of a parser.
    large = [*[b"data: " + b"x" * 2**16 + b"\n"] * 260, b"\n"]
    error = original.read(large, ours=True).error
    assert (error is None) == (size == "any")
    assert size in ("any", "`max_event_size`")


def test_the_code_of_the_page() -> None:
    names: dict[str, Any] = {}
    for code in CODE:
        try:
            exec(compile(code, "compat.md", "exec"), names)
        except ImportError:
            # What a Python that is too old for httpx2 makes of it.
            assert find_spec("httpx2") is None
            assert '"httpx2"' in code
        finally:
            sse_fast.uninstall()
    assert names["httpx_sse"] is sse_fast.compat.httpx_sse
    assert names["sseclient"] is sse_fast.compat.sseclient
    with names["Client"](api_key="any") as client:
        assert type(client._make_sse_decoder()) is names["SSEDecoder"]


# -- Everything else is the same -------------------------------------------------------------------

LINES = [
    *(b"data: a", b"data:b", b"data", b"data:  c ", b'data: {"a": 1}', b"data: [DONE]"),
    *(b"event: e", b"event:", b"event", b"event: \xc3\xa9"),
    *(b"id: 1", b"id:", b"id", b"id: \xe2\x80\xa8", b"id: a\0b"),
    *(b"retry: 5", b"retry: +7", b"retry: -1", b"retry: 1_0", b"retry:  6 ", b"retry", b"retry: x"),
    *(b"retry: \xd9\xa3", b"retry: " + b"9" * 30, b"retry: 0x1"),
    *(b": c", b":", b"unknown: x", b"data : z", b"DATA: z", b" data: z", b"\x00", b"\x85", b" "),
    *(b"data: \xff", b": \xe2\x80", b"data: \xed\xa0\x80", b"data: \xf0\x9f\x9a\x80"),
    *(BOM + b"data: a", b"data: \xe2\x80\xa8\x0b\x0c\x1c\x1d\x1e\xc2\x85"),
]
ENDS = [b"\n", b"\r\n", b"\r"]


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """Lines, half of them blank, of one kind of end or of all; and where they are cut."""
    ends = draw(st.sampled_from([[end] for end in ENDS] + [ENDS]))
    line = st.one_of(st.just(b""), st.sampled_from(LINES))
    pairs = draw(st.lists(st.tuples(line, st.sampled_from(ends)), max_size=16))
    stream = b"".join(line + end for line, end in pairs) + draw(st.one_of(st.just(b""), line))
    return cut(stream, sorted(draw(st.sets(st.integers(0, len(stream)), max_size=6))))


def is_a_row(original: Original, chunks: list[bytes]) -> bool:
    """Whether a row of the table is about this stream."""
    name, stream = original.name, b"".join(chunks)
    found = re.findall(rb"([^\r\n]*)(\r\n|\r|\n|$)", stream)
    texts = [text for text, _ in found]
    if stream.startswith(BOM) or (name == "mistralai" and BOM in stream):
        return True
    if name in BLOCKWISE:
        ends = accumulate(chunks)
        if any(stream[: len(a)].endswith(b"\r\r") and stream[len(a) :][:1] == b"\n" for a in ends):
            return True
    if name == "compat.sseclient":
        same = {(end, end) for end in ENDS} | {(b"\r\n", b"\n")}
        pairs = pairwise(found)
        if any(
            not text and end and (before, end) not in same for (_, before), (text, end) in pairs
        ):
            return True
        return any(b"\0" in text for text in texts if text.startswith(b"id:"))
    if name == "mistralai":
        return any(
            text in (b"event", b"event:", b"event: ")
            or (text.startswith(b"id:") and b"\0" in text)
            or (text.startswith(b"retry") and not re.fullmatch(rb"retry: ?\d+", text))
            for text in texts
        )
    return False


def assert_same(original: Original, chunks: list[bytes]) -> None:
    theirs = original.read(chunks, ours=False)
    assert original.read(chunks, ours=True) == theirs
    if original.name in ASYNC:
        assert original.aread(chunks, ours=False) == theirs
        assert original.aread(chunks, ours=True) == theirs


@examples(150)
@given(data=st.data())
def test_made_streams(original: Original, data: st.DataObject) -> None:
    chunks = data.draw(cut_streams().filter(lambda chunks: not is_a_row(original, chunks)))
    assert_same(original, chunks)


@pytest.mark.parametrize("run", ["as given", "whole", "in threes"])
def test_recorded_streams(original: Original, run: str) -> None:
    compared = 0
    for vector in json.loads((DATA / "vectors.json").read_bytes()):
        chunks = [base64.b64decode(chunk) for chunk in vector["chunks"]]
        stream = b"".join(chunks)
        if len(stream) > 20_000:
            # Some of the originals take a minute for one.
            continue
        if run == "whole":
            chunks = [stream]
        elif run == "in threes":
            chunks = cut(stream, range(3, len(stream), 3))
        if not is_a_row(original, chunks):
            assert_same(original, chunks)
            compared += 1
    assert compared > 250


@examples(100)
@given(data=st.data())
def test_a_sentinel_and_data_only(data: st.DataObject) -> None:
    """What most of mistralai's methods ask for."""
    reader = mistralai(True, "[DONE]")
    original = Original("mistralai", reader, reader, True)
    chunks = data.draw(cut_streams().filter(lambda chunks: not is_a_row(original, chunks)))
    assert_same(original, chunks)


@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "mistralai"])
def test_the_classes_are_the_originals_own(name: str) -> None:
    original = ORIGINALS[name]
    for ours in (False, True):
        with sse_fast.install(name) if ours else nullcontext():
            (event,) = original.theirs().read([lines(b"data: 1", b"")])
        assert type(event).__module__.partition(".")[0] == name
