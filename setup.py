"""The Cython extensions; everything else is in pyproject.toml.

A platform without a compiler gets the plain Python core. In the environment:
SSE_FAST_REQUIRE_EXTENSIONS=1 makes a failed compile fail the build (CI, releases),
SSE_FAST_NO_EXTENSIONS=1 compiles nothing, SSE_FAST_PLAIN_C=1 leaves SIMD out of the scan.
"""

import os
import platform
import sys
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

CORE = "sse_fast/_core"
LINES = [f"{CORE}/{name}" for name in ("buffers.pxd", "lines.pxd", "scan.h", "utf8.h")]
PARSER = [*LINES, f"{CORE}/parser_c.pxd"]
COLUMNS = (
    "_batch.pxd",
    "_builder.pxd",
    "_export.pxd",
    "_interner.pxd",
    "_merge.pxd",
    "_memory.h",
    "_source_buffer.h",
)

# Extension -> the other files it is compiled from, and the macros it defines.
EXTENSIONS: dict[str, tuple[list[str], list[tuple[str, None]]]] = {
    "_core/parser_c": ([*PARSER, f"{CORE}/event.h", f"{CORE}/text.h"], []),
    "_stream_c": ([*PARSER, "sse_fast/_stream_c.pxd"], []),
    "_client/_source_c": ([*PARSER, "sse_fast/_stream_c.pxd"], []),
    "_http1/_chunked_c": ([], []),
    "columns/_columns_c": (
        [*LINES, *(f"sse_fast/columns/{name}" for name in COLUMNS)],
        [("SSE_FAST_BULK", None)],
    ),
    "compat/_dialect_c": (PARSER, []),
}


def enabled(variable: str) -> bool:
    """Return whether a variable of the environment is set, to anything but 0."""
    return os.environ.get(variable, "") not in ("", "0")


class TaggedByContent(bdist_wheel):
    """A wheel without compiled files is tagged py3-none-any, also if every compile failed."""

    def run(self) -> None:
        """Build, see what was compiled, and make the wheel."""
        self.run_command("build")
        build_ext: Any = self.get_finalized_command("build_ext")
        if not any(map(os.path.exists, build_ext.get_outputs())):
            self.distribution.ext_modules = None
            self.root_is_pure = True
        super().run()


# Without symbols, two builds are the same bytes, and a third of the size. The tables for unwinding
# the stack, which C does not need, are a sixteenth of the rest.
COMPILE = []
if os.name != "nt":
    # -O3: with -O2, by which Debian builds Python, events cost a tenth more. What is jumped to is
    # not padded.
    COMPILE = ["-O3", "-g0", "-fno-asynchronous-unwind-tables", "-fno-align-jumps"]
if sys.platform == "linux":
    # Functions of CPython are called directly: smaller, and an instruction less each time.
    COMPILE.append("-fno-plt")
LINK = ["-Wl,-s"] if sys.platform == "linux" else []

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
                extra_compile_args=COMPILE,
                extra_link_args=LINK,
                define_macros=macros + PLAIN_C,
            )
            for name, (depends, macros) in EXTENSIONS.items()
        ],
        build_dir="build",
    )
    for extension in extensions:
        # Set here, as cythonize() drops what the Extension was given.
        extension.optional = not enabled("SSE_FAST_REQUIRE_EXTENSIONS")

setup(
    ext_modules=extensions,
    cmdclass={"bdist_wheel": TaggedByContent},
    # Extensions compile side by side: on two processors in 4.8 s, one after the other in 9.0.
    options={"build": {"parallel": True}},
)
