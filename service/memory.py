"""How much memory there is here: this machine's, or what its container, or a control group that this process is in, may take of it."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

GIB = 1 << 30
CGROUP, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}
"""Where version 2 and version 1 of Linux's control groups say it, by the controller that lines of OWN_GROUPS name; version 2 names none."""


def memory_bytes(cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> int:
    """The machine's memory, or the least limit of the groups that this process is in, from its own up, where that is less."""
    total: int = psutil.virtual_memory().total
    return min([total, *_limits(cgroup, own_groups)])


def _limits(cgroup: Path, own_groups: Path) -> Iterator[int]:
    paths = _paths(own_groups)
    for controller, file in LIMITS.items():
        group = PurePosixPath(paths.get(controller, "/"))
        # A container sees its own group as the root, or names a path that is not there: the groups that are there count.
        for folder in [group, *group.parents]:
            try:
                text = (cgroup / controller / folder.relative_to("/") / file).read_text().strip()
            except OSError:
                continue
            if text.isdecimal():  # version 2 says "max" where there is none, version 1 a number beyond any machine
                yield int(text)


def _paths(own_groups: Path) -> dict[str, str]:
    """The groups that this process is in, by controller: lines such as "0::/user.slice" and "4:memory:/docker/1a2b"."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return {}
    found = (line.split(":", 2) for line in lines if line.count(":") >= 2)
    return {name: path for _, names, path in found for name in names.split(",") if path.startswith("/") and ".." not in path.split("/")}
