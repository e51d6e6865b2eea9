"""How tests start the command `sse-fast` in a process of its own."""

from __future__ import annotations

import sys

COMMAND = [sys.executable, "-m", "sse_fast"]
# Processes inherit an ignored signal from the shell or program that runs the tests.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from sse_fast._cli import main
sys.exit(main())
""",
]
