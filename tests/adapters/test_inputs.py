"""Objects that people have in the place of a response, and files and responses of other makes."""

from __future__ import annotations

import asyncio
import email.message
import gzip
import http.client
import io
import mmap
import socket
import tempfile
import threading
import urllib.error
import urllib.request
import urllib.response
import zlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import aiohttp
import httpcore
import httpx
import pytest
import requests
import yarl

from sse_fast import EndReason, ResponseError, TransportError, aiter_events, iter_events
from sse_fast._wake import make_waker
from tests.support.clients import EVENTS, STREAM, plain
from tests.support.faults import FaultServer, framed, packed

OPENINGS = pytest.mark.parametrize("opening", [iter_events, aiter_events])


# -- Objects that are no responses -----------------------------------------------------------------


@OPENINGS
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/events",
        "HTTPS://example.com/",
        httpx.URL("https://example.com/"),
        yarl.URL("https://example.com/"),
    ],
    ids=lambda url: type(url).__name__,
)
def test_url_names_what_requests_it(opening: Any, url: Any) -> None:
    with pytest.raises(TypeError, match=r"got a URL: EventSource\(url\).*open_stream\(url\)"):
        opening(url)


@OPENINGS
def test_context_manager_names_with(opening: Any) -> None:
    with pytest.raises(TypeError, match=r"write `with \.\.\. as response`"):
        opening(httpx.stream("GET", "http://127.0.0.1:1/"))


@OPENINGS
def test_async_context_manager_names_async_with(opening: Any) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(verify=False) as client:
            with pytest.raises(TypeError, match=r"write `async with \.\.\. as response`"):
                opening(client.stream("GET", "http://127.0.0.1:1/"))

    asyncio.run(run())


@OPENINGS
def test_coroutine_names_await(opening: Any) -> None:
    async def get() -> None: ...

    coroutine = get()
    with pytest.raises(TypeError, match="got coroutine, which is no response yet: await it"):
        opening(coroutine)
    coroutine.close()


@OPENINGS
def test_request_of_aiohttp_names_await(opening: Any) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            request = session.get("http://127.0.0.1:1/")
            with pytest.raises(
                TypeError, match=r"await it, or write `async with \.\.\. as response`"
            ):
                opening(request)
            request.close()

    asyncio.run(run())


@OPENINGS
def test_lines_of_requests_name_the_response(opening: Any, faults: FaultServer) -> None:
    faults.scripts["/"] = framed("length", [STREAM])
    with (
        requests.get(faults.url + "/", stream=True, timeout=5) as response,
        pytest.raises(TypeError, match=r"got iter_lines\(\), whose lines lack the line ends"),
    ):
        opening(response.iter_lines())


@OPENINGS
def test_response_of_unknown_library_names_its_reader(opening: Any) -> None:
    class Response:
        status_code = 200
        headers: ClassVar = {"Content-Type": "text/event-stream"}

        def iter_content(self) -> Iterator[bytes]:
            return iter(())

        __iter__ = iter_content

    with pytest.raises(TypeError, match=r"pass its bytes, as iter_content\(\) gives them"):
        opening(Response())


@OPENINGS
def test_read_without_a_size_makes_no_file(opening: Any, faults: FaultServer) -> None:
    faults.scripts["/"] = framed("length", [STREAM])
    with (
        httpcore.stream("GET", faults.url + "/") as response,
        pytest.raises(TypeError, match=r"got httpcore\.Response"),
    ):
        opening(response)


# -- Objects that hold a response, or are one without a library ------------------------------------


def test_error_of_urllib_is_refused(faults: FaultServer) -> None:
    faults.scripts["/"] = [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n",
        b'Content-Length: 13\r\n\r\n{"error":"x"}',
    ]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(faults.url + "/", timeout=5)
    with pytest.raises(ResponseError, match="401") as refused:
        iter_events(caught.value)
    assert refused.value.response.json() == {"error": "x"}


def test_error_of_urllib_without_body_is_refused() -> None:
    error = urllib.error.HTTPError("http://h/", 503, "", email.message.Message(), None)
    with pytest.raises(ResponseError, match="503"):
        iter_events(error)


def test_data_url_is_read() -> None:
    with urllib.request.urlopen("data:text/event-stream,data:1%0a%0a") as file:
        assert [event.data for event in iter_events(file)] == ["1"]


@pytest.mark.parametrize(
    ("status", "content_type", "message"),
    [(401, "text/event-stream", "401"), (200, "text/html", "text/html")],
)
def test_head_of_a_fake_is_checked(status: int, content_type: str, message: str) -> None:
    class Fake(list[bytes]):
        status_code = status
        headers: ClassVar = {"Content-Type": content_type}

    with pytest.raises(ResponseError, match=message):
        iter_events(Fake([STREAM]))
    assert plain(iter_events(Fake([STREAM]), check=False)) == EVENTS


def test_content_of_aiohttp_is_read_as_it_arrives(faults: FaultServer) -> None:
    """The lines of aiohttp are limited to 128 KiB, and end with LF only."""
    more = threading.Event()
    data = "x" * 300_000
    parts = [b"data: 1\r\r", more, f"data: {data}\n\n".encode(), b"id: 1\ndata: cut off"]
    faults.scripts["/"] = [*framed("chunked", parts)[:-1]]

    async def run() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(faults.url + "/") as response,
        ):
            stream = aiter_events(response.content)
            assert (await anext(stream)).data == "1"
            more.set()
            assert (await anext(stream)).data == data
            with pytest.raises(TransportError):
                await anext(stream)

    asyncio.run(run())


# -- Files whose read(size) waits for all of it ----------------------------------------------------


