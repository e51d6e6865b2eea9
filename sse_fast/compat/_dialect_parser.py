"""The switch between the two cores of `DialectParser`; the parser's own core decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sse_fast._core.parser import ACCELERATED

__all__ = ["DialectParser"]

if TYPE_CHECKING or not ACCELERATED:
    from sse_fast.compat._dialect_py import DialectParser
else:
    from sse_fast.compat._dialect_c import DialectParser
