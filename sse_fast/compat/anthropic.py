"""The decoder of the Anthropic SDK, with the parser of sse_fast.

`sse_fast.compat.install("anthropic")` makes every client use it. For a single client:

    from sse_fast.compat.anthropic import SSEDecoder

    class Client(anthropic.Anthropic):  # or anthropic.AsyncAnthropic
        def _make_sse_decoder(self):
            return SSEDecoder()
"""

from __future__ import annotations

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._hooks import LIBRARIES, Hook
from sse_fast.compat._stainless import BytesDecoder, Sdk

__all__ = ["SSEDecoder"]


def _load() -> None:
    import anthropic
    import anthropic._base_client
    import anthropic._streaming  # noqa: F401


LIBRARY = LIBRARIES["anthropic"]
_sdk = Sdk.find(LIBRARY, _load)
_event_class = LIBRARY.find_part(_sdk.streaming, "ServerSentEvent")
# Since version 1, an event also keeps the lines that it was parsed from.
_HAS_LINES = hasattr(_event_class, "raw")


class SSEDecoder(BytesDecoder, _sdk.original):  # type: ignore[misc, name-defined]  # at run time
    """The SDK's decoder, with the parser of sse_fast."""

    _original = _sdk.original
    _dialect = Dialect(
        _event_class,
        ("_event", "_data", "_id", "_retry", *(["_raw"] if _HAS_LINES else [])),
        default_event=None,
        dispatch_values=True,
        none_before_id=True,
        read_retry=int,
        keep_lines=_HAS_LINES,
    )


read_events = _sdk.read_events


def find_hooks() -> list[Hook]:
    """Return the hooks for `install()`."""
    return _sdk.find_hooks(SSEDecoder)
