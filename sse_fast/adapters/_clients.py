"""The table of supported HTTP clients: which adapter sends by which, and what its errors become."""

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
    """Find the function that sends a `Request` by a client.

    Args:
        client: a client of a supported library; None: the transport of sse_fast.
        is_async: whether the function is to be awaited.

    Returns:
        `send(request, connect_timeout, idle_timeout) -> Source`, awaitable if `is_async`. It never
        follows redirects.

    Raises:
        TypeError: the client is not supported, or is sync instead of async or the reverse.
        ImportError: a library is missing: httptools for the own transport, anyio if `is_async`.
    """
    # Missing libraries are reported before anything is sent.
    if is_async:
        try:
            import anyio  # noqa: F401
        except ImportError:
            raise ImportError(
                "AsyncEventSource needs anyio, which is not installed: pip install "
                "'sse-fast[client]'"
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
    """Import the function that sends by a library; "" is the transport of sse_fast.

    The imports are written out for freezing tools.
    """
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
    assert library == "", f"no branch for the library {library!r}"
    if is_async:
        from sse_fast._http1 import aio

        return aio.asend
    from sse_fast._http1 import blocking

    return blocking.send


def wrap_request_error(url: str, error: Exception, unsent: AbstractSet[str]) -> TransportError:
    """Make a `TransportError` of the error that a library raised instead of a response.

    Args:
        url: the URL of the request.
        error: the library's error.
        unsent: names of exception classes which guarantee that no byte of the request was sent.
    """
    all_layers = list(iter_exception_chain(error))
    names = {cls.__name__ for each in all_layers for cls in type(each).__mro__}
    sent = not names & unsent
    # The base classes do not count: in urllib3, a refused connection is derived from a timeout.
    timeout = any("Timeout" in type(each).__name__ for each in all_layers)
    kind = StreamTimeout if timeout else TransportError
    # The text of the library's own errors is withheld, because it may contain the query.
    reasons = (each.strerror for each in all_layers if isinstance(each, OSError))
    reason = next((each for each in reasons if isinstance(each, str)), type(error).__name__)
    return kind(
        f"No {'response from' if sent else 'connection to'} {redact_url(url)}: {reason}",
        phase="head" if sent else "connect",
        sent=sent,
    )


def iter_exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that it wraps, as a cause, a reason or an argument."""
    found: list[Any] = [error]
    for each in found:
        if isinstance(each, BaseException):
            yield each
            # __context__ is left out: it may be an error that the caller was already handling.
            if len(found) < 64:
                found += [each.__cause__, getattr(each, "reason", None), *each.args]
