"""Checks what a wheel and a source distribution hold.

python .ci/check_wheel.py WHEEL SDIST
"""

from __future__ import annotations

import sys
import tarfile
import zipfile

EXTENSIONS = {"parser_c", "_dialect_c", "_stream_c", "_source_c", "_chunked_c", "_columns_c"}
GENERATED = ("_c.c", ".so", ".o", ".pyd")
NATIVE = {"__init__.pxd", "lines.pxd", "_core/lines.pxd", "_core/parser_c.pxd"} | {
    f"_core/{name}" for name in ("buffers.pxd", "scan.h", "utf8.h")
}
"""Files that extensions which `cimport sse_fast` are compiled from."""
LARGEST = 540_000
"""Bytes that a wheel may have: six extensions, and the sources of the native interface."""
SYMBOLS = (b".symtab", b".debug_info")
"""The sections of a library with symbols, which takes three times as many bytes."""


def main(wheel: str, sdist: str) -> None:
    """Exit with a message if something is there that should not be, or is missing."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        size = sum(entry.compress_size for entry in archive.infolist())
        compiled = {name for name in names if name.endswith((".so", ".pyd"))}
        found = {name.rpartition("/")[2].partition(".")[0] for name in compiled}
        assert found == EXTENSIONS, found
        for name in compiled:
            content = archive.read(name)
            assert b"Floor" not in content, f"benchmark code in {name}"
            symbols = [section for section in SYMBOLS if section in content]
            assert not symbols, f"{name} has {symbols}"
        generated = [name for name in names if name.endswith(".c")]
        assert not generated, generated
        missing = {f"sse_fast/{name}" for name in NATIVE} - set(names)
        assert not missing, missing
        assert size < LARGEST, size
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        generated = [name for name in names if name.endswith(GENERATED)]
        assert not generated, generated
        missing = {f"sse_fast/{name}" for name in NATIVE} - set(names)
        assert not missing, missing
    print(f"{size:,} bytes, {', '.join(sorted(found))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
