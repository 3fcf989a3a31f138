"""How much memory there is here: this machine's, or what its container may take of it."""

from pathlib import Path

import psutil

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where version 2 and version 1 of Linux's control groups say it."""


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """The machine's memory, or the container's limit where that is less."""
    total: int = psutil.virtual_memory().total
    for name in LIMITS:
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # version 2 says "max" where there is none, version 1 a number beyond any machine
            return min(total, int(text))
    return total
