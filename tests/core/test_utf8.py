"""The C header for UTF-8, against all encodings and Python's codec, with each instruction set."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.compiling import BUILDS, OTHER_MACHINES, compare_elsewhere, compare_here

HARNESS = ROOT / "tests" / "support" / "utf8_harness.c"

# The bytes on both sides of each limit.
LEADS = bytes.fromhex("41 7F 80 BF C0 C1 C2 DF E0 E1 EC ED EE EF F0 F1 F3 F4 F5 FF")
OTHERS = bytes.fromhex("41 80 8F 90 9F A0 BF C2 E1 F1")


def texts() -> Iterator[bytes]:
    for length in range(4):
        for others in itertools.product(OTHERS, repeat=length):
            for lead in LEADS if length < 3 else LEADS[LEADS.index(0xF0) :]:
                yield bytes([lead, *others])
    dice = random.Random(1)
    characters = "az\n\x7f\x80é߿ࠀ今\ud7ff\ue000\uffff\U00010000🎉\U0010ffff"
    for length in range(150):
        for _ in range(10):
            text = bytearray("".join(dice.choices(characters, k=length)).encode())
            for _ in range(dice.choice((0, 0, 1, 2, 9)) if text else 0):
                text[dice.randrange(len(text))] = dice.randrange(256)
            yield bytes(text[dice.randrange(2) : dice.choice((None, None, -1, -2))])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("utf8") / "cases"
    with path.open("wb") as file:
        for text in texts():
            replaced = text.decode("utf-8", "replace").encode()
            file.write(bytes([replaced == text]))
            for part in (text, replaced):
                file.write(len(part).to_bytes(4, "little") + part)
    return path


@pytest.mark.parametrize(("portable", "sanitize"), BUILDS)
def test_utf8_agrees_with_all_encodings(
    tmp_path: Path, cases: Path, portable: bool, sanitize: bool
) -> None:
    flags = ["-DSTEP=31"] if sanitize else []
    comparisons = compare_here(HARNESS, tmp_path, portable, sanitize, flags, cases)
    assert comparisons > (500_000 if sanitize else 20_000_000)


@pytest.mark.sanitize
@pytest.mark.parametrize(("machine", "portable", "sanitize"), OTHER_MACHINES)
def test_utf8_on_other_machines(
    tmp_path: Path, cases: Path, machine: str, portable: bool, sanitize: bool
) -> None:
    # Shorter texts and fewer encodings, as emulators are slow.
    flags = ["-DLONG=100", "-DSTEP=201"] if sanitize else ["-DLONG=130", "-DSTEP=53"]
    comparisons = compare_elsewhere(HARNESS, tmp_path, machine, portable, sanitize, flags, cases)
    assert comparisons > (100_000 if sanitize else 300_000)
