"""The decoder of the OpenAI SDK, with the parser of sse_fast.

`sse_fast.compat.install("openai")` makes every client use it. For a single client:

    from sse_fast.compat.openai import SSEDecoder

    class Client(openai.OpenAI):  # or openai.AsyncOpenAI
        def _make_sse_decoder(self):
            return SSEDecoder()
"""

from __future__ import annotations

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._hooks import LIBRARIES, Hook
from sse_fast.compat._stainless import BytesDecoder, Sdk

__all__ = ["SSEDecoder"]


def _load() -> None:
    import openai
    import openai._base_client
    import openai._streaming  # noqa: F401


LIBRARY = LIBRARIES["openai"]
_sdk = Sdk.find(LIBRARY, _load)


class SSEDecoder(BytesDecoder, _sdk.original):  # type: ignore[misc, name-defined]  # at run time
    """The SDK's decoder, with the parser of sse_fast."""

    _original = _sdk.original
    _dialect = Dialect(
        LIBRARY.find_part(_sdk.streaming, "ServerSentEvent", "event, data, id, retry"),
        ("_event", "_data", "_id", "_retry"),
        default_event=None,
        dispatch_values=True,
        none_before_id=True,
        read_retry=int,
    )


read_events = _sdk.read_events


def find_hooks() -> list[Hook]:
    """Return the hooks for `install()`."""
    return _sdk.find_hooks(SSEDecoder)
