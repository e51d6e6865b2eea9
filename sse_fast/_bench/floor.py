"""Compilation of `floor_c.pyx`, which measures the least time that any parser needs.

It is compiled when a benchmark asks for it, so that no wheel has code of the benchmarks in its
extensions. This takes a few seconds, a C compiler, and Cython and setuptools from sse-fast[bench].
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from importlib import machinery, util
from pathlib import Path
from types import ModuleType

NAME = "sse_fast._bench.floor_c"
PACKAGE = Path(__file__).resolve().parent.parent


@cache
def load() -> ModuleType:
    """Compile and import the extension, once per process.

    Raises:
        ImportError: there is no compiled parser, no Cython, or no C compiler.
    """
    from sse_fast._core import parser_c  # noqa: F401

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = _compile(Path(directory))
        loader = machinery.ExtensionFileLoader(NAME, str(path))
        spec = util.spec_from_file_location(NAME, path, loader=loader)
        assert spec is not None
        module = util.module_from_spec(spec)
        loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def _compile(directory: Path) -> Path:
    # Import setuptools first, since it provides distutils to Cython.
    import setuptools  # type: ignore[import-untyped]
    from Cython.Build import cythonize
    from setuptools.errors import BaseError, CCompilerError  # type: ignore[import-untyped]

    extension = setuptools.Extension(
        NAME,
        [str(PACKAGE / "_bench" / "floor_c.pyx")],
        include_dirs=[str(PACKAGE / "_core")],
        extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
    )
    try:
        distribution = setuptools.Distribution(
            {
                "ext_modules": cythonize(  # type: ignore[no-untyped-call]
                    [extension],
                    build_dir=str(directory),
                    include_path=[str(PACKAGE.parent)],
                    quiet=True,
                    force=True,
                ),
                "script_args": ["--quiet"],
            }
        )
        command = distribution.get_command_obj("build_ext")
        command.build_lib = command.build_temp = str(directory)
        command.ensure_finalized()
        command.run()
    except (BaseError, CCompilerError) as error:
        raise ImportError(f"the floor could not be compiled: {error}") from error
    return Path(command.get_ext_fullpath(NAME))
