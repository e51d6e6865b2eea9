"""The Cython extensions; everything else is in pyproject.toml.

A platform without a compiler gets the plain Python core. In the environment:
SSE_FAST_REQUIRE_EXTENSIONS=1 makes a failed compile fail the build (CI, releases),
SSE_FAST_NO_EXTENSIONS=1 compiles nothing, SSE_FAST_PLAIN_C=1 leaves SIMD out of the scan.
"""

import os
import platform

from setuptools import Extension, setup

CORE = "sse_fast/_core"
LINES = [f"{CORE}/{name}" for name in ("buffers.pxd", "lines.pxd", "scan.h", "utf8.h")]

# Extension -> the files it is compiled from besides its own, and the macros it defines.
EXTENSIONS: dict[str, tuple[list[str], list[tuple[str, None]]]] = {
    "_core/parser_c": (
        [*LINES, *(f"{CORE}/{name}" for name in ("_floor.pxi", "event.h", "text.h"))],
        [],
    ),
    "columns/_columns_c": (
        [
            *LINES,
            *(
                f"sse_fast/columns/{name}"
                for name in ("_builder.pxd", "_interner.pxd", "_arrow.h", "_memory.h")
            ),
        ],
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
                f"sse_fast.{name.replace('/', '.')}",
                [f"sse_fast/{name}.pyx"],
                depends=depends,
                include_dirs=[CORE, "sse_fast/columns"],
                # Where Python was built with -O2 (Debian's), events cost a tenth more by that.
                extra_compile_args=[] if os.name == "nt" else ["-O3"],
                define_macros=macros + PLAIN_C,
            )
            for name, (depends, macros) in EXTENSIONS.items()
        ],
        build_dir="build",
    )
    for extension in extensions:
        # Set here, as cythonize() drops what the Extension was given.
        extension.optional = not enabled("SSE_FAST_REQUIRE_EXTENSIONS")

setup(ext_modules=extensions)