class Blocking:
    """A file whose read(size) waits for the whole size."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)  # type: ignore[no-any-return]


class WithLines(Blocking):
    """Such a file with a readline() of its own."""

    def readline(self, size: int = -1) -> bytes:
        return self._file.readline(size)  # type: ignore[no-any-return]


class OfIO(io.IOBase):
    """Such a file with the readline() of `io`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)  # type: ignore[no-any-return]


class OfBufferedIO(io.BufferedIOBase):
    """Such a file, whose read1() only raises."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(size)  # type: ignore[no-any-return]


def add_info(file: Any) -> Any:
    return urllib.response.addinfourl(file, email.message.Message(), "")


@pytest.mark.parametrize("make", [Blocking, WithLines, OfIO, OfBufferedIO, add_info])
def test_file_that_waits_for_its_size_delivers(make: Callable[[Any], Any]) -> None:
    """An event is delivered when its bytes have arrived."""
    near, far = socket.socketpair()
    with near, far, near.makefile("rb") as file:
        near.settimeout(5)
        stream = iter_events(make(file))
        far.sendall(b"data: 1\n\n")
        assert next(stream).data == "1"
        far.sendall(b"data: 2\n\ndata")
        assert next(stream).data == "2"
        far.sendall(b": 3\n\n")
        far.shutdown(socket.SHUT_WR)
        assert [event.data for event in stream] == ["3"]


def test_raw_file_of_socket_is_read_in_pieces() -> None:
    near, far = socket.socketpair()
    with near, far, near.makefile("rb", buffering=0) as file:
        stream = iter_events(file)
        far.sendall(b"data: 1\n\n")
        assert next(stream).data == "1"


def test_map_of_a_file_is_read() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(STREAM)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert plain(iter_events(mapped)) == EVENTS


# -- Stand-ins for responses of http.client --------------------------------------------------------


class Cassette(http.client.HTTPResponse):
    """A recorded response, without the attributes of http.client and with a read() of its own."""

    def __init__(self, body: bytes) -> None:
        self.fp = None
        self.status = self.code = 200
        self.reason = "OK"
        self.msg = self.headers = http.client.HTTPMessage()
        self.headers["Content-Type"] = "text/event-stream"
        self._content = io.BytesIO(body)

    def read(self, amt: int | None = None) -> bytes:
        return self._content.read(-1 if amt is None else amt)

    def isclosed(self) -> bool:
        # It has no connection.
        return True

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def __del__(self) -> None:
        pass


class BareCassette(Cassette):
    """A recorded response with neither file nor length."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        del self.fp

    @property
    def closed(self) -> bool:
        return False


@pytest.mark.parametrize("make", [Cassette, BareCassette])
def test_cassette_is_read(make: Any) -> None:
    stream = iter_events(make(STREAM))
    assert plain(stream) == EVENTS
    assert stream.end_reason is EndReason.END


class FakeSocket:
    """A socket of a test, whose file has read() and readline() only."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, *_: Any, **__: Any) -> Any:
        return self._file


class PlainFile(WithLines):
    def readinto(self, buffer: Any) -> int:
        read = self._file.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        self._file.close()

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_response_over_a_fake_socket_is_read(framing: str) -> None:
    body = b"".join(part for part in framed(framing, [STREAM]) if isinstance(part, bytes))
    response = http.client.HTTPResponse(FakeSocket(PlainFile(io.BytesIO(body))))  # type: ignore[arg-type]
    response.begin()
    stream = iter_events(response)
    assert plain(stream) == EVENTS
    assert stream.end_reason is EndReason.END


def test_waker_of_a_replaced_socket_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests put other classes and functions in the place of `socket.socket`."""
    near, far = socket.socketpair()

    class Fake:
        def fileno(self) -> int:
            return near.fileno()

        def shutdown(self, how: int) -> None:
            near.shutdown(how)

    with near, far:
        for fake in (Fake, lambda *_: None):
            monkeypatch.setattr(socket, "socket", fake)
            make_waker(Fake())()
            monkeypatch.undo()
        far.settimeout(5)
        assert far.recv(1) == b""


# -- Content codings of http.client ----------------------------------------------------------------


def open_http_client(faults: FaultServer) -> Any:
    connection = http.client.HTTPConnection(faults.url.removeprefix("http://"), timeout=5)
    connection.request("GET", "/")
    return connection.getresponse()


@pytest.mark.parametrize("coding", ["none", "identity", "utf-8", "binary", "", "aws-chunked"])
def test_unknown_coding_is_identity(coding: str, faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [STREAM], f"Content-Encoding: {coding}")
    assert plain(iter_events(open_http_client(faults))) == EVENTS


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_gzip_is_decoded_as_it_arrives(framing: str, faults: FaultServer) -> None:
    more = threading.Event()
    parts = list(packed("gzip", [b"data: 1\n\n", b"data: 2\n\n"]))
    faults.scripts["/"] = framed(framing, [parts[0], more, *parts[1:]], "Content-Encoding: gzip")
    stream = iter_events(open_http_client(faults))
    assert next(stream).data == "1"
    more.set()
    assert [event.data for event in stream] == ["2"]


@pytest.mark.parametrize("raw", [False, True])
def test_deflate_is_decoded(raw: bool, faults: FaultServer) -> None:
    packer = zlib.compressobj(wbits=-15 if raw else 15)
    body = packer.compress(STREAM) + packer.flush()
    faults.scripts["/"] = framed("chunked", [body], "Content-Encoding: deflate")
    assert plain(iter_events(open_http_client(faults))) == EVENTS


def test_truncated_gzip_raises(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [gzip.compress(STREAM)[:-4]], "Content-Encoding: gzip")
    with pytest.raises(TransportError, match="truncated"):
        list(iter_events(open_http_client(faults)))
