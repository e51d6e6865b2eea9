"""The decoder protocol of the SDKs that Stainless generates: openai's and anthropic's."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from types import FunctionType
from typing import Any, ClassVar, NamedTuple

from sse_fast._core.parser import DialectParser
from sse_fast.compat._dialect import Dialect
from sse_fast.compat._hooks import Hook, Library
from sse_fast.compat._strict_utf8 import Strict

__all__ = ["BytesDecoder", "Sdk"]


class Sdk(NamedTuple):
    """Where an SDK has its decoder."""

    client: Any
    streaming: Any
    original: Any

    @classmethod
    def find(cls, library: Library) -> Sdk:
        """Look it up, and hold it against what is known of it.

        Raises:
            ImportError, UnknownLayout: as `Library` does.
        """
        client = library.module(f"{library.name}._base_client")
        streaming = library.module(f"{library.name}._streaming")
        original = library.part(streaming, "SSEDecoder", "")
        library.part(client, "SSEDecoder", "")
        library.part(original, "decode", "self, line")
        library.part(original, "iter_bytes", "self, iterator")
        library.part(original, "aiter_bytes", "self, iterator")
        return cls(client, streaming, original)

    def hooks(self, decoder: type) -> list[Hook]:
        return [Hook(module, "SSEDecoder", decoder) for module in (self.client, self.streaming)]

    def read(self, chunks: Iterable[bytes]) -> Iterator[Any]:
        """The events of a stream, by whichever decoder a client would use now."""
        events: Iterator[Any] = self.client.SSEDecoder().iter_bytes(iter(chunks))
        return events


class BytesDecoder:
    """`iter_bytes` and `aiter_bytes`, to be mixed into a subclass of the SDK's `SSEDecoder`.

    What their code and tests look at, the lines of data so far and the last event ID, is what the
    parser holds while one of the two runs. The size of an event has no limit, as with theirs.
    """

    _dialect: ClassVar[Dialect]
    _original: ClassVar[Any]
    """The SDK's decoder."""
    _parser: DialectParser | None = None

    def iter_bytes(self, iterator: Iterator[bytes]) -> Iterator[Any]:
        """Yield the events of a stream that comes as bytes.

        Raises:
            UnicodeDecodeError: bytes that are no UTF-8, behind the events before them.
        """
        if self._is_changed():
            yield from self._original.iter_bytes(self, iterator)
            return
        strict = self._begin()
        try:
            for chunk in iterator:
                yield from strict.feed(chunk)
            strict.end()
        finally:
            self._end()

    async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """The same for an async iterator."""
        if self._is_changed():
            async for event in self._original.aiter_bytes(self, iterator):
                yield event
            return
        strict = self._begin()
        try:
            async for chunk in iterator:
                for event in strict.feed(chunk):
                    yield event
            strict.end()
        finally:
            self._end()

    def _is_changed(self) -> bool:
        """A subclass, or whoever set an attribute, reads lines by itself: then it goes on to."""
        return any(
            inspect.getattr_static(self, name, None) is not part
            for name, part in vars(self._original).items()
            if isinstance(part, FunctionType)
            and not name.startswith("__")
            and name not in vars(BytesDecoder)
        )

    def _begin(self) -> Strict:
        self._parser = DialectParser(
            self._dialect, last_event_id=self._last_event_id, max_event_size=sys.maxsize
        )
        return Strict(self._parser)

    def _end(self) -> None:
        last_event_id = self._last_event_id
        self._parser = None
        self._last_event_id = last_event_id
        # Which later versions have: they forget what an interrupted stream left.
        reset = getattr(self, "_reset", None)
        if reset is not None:
            reset()

    # Of their own `decode(line)`, which is still there, these are the variables.

    @property
    def _data(self) -> list[str]:
        if self._parser is not None:
            return self._parser.data_lines
        lines: list[str] = self.__dict__["_data"]
        return lines

    @_data.setter
    def _data(self, lines: list[str]) -> None:
        self.__dict__["_data"] = lines

    @property
    def _last_event_id(self) -> str | None:
        if self._parser is not None:
            return self._parser.last_event_id
        last_event_id: str | None = self.__dict__["_last_event_id"]
        return last_event_id

    @_last_event_id.setter
    def _last_event_id(self, last_event_id: str | None) -> None:
        self.__dict__["_last_event_id"] = last_event_id
