"""Finds wording that a stranger has to read twice, in the files named or in the whole checkout.

    python .ci/check_words.py [FILE...]

Two short lists: sentences without a subject at the start of a comment or docstring, and phrases
that have a plain word in the field. CONTRIBUTING.md has the rules; these are what a machine can see
of them. Exits with 1 if it finds any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ENDINGS = (".c", ".h", ".md", ".mjs", ".pxd", ".pxi", ".py", ".pyx", ".toml", ".yaml", ".yml")

HEADLESS = re.compile(
    r"(?P<start>^\s*(?:#|/\*|\*)\s+|\"\"\"\s?)"
    r"(?:What|Whatever|Whoever|Who|Which|Those that|Where nobody|Also if|Else|Of|Not)\s+[a-z]"
)
"""A comment or docstring that opens with a clause instead of a subject."""

PHRASES = {
    r"\bbe it\b": "whether ... or",
    r"\bg(?:ive[sn]?|ave|iving) (?:\w+ ){0,3}free\b": "release",
    r"\bhand(?:s|ed|ing)? (?:\w+ )?(?:over|out)\b": "deliver, pass, return",
    r"\bof (?:ours|theirs)\b": "our, their",
    r"\bfor ever\b": "forever, without a limit",
    r"\bmended\b": "fixed",
    r"\botherwise than\b": "differently from",
    r"\bcrumbs\b": "small chunks",
    r"\bshort way\b": "fast path",
    r"\btakes? its leave\b": "ends, closes",
    r"\bat once\b": "immediately, at the same time",
    r"\bas it stands\b": "unchanged",
    r"\bstands? for itself\b": "is obvious",
    r"(?-i:\bis none\b)(?! of)": "is not one",
    r"\bsomething else than\b": "something other than",
    r"\btime-outs?\b": "timeout",
    r"\btwins?\b": "counterpart, async version, other core",
    r"\bso many\b": "a number of, that many",
    r"Expected [^\"]*\bgot (?:none|one|some|another|it|what is)\b": "say what is wrong",
}
"""Phrase -> what to say instead."""

_ALL = [(re.compile(phrase, re.IGNORECASE), better) for phrase, better in PHRASES.items()]


def check(path: Path) -> list[str]:
    """Return a line for each finding in one file."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if HEADLESS.search(line):
            found.append(f"{path}:{number}: begins without a subject: {line.strip()[:70]}")
        for phrase, better in _ALL:
            if match := phrase.search(line):
                found.append(f"{path}:{number}: {match[0]!r}: write {better}")
    return found


def main(names: list[str]) -> int:
    """Check the named files, or every file that git tracks."""
    if not names:
        listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
        names = listed.stdout.splitlines()
    paths = [Path(name) for name in names if name.endswith(ENDINGS)]
    # This file has to name the phrases.
    paths = [path for path in paths if path.name != Path(__file__).name]
    found = [line for path in paths if path.exists() for line in check(path)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(found)} findings in {len(paths)} files", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
