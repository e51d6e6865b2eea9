"""Programs that replace, subclass or import parts of a library work as before with `compat`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import httpx
import httpx_sse
import pytest
import requests
import sseclient

import sse_fast
import sse_fast.compat.httpx_sse
import sse_fast.compat.sseclient
from tests.support.commands import run_python
from tests.support.libraries import EVENT_STREAM, ORIGINALS, Body
from tests.support.server import Answer, Server

SDKS = ["openai", "anthropic"]
STREAM = b"data: a\n\ndata: secret\n\n"


# -- httpx-sse -------------------------------------------------------------------------------------


class OnlyText:
    """A stand-in with only the attributes that the original uses."""

    headers = EVENT_STREAM

    def iter_text(self) -> Iterator[str]:
        yield STREAM.decode()

    async def aiter_text(self) -> AsyncIterator[str]:
        yield STREAM.decode()


class Redacting(httpx.Response):
    """A response that overrides how its text is read."""

    def iter_text(self, chunk_size: int | None = None) -> Iterator[str]:
        for text in super().iter_text(chunk_size):
            yield text.replace("secret", "***")

    async def aiter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        for text in self.iter_text():
            yield text


def mocked(**options: Any) -> Any:
    response = mock.MagicMock(**options)
    response.headers = EVENT_STREAM
    response.iter_text.return_value = iter([STREAM.decode()])
    response.aiter_text = OnlyText().aiter_text
    return response


def patched() -> httpx.Response:
    """Return a response whose methods were replaced on the instance."""
    response = httpx.Response(200, headers=EVENT_STREAM, content=STREAM)
    response.iter_text = OnlyText().iter_text  # type: ignore[method-assign]
    response.aiter_text = OnlyText().aiter_text  # type: ignore[method-assign]
    response.iter_bytes = response.aiter_bytes = None  # type: ignore[method-assign, assignment]
    return response


RESPONSES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "only text": (OnlyText, ["a", "secret"]),
    "a mock": (mocked, ["a", "secret"]),
    "a mock of httpx": (lambda: mocked(spec=httpx.Response), ["a", "secret"]),
    "patched": (patched, ["a", "secret"]),
    "a subclass": (
        lambda: Redacting(200, headers=EVENT_STREAM, content=STREAM),
        ["a", "***"],
    ),
}


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("how", ["original", "installed", "module"])
def test_httpx_sse_response_stand_in_is_read_as_text(response: str, how: str) -> None:
    make, expected = RESPONSES[response]
    module: Any = sse_fast.compat.httpx_sse if how == "module" else httpx_sse

    async def read() -> list[str]:
        return [event.data async for event in module.EventSource(make()).aiter_sse()]

    try:
        if how == "installed":
            sse_fast.install("httpx_sse")
        assert [event.data for event in module.EventSource(make()).iter_sse()] == expected
        assert anyio.run(read) == expected
    finally:
        sse_fast.uninstall()


# -- sseclient-py ----------------------------------------------------------------------------------


class RedactingResponse(requests.Response):
    def __iter__(self) -> Iterator[bytes]:
        for chunk in super().__iter__():
            yield chunk.replace(b"secret", b"***")


class Wrapper:
    """Has its own `__iter__`, and delegates everything else to a response."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response

    def __iter__(self) -> Iterator[bytes]:
        return (chunk.replace(b"secret", b"***") for chunk in self.response)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.response, name)


@pytest.mark.parametrize("client", [sseclient.SSEClient, sse_fast.compat.sseclient.SSEClient])
@pytest.mark.parametrize("kind", ["subclass", "wrapper", "mock"])
def test_sseclient_source_with_own_iter_is_used(server: Server, client: Any, kind: str) -> None:
    server.answers["/events"] = Answer([STREAM])
    with requests.get(server.url + "/events", stream=True) as response:
        expected = ["a", "***"]
        source: Any = Wrapper(response)
        if kind == "subclass":
            response.__class__ = RedactingResponse
            source = response
        elif kind == "mock":
            source = mock.MagicMock()
            source.__iter__.return_value = iter([STREAM])
            expected = ["a", "secret"]
        assert [event.data for event in client(source).events()] == expected


def test_sseclient_error_in_stateful_encoding_raises() -> None:
    """A chunk ends within a stateful encoding, and the next one has invalid bytes."""
    text = "data: 日本語\n\n".encode("iso2022_jp")
    at = text.index(b"\x1b") + 5
    chunks = [text[:at], text[at:] + b"data: \xff\n\n"]
    for module in (sseclient, sse_fast.compat.sseclient):
        events = module.SSEClient(Body(chunks), "iso2022_jp").events()
        assert next(events).data == "日本語"
        with pytest.raises(UnicodeDecodeError):
            next(events)


# -- The SDKs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk_decoder_overriding_decode_is_used(sdk: str) -> None:
    """The subclass is made from the decoder that is in place, with and without `install()`."""
    streaming = import_module(f"{sdk}._streaming")
    seen = []
    for install in (False, True):
        if install:
            sse_fast.install(sdk)
        try:

            class Decoder(streaming.SSEDecoder):  # type: ignore[misc, name-defined]
                def decode(self, line: str) -> Any:
                    return super().decode(line.replace("secret", "***"))

            async def read(decoder: Any = Decoder) -> list[str]:
                async def chunks() -> AsyncIterator[bytes]:
                    yield STREAM

                return [event.data async for event in decoder().aiter_bytes(chunks())]

            seen.append([event.data for event in Decoder().iter_bytes(iter([STREAM]))])
            seen.append(anyio.run(read))
        finally:
            sse_fast.uninstall()
    assert seen == [["a", "***"]] * 4


