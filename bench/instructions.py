"""Instructions that the parser takes for an event, of several revisions side by side.

    python bench/instructions.py d040967 HEAD

Each revision is cloned and built in a temporary folder, and counted by valgrind (which has to be
there): time on a shared machine does not tell one per cent, the number of instructions does. What
the interpreter takes to start is subtracted, its loop around `feed` is not.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from streams import openai_chunks

ROUNDS = (10, 30)
EVENTS = 500
STREAMS = {
    "one event a chunk": openai_chunks(EVENTS).blocks,
    "the same, typed": [b"event: delta\n" + block for block in openai_chunks(EVENTS).blocks],
    "every field": [b"id: 12345\nevent: tick\nretry: 5\ndata: 7\n\n"] * EVENTS,
    "64 KiB a chunk": openai_chunks(EVENTS).chunks(65536),
}
CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
READ = """
import pickle, sys
import sse_fast
assert sse_fast.ACCELERATED and sse_fast.__file__.startswith(sys.argv[1]), sse_fast.__file__
chunks = pickle.load(open(sys.argv[2], "rb"))
feed = sse_fast.Parser().feed
assert sum(len(feed(chunk)) for chunk in chunks) == int(sys.argv[4])
for _ in range(int(sys.argv[3])):
    for chunk in chunks:
        feed(chunk)
"""


def build(revision: str, folder: Path) -> Path:
    here = Path(__file__).resolve().parent.parent
    subprocess.run(["git", "clone", "--quiet", here, folder], check=True)
    subprocess.run(["git", "checkout", "--quiet", revision], cwd=folder, check=True)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def count(folder: Path, chunks: Path, rounds: int) -> int:
    arguments = [folder, chunks, str(rounds), str(EVENTS)]
    done = subprocess.run(
        [*CALLGRIND, sys.executable, "-c", READ, *arguments],
        cwd=folder,
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    (collected,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(collected)


def main(revisions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        folders = {revision: build(revision, work / revision) for revision in revisions}
        for name, stream in STREAMS.items():
            chunks = work / "chunks"
            chunks.write_bytes(pickle.dumps(stream))
            counts = []
            for folder in folders.values():
                count(folder, chunks, 1)  # compiles what is not compiled yet
                few, many = (count(folder, chunks, rounds) for rounds in ROUNDS)
                counts.append((many - few) / (ROUNDS[1] - ROUNDS[0]) / EVENTS)
            line = "  ".join(
                f"{revision} {each:6.0f} ({each / counts[0] - 1:+.1%})"
                for revision, each in zip(revisions, counts, strict=True)
            )
            print(f"{name:<20}{line}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["HEAD"])
