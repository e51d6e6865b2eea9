"""The machine that numbers were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime
from pathlib import Path


def describe() -> dict[str, str]:
    """Return the processor, the operating system, Python and today's date."""
    return {
        "cpu": f"{_processor()}, {os.cpu_count()} logical cores, {platform.machine()}",
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"built by {platform.python_compiler()}",
        "date": f"{datetime.now():%Y-%m-%d}",
    }


def _processor() -> str:
    """Return the processor's model, if the operating system knows it."""
    try:
        if platform.system() == "Linux":
            # Processors other than x86 have no such line.
            found = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.M)
            return found[1] if found else "unknown processor"
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(
                command, capture_output=True, check=True, text=True
            ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or "unknown processor"
