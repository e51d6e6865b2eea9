"""The native interface: the extension of docs/guides/cython.md, built with an installed wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sse_fast
from tests.support import PACKAGE, ROOT
from tests.support.compiling import COMPILER
from tests.support.pages import blocks, read

(EXTENSION,) = (block.code for block in blocks("docs/guides/cython.md", "cython"))
BUILD, CALL = (block.code for block in blocks("docs/guides/cython.md", "python"))
REFERENCE = read("docs/reference/native.md")
BUILD_FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
# In every way to cut the stream, `feed` of the pointer and of the object give the same events.
COMPARE = """
import sys
import counting, sse_fast

assert sse_fast.__file__.startswith(sys.argv[1]), sse_fast.__file__
assert sse_fast.get_include().startswith(sys.argv[1])
STREAM = (
    b"\\xef\\xbb\\xbfevent: tick\\ndata: 1\\ndata: two\\n\\nid: 7\\n\\n"
    b": comment\\r\\ndata: \\xc3\\xa9\\r\\n\\r\\n"
    b"retry: 5\\rdata\\r\\rid: 8\\nevent: x\\ndata: " + b"y" * 300 + b"\\n\\ndata: cut off"
)
events = sse_fast.Parser().feed(STREAM)
assert len(events) == 4
expected = (len(events), sum(len(event.data.encode()) for event in events))

def count(chunks):
    counter = counting.Counter()
    for chunk in chunks:
        counter.count(chunk)
    return counter.events, counter.size

