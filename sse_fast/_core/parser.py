"""The switch between the two cores: Cython if it was built, otherwise plain Python.

`SSE_FAST_PURE=1` in the environment forces plain Python.
"""

from __future__ import annotations

import os

# The Cython core imports `types` and the modules below. Freezing tools only see imports of Python
# files.
import types  # noqa: F401
from typing import TYPE_CHECKING

from sse_fast._core import options as _options  # noqa: F401
from sse_fast._errors import DecodeError, EventTooLarge  # noqa: F401

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
