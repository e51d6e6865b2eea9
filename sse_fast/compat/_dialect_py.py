"""DialectParser in plain Python; `_dialect_c.pyx` is the same in Cython."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sse_fast._core.parser_py import FIELD_NAMES, Parser, new_event

if TYPE_CHECKING:
    from sse_fast.compat._dialect import Dialect


class DialectParser(Parser[Any]):
    """A parser that deviates from the standard as its `Dialect` says.

    With `none_before_id`, `last_event_id` is None until the stream has set an id.
    """

    __slots__ = ("_block", "_dialect", "_has_no_id")

    _emit_blocks = True

    def __init__(
        self,
        dialect: Dialect,
        *,
        last_event_id: str | None = None,
        max_event_size: int = 16 * 2**20,
    ) -> None:
        dialect.check()
        super().__init__(last_event_id=last_event_id or "", max_event_size=max_event_size)
        self._dialect = dialect
        self._has_no_id = dialect.none_before_id and last_event_id is None

    @property
    def last_event_id(self) -> str | None:  # type: ignore[override]
        return None if self._has_no_id else self._last_event_id

    @property
    def data_lines(self) -> list[str]:
        """The values of the block's data lines so far, complete ones only."""
        if self._size:
            # After EventTooLarge, part of the block is missing.
            return []
        return [line.decode("utf-8", "replace") for line in self._data]

    @property
    def unfinished(self) -> int:
        """The number of bytes retained of the line that has not ended yet."""
        name, colon, _ = bytes(self._line[:6]).partition(b":")
        if name in FIELD_NAMES if colon else any(it.startswith(name) for it in FIELD_NAMES):
            return len(self._line)
        return 0

    def _end_block(self) -> None:
        super()._end_block()
        self._block: list[str] = []

    def _process_field(self, line: bytes) -> None:
        if self._dialect.keep_lines:
            self._block.append(line.decode("utf-8", "replace"))
        super()._process_field(line)

    def _process_retry(self, value: bytes) -> None:
        read_retry = self._dialect.read_retry
        if read_retry is None:
            super()._process_retry(value)
            return
        text = value.decode("utf-8", "replace")
        try:
            self._block_retry = read_retry(text)
        except ValueError:
            return
        except MemoryError:
            raise
        except BaseException:
            self._is_dropped = True
            raise

    def _end_chunk(self) -> None:
        if not self._dialect.keep_lines or not self._tail:
            super()._end_chunk()
            return
        # Nothing is dropped, unlike in `Parser`.
        name, colon, _ = (bytes(self._line[:6]) + self._tail[:6])[:6].partition(b":")
        if name:
            self._in_block = True
        size = len(self._line) + len(self._tail) + self._kept
        if colon and name in FIELD_NAMES and size > self._max_size:
            self._raise_too_large(size)
        self._keep_line(self._line, self._tail, False)

    def _make_checkpoint(self) -> tuple[Any, ...]:
        block = self._block
        return (*super()._make_checkpoint(), block, len(block), self._has_no_id)

    def _roll_back(self, checkpoint: tuple[Any, ...]) -> None:
        super()._roll_back(checkpoint)
        self._block, length, self._has_no_id = checkpoint[5:]
        del self._block[length:]

    def _dispatch(self) -> None:
        """Dispatch the block that a blank line ended, if the dialect makes it an event."""
        dialect = self._dialect
        data = self._data
        event_type = self._event_type
        has_id = self._id is not None
        retry = self._block_retry
        lines = self._block
        if self._id is not None:
            self._last_event_id = self._id.decode("utf-8", "replace")
            self._has_no_id = False
        self._end_block()
        if not data:
            if dialect.dispatch_values:
                if not event_type and retry is None and not self._last_event_id:
                    return
            elif not dialect.dispatch_fields or not (
                event_type is not None or has_id or retry is not None
            ):
                return
        values: list[Any] = [
            event_type.decode("utf-8", "replace") if event_type else dialect.default_event,
            b"\n".join(data).decode("utf-8", "replace"),
            None if self._has_no_id or (dialect.forget_id and not has_id) else self._last_event_id,
            retry,
        ]
        if dialect.event_class is None:
            self._events.append(new_event(*values))
            return
        if dialect.keep_lines:
            values.append(lines)
        try:
            event: Any = object.__new__(dialect.event_class)
            for name, value in zip(dialect.attributes, values, strict=True):
                # object.__setattr__ also sets the attributes of immutable classes.
                object.__setattr__(event, name, value)
        except MemoryError:
            raise
        except Exception:
            # The class refuses the event, which is dropped.
            self._is_dropped = True
            raise
        self._events.append(event)
