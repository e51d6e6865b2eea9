"""The native interface for `cimport`; `sse_fast/lines.pxd` is its second part.

Only these names are promised: docs/reference/native.md.
"""

from sse_fast._core.parser_c cimport Event, Parser, feed_bytes as feed
