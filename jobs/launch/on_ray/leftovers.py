"""The temporary folder that Ray's dashboard leaves behind.

Its helpers are started by a process of Python's multiprocessing, whose socket lies in a folder `pymp-...`. Python removes that
folder when the dashboard ends by itself, and no Ray lets it: each leaves one more.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PREFIX = "pymp-"


def socket_folders(pid: int) -> set[Path]:
    """Folders of multiprocessing's sockets that a process or its children hold open. Raises: OSError where there is no Linux /proc."""
    folders: dict[str, Path] = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)  # the seventh is the inode, the eighth the path of a socket that has one
        if len(fields) > 7 and Path(fields[7]).parent.name.startswith(PREFIX):
            folders[f"socket:[{fields[6]}]"] = Path(fields[7]).parent
    return {folders[target] for process in (pid, *_children(pid)) for target in _open_files(process) if target in folders}


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def _open_files(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(link)
