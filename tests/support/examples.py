"""How many examples a property is tried with."""

from __future__ import annotations

import os
from typing import Any

import hypothesis

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
"""`quick` for every run by hand, `ci` to search further."""

_QUICK_SHARE = 20

hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=200)
hypothesis.settings.load_profile(PROFILE)


def examples(count: int, **options: Any) -> Any:
    """Return settings for `count` examples under the profile `ci`, and a share under `quick`."""
    if PROFILE == "quick":
        count = max(20, count // _QUICK_SHARE)
    return hypothesis.settings(max_examples=count, **options)
