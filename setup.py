"""The Cython extensions; everything else is in pyproject.toml.

A platform without a compiler gets the plain Python core. In the environment:
SSE_FAST_REQUIRE_EXTENSIONS=1 makes a failed compile fail the build (CI, releases),
SSE_FAST_NO_EXTENSIONS=1 compiles nothing, SSE_FAST_PLAIN_C=1 leaves SIMD out of the scan.
"""

import os
import platform

from setuptools import Extension, setup

# Extension -> what it is made of beside its own file, and what it defines for that.
EXTENSIONS = {
    "_parser_c": ("_buffers.pxd _lines.pxd _floor.pxi _event.h _scan.h _text.h _utf8.h", []),
    "_columns_c": (
        "_buffers.pxd _event_types.pxd _lines.pxd _rows.pxd _arrow.h _memory.h _scan.h _utf8.h",
        [("SSE_FAST_BULK", None)],
    ),
}


def enabled(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


PLAIN_C = [("SSE_FAST_PLAIN_C", None)] if enabled("SSE_FAST_PLAIN_C") else []

extensions = []
if platform.python_implementation() == "CPython" and not enabled("SSE_FAST_NO_EXTENSIONS"):
    from Cython.Build import cythonize

    extensions = cythonize(
        [
            Extension(
                f"sse_fast.{name}",
                [f"sse_fast/{name}.pyx"],
                depends=[f"sse_fast/{part}" for part in parts.split()],
                include_dirs=["sse_fast"],
                # Where Python was built with -O2 (Debian's), events cost a tenth more by that.
                extra_compile_args=[] if os.name == "nt" else ["-O3"],
                define_macros=macros + PLAIN_C,
            )
            for name, (parts, macros) in EXTENSIONS.items()
        ],
        build_dir="build",
    )
    for extension in extensions:
        # Set here, as cythonize() drops what the Extension was given.
        extension.optional = not enabled("SSE_FAST_REQUIRE_EXTENSIONS")

setup(ext_modules=extensions)
