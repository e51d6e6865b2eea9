"""`compat.sseclient` and the original have the same names, events and behaviour."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
import sseclient
import urllib3
from hypothesis import given
from hypothesis import strategies as st

import sse_fast.compat.sseclient
from tests.support.compat_pairs import STREAM, assert_alike, chunks, compare_both, raised, values
from tests.support.libraries import Body
from tests.support.server import Answer, Server

SSECLIENT = (sseclient, sse_fast.compat.sseclient)
texts = st.none() | st.text()
FULL = [("greeting", "café\n🚀", "1", "250"), ("message", '{"a": [1, null]}', None, None)]
FULL += [("message", "", "", None), ("message", "not complete", None, None)]


def compare_sseclient(call: Callable[[Any], Any]) -> Any:
    return compare_both(SSECLIENT, call)


def test_module_has_the_original_api() -> None:
    theirs, ours = SSECLIENT
    # The original leaves Event out of its __all__.
    assert set(ours.__all__) == {*theirs.__all__, "Event"}
    compared = sum(
        assert_alike(getattr(theirs, name), getattr(ours, name))
        for name in ours.__all__
        if name != "__version__"
    )
    # Two constructors, events(), close().
    assert compared == 4


@given(texts, st.text(), st.text(), texts)
def test_event_constructor_copy_and_pickle(
    id: str | None, event: str, data: str, retry: str | None
) -> None:
    def shown(module: Any) -> Any:
        made = [
            module.Event(id, event, data, retry),
            module.Event(id=id, event=event, data=data, retry=retry),
        ]
        made += [copy.copy(made[0]), copy.deepcopy(made[0]), pickle.loads(pickle.dumps(made[0]))]
        assert {type(each) for each in made} == {module.Event}
        return [(str(each), list(vars(each).items())) for each in made]

    shown_values = compare_sseclient(shown)
    assert all(each == shown_values[0] for each in shown_values)


def test_event_defaults_and_attributes_can_be_set() -> None:
    assert compare_sseclient(lambda module: vars(module.Event()))["event"] == "message"

    def set_it(module: Any) -> str:
        event = module.Event()
        event.data = "x"
        event.other = 1
        return str(event)

    assert compare_sseclient(set_it) == "message event, 1 byte" + "s"


@pytest.mark.parametrize("data", [None, 0])
def test_event_str_without_text_data(data: Any) -> None:
    assert (
        compare_sseclient(lambda module: str(module.Event(data=data))) == "message event, no data"
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_reads_any_chunks(size: int) -> None:
    def read(module: Any) -> Any:
        body = Body(chunks(size=size))
        client = module.SSEClient(body)
        events = client.events()
        assert inspect.isgenerator(events)
        seen = list(events)
        assert {type(event) for event in seen} == {module.Event}
        assert not body.closed
        client.close()
        assert body.closed
        return values(seen)

    assert compare_sseclient(read) == FULL


def test_events_called_again_continues() -> None:
    """A second call of events() continues with the rest of the source."""

    def read(module: Any) -> Any:
        body = Body(iter([b"data: 1\n\ndata: lost\n\n", b"data: 2\n\n", b"data: 3\n\n"]))
        client = module.SSEClient(body)
        first = next(client.events()).data
        second, third = client.events(), client.events()
        return first, next(second).data, next(third).data, list(second)

    assert compare_sseclient(read) == ("1", "2", "3", [])


def test_events_reads_lazily() -> None:
    def read(module: Any) -> Any:
        asked = []

        def parts() -> Iterator[bytes]:
            for part in (b"data: 1\n\n", b"data: 2\n\n"):
                asked.append(part)
                yield part

        client = module.SSEClient(Body(parts()), char_enc="utf-8")
        events = client.events()
        before = len(asked)
        next(events)
        return before, len(asked)

    assert compare_sseclient(read) == (0, 1)


@pytest.mark.parametrize(
    "encoding",
    [
        *("utf-8", "UTF8", "latin-1", "cp1252", "iso-8859-15", "shift_jis", "euc_jp", "big5"),
        *("ascii", "koi8-r", "utf-8-sig", "iso2022_jp"),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_events_decodes_with_char_enc(encoding: str, size: int) -> None:
    word = {"shift_jis": "日本", "euc_jp": "日本", "iso2022_jp": "日本", "big5": "中文"}.get(
        encoding, {"ascii": "a", "koi8-r": "да"}.get(encoding, "£é")
    )
    stream = f"event: {word}\ndata: {word}\ndata: {word}\n\nid: {word}\ndata: b\n\n"

    def read(module: Any) -> Any:
        parts = chunks(stream.encode(encoding), size)
        return values(module.SSEClient(Body(parts), encoding).events())

    assert compare_sseclient(read) == [
        (word, f"{word}\n{word}", None, None),
        ("message", "b", word, None),
    ]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "shift_jis"])
def test_invalid_bytes_raise_after_events(encoding: str) -> None:
    def read(module: Any) -> Any:
        events = module.SSEClient(
            Body([b"data: a\n\n", b"data: b\n\ndata: \xfd\xff\n\n", b"data: c\n\n"]), encoding
        ).events()
        seen = values([next(events), next(events)])
        with pytest.raises(UnicodeDecodeError) as caught:
            next(events)
        return seen, caught.value.encoding, list(events)

    assert compare_sseclient(read)[2] == []


def test_unknown_encoding_raises_lookup_error() -> None:
    def read(module: Any) -> Any:
        events = module.SSEClient(Body([b"data: a\n\n"]), "bogus").events()
        return raised(lambda: next(events))

    assert compare_sseclient(read) == ("LookupError", "unknown encoding: bogus")


def over_requests(url: str, read: Callable[[Any], Any]) -> Any:
    with requests.get(url, stream=True, timeout=5) as answer:
        return read(answer)


def over_urllib3(url: str, read: Callable[[Any], Any]) -> Any:
    with (
        urllib3.PoolManager() as pool,
        closing(pool.request("GET", url, preload_content=False, retries=False)) as answer,
    ):
        return read(answer)


def over_urllib(url: str, read: Callable[[Any], Any]) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return read(answer)


CLIENTS = pytest.mark.parametrize("client", [over_requests, over_urllib3, over_urllib])


@CLIENTS
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_events_over_clients_and_framings(server: Server, client: Any, framing: str) -> None:
    server.answers["/events"] = Answer(chunks(), framing)

    def read(module: Any) -> Any:
        def use(answer: Any) -> Any:
            sse = module.SSEClient(answer)
            seen = values(sse.events())
            sse.close()
            return seen

        return client(f"{server.url}/events", use)

    assert compare_sseclient(read) == FULL


@pytest.mark.parametrize("gzip", [False, True])
def test_requests_response_read_before_is_parsed(server: Server, gzip: bool) -> None:
    server.answers["/events"] = Answer(chunks(), gzip=gzip)

    def read(module: Any) -> Any:
        answer = requests.get(f"{server.url}/events", timeout=5)
        return values(module.SSEClient(answer).events()), values(module.SSEClient(answer).events())

    assert compare_sseclient(read) == (FULL, FULL)


@pytest.mark.parametrize("client", [over_requests, over_urllib3])
def test_truncated_body_raises_after_events(server: Server, client: Any) -> None:
    server.answers["/events"] = Answer([STREAM], "cut")

    def read(module: Any) -> Any:
        seen: list[Any] = []

        def use(answer: Any) -> Any:
            try:
                for event in module.SSEClient(answer).events():
                    seen.extend(values([event]))
            except (OSError, urllib3.exceptions.HTTPError) as error:
                return type(error).__name__

        return client(f"{server.url}/events", use), seen

    error, seen = compare_sseclient(read)
    assert error == ("ChunkedEncodingError" if client is over_requests else "ProtocolError")
    assert seen[:3] == FULL[:3]


@CLIENTS
def test_close_early_does_not_wait(server: Server, client: Any) -> None:
    held = threading.Event()
    # Larger than one read of any of the clients.
    server.answers["/events"] = Answer([STREAM + b": " + b"x" * 1000 + b"\n"], hold=held)

    def read(module: Any) -> Any:
        def use(answer: Any) -> Any:
            sse = module.SSEClient(answer)
            first = values([next(sse.events())])
            # The server sends nothing more, so close() must not wait for data.
            sse.close()
            return first

        return client(f"{server.url}/events", use)

    try:
        assert compare_sseclient(read) == FULL[:1]
    finally:
        held.set()


def test_url_is_refused_with_what_to_pass() -> None:
    """The package `sseclient` has the same module and class, and takes a URL."""
    with pytest.raises(TypeError, match=r"EventSource\(url\)"):
        sse_fast.compat.sseclient.SSEClient("http://127.0.0.1:1/")  # type: ignore[arg-type]