@pytest.mark.parametrize("where", ["class", "instance"])
def test_sdk_decoder_overriding_chunks_is_used(where: str) -> None:
    streaming = import_module("anthropic._streaming")

    def redacted(chunks: Iterator[bytes]) -> Iterator[bytes]:
        return (chunk.replace(b"secret", b"***") for chunk in chunks)

    with sse_fast.install("anthropic"):
        decoder = streaming.SSEDecoder()
        if where == "instance":
            decoder._iter_chunks = redacted
        else:
            own = {"_iter_chunks": lambda self, chunks: redacted(chunks)}
            decoder = type("Decoder", (streaming.SSEDecoder,), own)()
        assert [event.data for event in decoder.iter_bytes(iter([STREAM]))] == ["a", "***"]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_sdk_decoder_accepts_bytes_like_chunks(sdk: str, kind: Any) -> None:
    stream = "data: é\n\ndata: b\n\n".encode()
    chunks = [kind(stream[at : at + 3]) for at in range(0, len(stream), 3)]
    assert ORIGINALS[sdk].read(chunks, ours=True).data == ["é", "b"]


@pytest.mark.parametrize("limit", [0, 20, 20.9, 1e6, True, float("inf")])
def test_httpx2_limits_act_as_before(limit: float) -> None:
    sse = pytest.importorskip("httpx2._sse")
    outcomes = []
    for install in (False, True):
        if install:
            sse_fast.install("httpx2")
        try:
            parser = sse._SSEParser(limit)
            found = [event.data for event in parser.decode("\n\n: c\n\n")]
            try:
                found += [event.data for event in parser.decode("data: a\n\ndata: " + "x" * 30)]
            except sse.SSEError as error:
                found.append(str(error))
            outcomes.append(found)
        finally:
            sse_fast.uninstall()
    assert outcomes[0] == outcomes[1]


def test_mistralai_decoder_returning_none_drops_event() -> None:
    module = import_module("mistralai.client.utils.eventstreaming")

    def read() -> list[Any]:
        response = module.httpx.Response(200, content=STREAM)
        decoder = {'{"data": "a"}': None, '{"data": "secret"}': "b"}.__getitem__
        return list(module.stream_events(response, decoder))

    assert read() == ["b"]
    with sse_fast.install("mistralai"):
        assert read() == ["b"]


# -- Imports ---------------------------------------------------------------------------------------


def run_script(tmp_path: Path, script: str) -> None:
    assert run_python(script, directory=tmp_path) == "done\n"


@pytest.mark.parametrize("sdk", ["openai", pytest.param("anthropic", marks=pytest.mark.matrix)])
def test_install_during_import_in_other_thread(tmp_path: Path, sdk: str) -> None:
    run_script(
        tmp_path,
        "import sys, threading, sse_fast\n"
        "errors = []\n"
        "started = threading.Event()\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == '{sdk}._exceptions':\n"
        "            started.set()\n"
        "sys.meta_path.insert(0, Finder)\n"
        "def load():\n"
        f"    try: __import__('{sdk}')\n"
        "    except BaseException as error: errors.append(error)\n"
        "thread = threading.Thread(target=load)\n"
        "thread.start()\n"
        "assert started.wait(30)\n"
        f"sse_fast.install('{sdk}')\n"
        "thread.join()\n"
        "assert not errors, errors\n"
        "print('done')",
    )


def test_install_from_import_hook(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        "import sys, importlib.abc, importlib.machinery, sse_fast\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name != 'openai': return None\n"
        "        spec = importlib.machinery.PathFinder.find_spec(name, path)\n"
        "        load = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            load(module)\n"
        "            sse_fast.install('openai')\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder)\n"
        "sse_fast.install('openai')\n"
        "import openai._base_client\n"
        "assert openai._base_client.SSEDecoder.__module__ == 'sse_fast.compat.openai'\n"
        "print('done')",
    )


def test_install_again_after_reload(tmp_path: Path) -> None:
    """In a process of its own, since a reloaded module has other classes than before."""
    run_script(
        tmp_path,
        "import importlib, sse_fast\n"
        "import openai._base_client as client, openai._streaming as streaming\n"
        "sse_fast.install('openai')\n"
        "importlib.reload(streaming)\n"
        "assert streaming.SSEDecoder.__module__ == 'openai._streaming'\n"
        "assert sse_fast.install('openai').names == ('openai',)\n"
        "found = {it.SSEDecoder.__module__ for it in (client, streaming)}\n"
        "assert found == {'sse_fast.compat.openai'}, found\n"
        "importlib.reload(streaming)\n"
        "sse_fast.uninstall()\n"
        "found = {it.SSEDecoder.__module__ for it in (client, streaming)}\n"
        "assert found == {'openai._streaming'}, found\n"
        "print('done')",
    )


def test_httpx_sse_without_httpx_names_the_extra(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        "import sys\n"
        "sys.modules['httpx'] = None\n"
        "try: import sse_fast.compat.httpx_sse\n"
        "except ImportError as error: assert \"'sse-fast[httpx]'\" in str(error), error\n"
        "else: raise SystemExit('imported')\n"
        "print('done')",
    )
