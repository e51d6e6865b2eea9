"""The keywords of `EventSource` and the checks of their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Awaitable, Collection, Iterable
    from typing import TypeAlias

    from typing_extensions import TypedDict, TypeVar

    from sse_fast._client.policy import ReconnectPolicy
    from sse_fast._core.parser import Event
    from sse_fast._request import Data, HeaderFields
    from sse_fast._source import Response

    T = TypeVar("T", default=str)

    HeadersArg: TypeAlias = (
        HeaderFields | Mapping[str, str | None] | Iterable[tuple[str, str | bytes | None]]
    )

    class ClientOptions(TypedDict, Generic[T], total=False):
        """The keywords of `EventSource`, except `decode`."""

        method: str
        headers: HeadersArg | Callable[[], HeadersArg | Awaitable[HeadersArg]] | None
        json: Any
        data: Data | None
        client: Any
        uds: str | os.PathLike[str] | None
        ssl_context: ssl.SSLContext | None
        last_event_id: str | None
        policy: ReconnectPolicy
        until: str | Callable[[Event[T]], object] | None
        until_event: str | Collection[str]
        resume: str | Callable[[str], Any] | None
        resend: bool
        check: bool
        name: str | None
        on_open: Callable[[Response], object] | None
        on_error: Callable[[Exception], Any] | None
        on_comment: Callable[[str], object] | None
        on_chunk: Callable[[bytes], object] | None
        connect_timeout: float | None
        idle_timeout: float | None
        event_timeout: float | None
        progress: Callable[[Event[T]], object] | None
        max_event_size: int


__all__ = ["refuse_async"]


def refuse_async(**callbacks: Any) -> None:
    """Raise TypeError if one of the named callbacks is an async function."""
    for name, callback in callbacks.items():
        if callback is not None and inspect.iscoroutinefunction(callback):
            raise TypeError(
                f"{name} cannot be an async function here: AsyncEventSource awaits callbacks, "
                "except on_comment and on_chunk"
            )
