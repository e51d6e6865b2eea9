"""Makes `tests` and `bench` importable as packages, after the installed sse_fast.

Appended rather than prepended, so that the installed package is under test and not the sources
beside the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
