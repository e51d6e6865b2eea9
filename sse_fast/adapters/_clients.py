"""Sending a request by a client that the user holds: which adapter does it, and its failures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sse_fast._errors import StreamTimeout, TransportError
from sse_fast._source import qualified_type_name, redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

__all__ = ["iter_exception_chain", "resolve_send", "wrap_request_error"]

_CLIENTS: dict[str, tuple[str, bool]] = {
    "aiohttp.client.ClientSession": ("aiohttp", True),
    "httpx.AsyncClient": ("httpx", True),
    "httpx.Client": ("httpx", False),
    "httpx2.AsyncClient": ("httpx", True),
    "httpx2.Client": ("httpx", False),
    "requests.sessions.Session": ("requests", False),
    "urllib3.poolmanager.PoolManager": ("urllib3", False),
}
"""Type name of a client -> the name of its library for `_load_send`, and whether it is async."""


def resolve_send(client: Any, *, is_async: bool) -> Callable[..., Any]:
    """What sends a `Request` by a client, which is None for sockets of our own: a function of the
    request and the seconds to connect and to wait for a byte; it gives the `Source`, which is to
    be awaited if `is_async`. It follows no redirects.

    Raises:
        TypeError: no client, or one of the other kind.
        ImportError: httptools is missing, which sockets of our own want, or anyio.
    """
    # What is missing is missed here, before anything is asked.
    if is_async:
        try:
            import anyio  # noqa: F401
        except ImportError:
            raise ImportError(
                "Expected anyio for AsyncEventSource, got none: pip install 'sse-fast[client]'"
            ) from None
    if client is None:
        from sse_fast._http1.exchange import load_httptools

        load_httptools()
        return partial(_load_send("", is_async), None)
    for cls in type(client).__mro__:
        library, awaited = _CLIENTS.get(f"{cls.__module__}.{cls.__qualname__}", ("", is_async))
        if awaited != is_async:
            other = "AsyncEventSource" if awaited else "EventSource"
            raise TypeError(
                f"Expected a client whose calls are {'' if is_async else 'not '}awaited, got "
                f"{qualified_type_name(client)}: use {other}"
            )
        if library:
            return partial(_load_send(library, is_async), client)
    raise TypeError(
        "Expected a requests.Session, a urllib3.PoolManager, a client of httpx or httpx2 or an "
        f"aiohttp.ClientSession, got {qualified_type_name(client)}"
    )


def _load_send(library: str, is_async: bool) -> Callable[..., Any]:
    """Import what sends by a library ("": our own transport); written out for freezing tools."""
    if library == "aiohttp":
        from sse_fast.adapters import aiohttp

        return aiohttp.asend
    if library == "httpx":
        from sse_fast.adapters import httpx

        return httpx.asend if is_async else httpx.send
    if library == "requests":
        from sse_fast.adapters import requests

        return requests.send
    if library == "urllib3":
        from sse_fast.adapters import urllib3

        return urllib3.send
    if is_async:
        from sse_fast._http1 import aio

        return aio.asend
    from sse_fast._http1 import blocking

    return blocking.send


def wrap_request_error(url: str, error: Exception, unsent: AbstractSet[str]) -> TransportError:
    """What a library raised instead of a response. `unsent` are the names of the errors that
    nothing of the request was sent before.
    """
    all_layers = list(iter_exception_chain(error))
    names = {cls.__name__ for each in all_layers for cls in type(each).__mro__}
    sent = not names & unsent
    # Not by what they are derived from: to urllib3, a refused connection is a kind of time-out.
    timeout = any("Timeout" in type(each).__name__ for each in all_layers)
    kind = StreamTimeout if timeout else TransportError
    # Not the text of the library's own errors, which show the query.
    reasons = (each.strerror for each in all_layers if isinstance(each, OSError))
    reason = next((each for each in reasons if isinstance(each, str)), type(error).__name__)
    return kind(
        f"Expected a {'response of' if sent else 'connection to'} {redact_url(url)}, got: {reason}",
        phase="head" if sent else "connect",
        sent=sent,
    )


def iter_exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was made of: libraries wrap them in one way or another."""
    found: list[Any] = [error]
    for each in found:
        if isinstance(each, BaseException):
            yield each
            # Not the __context__: what the caller was handling when it called.
            if len(found) < 64:
                found += [each.__cause__, getattr(each, "reason", None), *each.args]
