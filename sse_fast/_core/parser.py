"""The switch between the two cores: Cython if it was built, otherwise plain Python.

`SSE_FAST_PURE=1` in the environment forces plain Python.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = ["ACCELERATED", "Event", "Parser"]

ACCELERATED: bool
"""Whether the Cython core runs."""

if TYPE_CHECKING:
    from sse_fast._core.parser_py import Event, Parser
elif os.environ.get("SSE_FAST_PURE", "") not in ("", "0"):
    from sse_fast._core.parser_py import Event, Parser

    ACCELERATED = False
else:
    try:
        from sse_fast._core.parser_c import Event, Parser

        ACCELERATED = True
    except ImportError:
        from sse_fast._core.parser_py import Event, Parser

        ACCELERATED = False
