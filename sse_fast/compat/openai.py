"""The decoder of the OpenAI SDK.

`sse_fast.install("openai")` has every client use it. For one client:

    class Client(openai.OpenAI):
        def _make_sse_decoder(self):
            return sse_fast.compat.openai.SSEDecoder()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sse_fast._dialect import Dialect
from sse_fast.compat._library import LIBRARIES, Hook
from sse_fast.compat._sdk import BytesDecoder

__all__ = ["SSEDecoder"]

LIBRARY = LIBRARIES["openai"]
_client = LIBRARY.module("openai._base_client")
_streaming = LIBRARY.module("openai._streaming")
_Original: Any = LIBRARY.part(_streaming, "SSEDecoder", "")
LIBRARY.part(_client, "SSEDecoder", "")
LIBRARY.part(_Original, "decode", "self, line")
LIBRARY.part(_Original, "iter_bytes", "self, iterator")
LIBRARY.part(_Original, "aiter_bytes", "self, iterator")


class SSEDecoder(BytesDecoder, _Original):  # type: ignore[misc]  # known at run time
    """The SDK's decoder, with the parser of sse_fast."""

    _original = _Original
    _dialect = Dialect(
        LIBRARY.part(_streaming, "ServerSentEvent", "event, data, id, retry"),
        ("_event", "_data", "_id", "_retry"),
        default_event=None,
        dispatch_values=True,
        none_before_id=True,
        read_retry=int,
    )


def hooks() -> list[Hook]:
    return [Hook(_client, "SSEDecoder", SSEDecoder), Hook(_streaming, "SSEDecoder", SSEDecoder)]


def read(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The events of a stream, by whichever decoder a client would use now."""
    events: Iterator[Any] = _client.SSEDecoder().iter_bytes(iter(chunks))
    return events
