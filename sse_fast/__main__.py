"""`python -m sse_fast` is the command `sse-fast`."""

import sys

from sse_fast._cli import main

if __name__ == "__main__":
    sys.exit(main())
