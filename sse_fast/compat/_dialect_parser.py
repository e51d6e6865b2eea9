"""`DialectParser` in Cython or in plain Python, whichever core `Parser` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sse_fast._core.parser import ACCELERATED

__all__ = ["DialectParser"]

if TYPE_CHECKING or not ACCELERATED:
    from sse_fast.compat._dialect_py import DialectParser
else:
    # The extension imports this one. Freezing tools see imports of Python files only.
    from sse_fast._core import parser_c  # noqa: F401
    from sse_fast.compat._dialect_c import DialectParser
