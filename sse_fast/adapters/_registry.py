"""The table of types and their adapters, and the sources that need no adapter.

An adapter is found by the name of the object's type, so that the lookup imports no library.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sse_fast._source import READ_SIZE, Headers, Response, Source, qualified_type_name

if TYPE_CHECKING:
    Adapter = Callable[[Any], Source | Iterable[bytes] | AsyncIterable[bytes]]

__all__ = ["Adapter", "open_source", "register"]

_ADAPTERS: dict[str, str | Adapter] = {
    "aiohttp.client_reqrep.ClientResponse": "aiohttp",
    "aiohttp.streams.StreamReader": "aiohttp reader",
    "asyncio.streams.StreamReader": "asyncio",
    "http.client.HTTPResponse": "http_client",
    "httpx.Response": "httpx",
    "httpx2.Response": "httpx",
    "requests.models.Response": "requests",
    "socket.socket": "sockets",
    "urllib.response.addinfourl": "urllib",
    "urllib3.response.HTTPResponse": "urllib3",
}
"""Type name -> adapter, or the name of an adapter for `_load_adapter`."""

_URL = re.compile(r"https?://", re.IGNORECASE)

_CONTEXT_MANAGERS = {
    "_GeneratorContextManager": "with",
    "_AsyncGeneratorContextManager": "async with",
}
"""Type name of what httpx.stream() returns -> the statement that gives the response."""

_READERS = ("iter_raw", "iter_bytes", "iter_content", "aiter_raw", "aiter_bytes", "aiter_content")
"""Methods of a response, of any library, that give its body as it arrives."""

_WANTED = (
    "a response, a binary file, a socket, an iterable of bytes or bytes; "
    "sse_fast.register() adds a type of your own"
)


def register(type_name: str, adapter: Adapter) -> None:
    """Make `iter_events` and `aiter_events` accept a type of your own.

    Args:
        type_name: module and qualified name of the class, `"package.module.Class"`. Subclasses
            are accepted too.
        adapter: called with the object; returns an iterable or async iterable of its bytes as
            they arrive.

    Raises:
        TypeError: `type_name` is not a str, or `adapter` is not callable.
    """
    if not isinstance(type_name, str):
        raise TypeError(
            f"Expected the name of a type as a str, got {qualified_type_name(type_name)}: "
            "'package.module.Class'"
        )
    if not callable(adapter):
        raise TypeError(f"Expected adapter to be callable, got {qualified_type_name(adapter)}")
    _ADAPTERS[type_name] = adapter


def open_source(source: Any) -> Source:
    """Return the `Source` of an object, by the adapter for its type.

    Args:
        source: what a user may pass to `iter_events` or `aiter_events`.

    Raises:
        TypeError: the object is not a source, or a source of text.
    """
    if isinstance(source, Source):
        return source
    for cls in type(source).__mro__:
        adapter = _ADAPTERS.get(f"{cls.__module__}.{cls.__qualname__}")
        if adapter is not None:
            if isinstance(adapter, str):
                adapter = _load_adapter(adapter)
            opened = adapter(source)
            return opened if isinstance(opened, Source) else _open_plain(opened)
    return _open_plain(source)


def _load_adapter(name: str) -> Adapter:
    """Import the adapter of a library. The imports are written out for freezing tools."""
    if name == "aiohttp":
        from sse_fast.adapters import aiohttp

        return aiohttp.open_source
    if name == "aiohttp reader":
        from sse_fast.adapters import aiohttp

        return aiohttp.open_reader
    if name == "asyncio":
        from sse_fast.adapters import asyncio

        return asyncio.open_source
    if name == "http_client":
        from sse_fast.adapters import http_client

        return http_client.open_source
    if name == "httpx":
        from sse_fast.adapters import httpx

        return httpx.open_source
    if name == "requests":
        from sse_fast.adapters import requests

        return requests.open_source
    if name == "sockets":
        from sse_fast.adapters import sockets

        return sockets.open_source
    if name == "urllib":
        from sse_fast.adapters import http_client

        return http_client.open_inner
    if name == "urllib3":
        from sse_fast.adapters import urllib3

        return urllib3.open_source
    raise AssertionError(f"no branch for the adapter {name!r}")


def _open_plain(source: Any) -> Source:
    _refuse_mistakes(source)
    response = _find_response(source)
    opened = _open_bytes(source)
    return opened if response is None else opened._replace(response=response)


def _find_response(source: Any) -> Response | None:
    """Return the head of an object that has one: a fake, or what a handler of urllib.request made.

    Raises:
        TypeError: it is a response of a library of which only its author knows how to read it.
    """
    headers: Any = getattr(source, "headers", None)
    status = getattr(source, "status_code", None) or getattr(source, "status", None)
    if not isinstance(status, int) or not callable(getattr(headers, "items", None)):
        return None
    reader = next((name for name in _READERS if hasattr(source, name)), None)
    if reader is not None:
        raise TypeError(
            f"Expected {_WANTED}, got {qualified_type_name(source)}, a response of a library that "
            f"sse_fast has no adapter for: pass its bytes, as {reader}() gives them"
        )
    url = getattr(source, "url", None)
    return Response(status, Headers(headers.items()), str(url or ""), source)


def _open_bytes(source: Any) -> Source:
    if isinstance(source, str):
        raise TypeError(f"Expected {_WANTED}, got str: open(path, 'rb') reads a file")
    if isinstance(source, os.PathLike):
        raise TypeError(f"Expected {_WANTED}, got a path: open(path, 'rb') reads a file")
    if isinstance(source, io.IOBase) or _has_read(source):
        return _open_file(source)
    if not isinstance(source, bytes):
        # Copied, because it is parsed later and could change meanwhile.
        with suppress(TypeError):
            source = bytes(memoryview(source))
    if isinstance(source, bytes):
        return Source((source,), resumable=True)
    # A mapping or a set is a mistake: its items have no order.
    unordered = isinstance(source, (Mapping, AbstractSet))
    if isinstance(source, (Iterable, AsyncIterable)) and not unordered:
        # The stream excepts async generators, which a cancelled read closes.
        return Source(source, resumable=True)
    raise TypeError(f"Expected {_WANTED}, got {qualified_type_name(source)}")


def _refuse_mistakes(source: Any) -> None:
    """Refuse objects that people pass in the place of a response, and say what to write.

    Raises:
        TypeError: the object is a URL, or would give a response if it was awaited or entered.
    """
    is_text = isinstance(source, str)
    # The URLs of httpx, httpx2 and yarl.
    if (is_text or type(source).__name__ == "URL") and _URL.match(str(source)):
        raise TypeError(
            f"Expected {_WANTED}, got a URL: EventSource(url) requests it and reconnects, and "
            "open_stream(url) requests it once"
        )
    name = qualified_type_name(source)
    # A request of aiohttp is awaitable and a context manager, and is iterable as well.
    if hasattr(type(source), "__await__") and not isinstance(source, AsyncIterable):
        write = "await it" if not hasattr(type(source), "__aenter__") else "await it, or write "
        write += "`async with ... as response`" if hasattr(type(source), "__aenter__") else ""
        raise TypeError(f"Expected {_WANTED}, got {name}, which is no response yet: {write}")
    if type(source).__name__ == "generator" and _get_origin(source) == "requests.models.iter_lines":
        raise TypeError(
            f"Expected {_WANTED}, got iter_lines(), whose lines lack the line ends that the parser "
            "needs: pass the response"
        )
    statement = _CONTEXT_MANAGERS.get(type(source).__name__)
    if statement is not None:
        raise TypeError(
            f"Expected {_WANTED}, got {name}: write `{statement} ... as response`, and pass the "
            "response"
        )


def _get_origin(generator: Any) -> str:
    """Return the module and the name of the function that made a generator."""
    frame = generator.gi_frame
    return f"{frame.f_globals.get('__name__')}.{generator.__name__}" if frame is not None else ""


def _has_read(source: Any) -> bool:
    """Return whether the object is like a file with a read(size) that is not awaited."""
    read = getattr(source, "read", None)
    if not callable(read) or isinstance(source, AsyncIterable):
        return False
    # Imported late: it loads slowly, and few programs need it.
    import inspect

    # Responses of httpcore have a read() without a size, of the whole body.
    with suppress(ValueError):
        try:
            inspect.signature(read).bind(1)
        except TypeError:
            return False
    return not inspect.iscoroutinefunction(read)


def _open_file(file: Any) -> Source:
    if isinstance(getattr(file, "file", file), io.TextIOBase):
        raise TypeError(f"Expected {_WANTED}, got a text file: open it with mode 'rb'")
    raw = getattr(file, "raw", file)
    # Windows has no get_blocking() before Python 3.12, and no non-blocking files.
    can_tell = isinstance(raw, io.FileIO) and hasattr(os, "get_blocking")
    if can_tell and not os.get_blocking(raw.fileno()):
        # While no byte has arrived, a non-blocking file looks as if it had ended.
        raise TypeError(
            f"Expected {_WANTED}, got a non-blocking file: os.set_blocking(fd, True) changes it"
        )
    wait = _never_blocks if _is_regular(file) else None
    return Source(iter(_make_read(file), b""), wait=wait)


def _make_read(file: Any) -> Callable[[], bytes]:
    """Return a function that reads what has arrived; b"" is the end.

    It is a partial, because a signal handler may raise in a Python function, after it has read.

    Args:
        file: an object with a `read(size)`, which may wait until it has all of the size.
    """
    read1 = getattr(file, "read1", None)
    # The base class has one that only raises.
    if callable(read1) and getattr(type(file), "read1", None) is not io.BufferedIOBase.read1:
        return partial(read1, READ_SIZE)
    # A raw file reads once, and a file on a disk never waits.
    if isinstance(file, io.RawIOBase) or _is_regular(file):
        return partial(file.read, READ_SIZE)
    # A line ends each event. The readline() of `io` reads byte by byte, and waits for an LF.
    readline = getattr(file, "readline", None)
    if callable(readline) and getattr(type(file), "readline", None) is not io.IOBase.readline:
        return partial(readline, READ_SIZE)
    return partial(file.read, 1)


def _is_regular(file: Any) -> bool:
    """Return whether a read never waits: bytes in memory, or a file on a disk."""
    if isinstance(file, io.BytesIO):
        return True
    with suppress(TypeError), memoryview(file):
        # For example an mmap.
        return True
    with suppress(Exception):
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    return False


def _never_blocks(seconds: float) -> bool:
    return True