def cut(size):
    return [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

for size in (1, 2, 3, 7, 64, len(STREAM)):
    assert count(cut(size)) == expected, size
    parser = sse_fast.Parser()
    texts = [text for chunk in cut(size) for text in counting.texts(parser, chunk, len(chunk))]
    assert texts == [event.data for event in events], size
    assert (parser.last_event_id, parser.retry, parser.pending) == ("8", 5, True)
for at in range(len(STREAM)):
    assert count([STREAM[:at], STREAM[at:]]) == expected, at

for parser, length, error in (
    (None, 1, TypeError("The parser is None: pass a Parser")),
    (sse_fast.Parser(), -1, ValueError("The length of a chunk must not be negative, got -1")),
    (sse_fast.Parser(max_event_size=4), 9, sse_fast.EventTooLarge(8, 4)),
):
    try:
        counting.texts(parser, b"data: 12\\n", length)
    except Exception as caught:
        assert (type(caught), str(caught)) == (type(error), str(error))
    else:
        raise AssertionError(error)
counter = counting.Counter()
for chunk in (b"data: " + b"x" * 2**24, b"\\n\\ndata: 1\\n\\n"):
    try:
        counter.count(chunk)
    except ValueError as caught:
        assert "16 MiB" in str(caught)
    else:
        raise AssertionError("not refused")
assert counter.events == 0
"""


def run(*command: str | Path, directory: Path, path: Path | None = None) -> str:
    """Run a command with no other folder on the path than its own and `path`; return its output."""
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(path)} if path else {"SSE_FAST_REQUIRE_EXTENSIONS": "1"}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel of the sources was installed, and nothing else."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    if COMPILER is None:
        pytest.skip("no C compiler")
    source = tmp_path_factory.mktemp("source")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, source)
    left = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(PACKAGE, source / "sse_fast", ignore=left)
    pip = (sys.executable, "-m", "pip")
    offline = ("--no-deps", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-build-isolation", *offline, "-w", "dist", ".", directory=source)
    (wheel,) = (source / "dist").glob("*.whl")
    target = tmp_path_factory.mktemp("installed")
    run(*pip, "install", "--no-index", *offline, "--target", target, wheel, directory=target)
    shutil.rmtree(source)
    return target


def build(
    directory: Path, installed: Path, *, setup: str = BUILD, extension: str = EXTENSION
) -> None:
    """Compile the extension of the page in a folder, as the page says."""
    (directory / "counting.pyx").write_text(extension)
    (directory / "setup.py").write_text(setup)
    command = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    run(*command, directory=directory, path=installed)


@pytest.mark.sanitize
def test_native_extension_reads_as_parser_does(installed: Path, tmp_path: Path) -> None:
    build(tmp_path, installed)
    printed = run(sys.executable, "-c", CALL, directory=tmp_path, path=installed)
    assert printed == "['1', '2']\n2 5\n"
    run(sys.executable, "-c", COMPARE, installed, directory=tmp_path, path=installed)
    script = (
        "import sys; sys.modules['sse_fast._core.parser_c'] = None\n"
        "try: import counting\nexcept ImportError as error: print(error)"
    )
    printed = run(sys.executable, "-c", script, directory=tmp_path, path=installed)
    assert "sse_fast._core.parser_c" in printed


@pytest.mark.sanitize
def test_native_lines_need_no_package_at_run_time(installed: Path, tmp_path: Path) -> None:
    extension, removed = re.subn(
        r"^from sse_fast cimport .*?$|^def texts.*?(?=^\S)", "", EXTENSION, flags=re.M | re.S
    )
    assert removed == 2
    # The headers are valid C++, too.
    setup = BUILD.replace("include_dirs=", 'language="c++", include_dirs=')
    build(tmp_path, installed, setup=setup if shutil.which("c++") else BUILD, extension=extension)
    script = (
        "import sys; sys.modules['sse_fast'] = None\nimport counting\n"
        "counter = counting.Counter(); counter.count(b'data: 1\\n\\n'); print(counter.events)"
    )
    assert run(sys.executable, "-c", script, directory=tmp_path) == "1\n"


@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("name", "field"), [("Event", "cdef readonly object retry"), ("Parser", "cdef bint _done")]
)
def test_native_extension_of_other_layout_is_refused(
    installed: Path, tmp_path: Path, name: str, field: str
) -> None:
    altered = tmp_path / "altered"
    for path in installed.glob("sse_fast/**/*.pxd"):
        copy = altered / path.relative_to(installed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        (copy.parent / "__init__.py").touch()
    declarations = altered / "sse_fast" / "_core" / "parser_c.pxd"
    text = declarations.read_text()
    assert text.count(field) == 1
    declarations.write_text(text.replace(field, f"{field}\n    cdef object _more"))
    setup = BUILD.replace("([extension])", "([extension], include_path=['altered'])")
    assert setup != BUILD
    build(tmp_path, installed, setup=setup)
    script = "try: import counting\nexcept ValueError as error: print(error)"
    printed = run(sys.executable, "-c", script, directory=tmp_path, path=installed)
    assert printed.startswith(f"sse_fast._core.parser_c.{name} size changed"), printed


def test_native_extension_is_translated_with_the_sources(tmp_path: Path) -> None:
    """A change of the core that breaks the interface is seen without a C compiler."""
    pytest.importorskip("Cython")
    source = tmp_path / "counting.pyx"
    source.write_text(EXTENSION)
    run(sys.executable, "-m", "cython", "-I", ROOT, source, directory=tmp_path)
    assert source.with_suffix(".c").exists()


def test_get_include_is_the_folder_of_the_headers() -> None:
    folder = Path(sse_fast.get_include())
    assert folder.is_absolute()
    assert {path.name for path in folder.glob("*.h")} >= {"scan.h", "utf8.h"}


def test_reference_names_the_native_interface() -> None:
    """Every name that the two files declare or export on purpose, and nothing else."""
    main = (PACKAGE / "__init__.pxd").read_text()
    lines = (PACKAGE / "lines.pxd").read_text()
    wanted = {"Event", "Parser", "feed", "DISPATCH", "NEED_INPUT", "NO_MEMORY", "TOO_LARGE"}
    wanted |= {"Step", "Text"}
    wanted |= set(re.findall(r"^cdef (?:struct|inline [\w ]+?) (\w+)\(?", lines, re.MULTILINE))
    wanted |= set(re.findall(r"^    \w+ (\w+) \"sse_fast_", lines, re.MULTILINE))
    cells = " ".join(re.findall(r"^\| (`.+?`) \|", REFERENCE, re.MULTILINE))
    assert {name for name in wanted if not re.search(rf"\b{name}\b", cells)} == set()
    assert "feed_bytes as feed" in main
    assert {"BlockReader", "Block", "next_block", "replace_invalid"} <= wanted
