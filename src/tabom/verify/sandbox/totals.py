"""What all processes of a sandbox use together: limits on each of them bound no sum.

Counted while the program runs, ten times a second, since few may make a control group.
"""

import contextlib
import os
from pathlib import Path

_MAX_FILES = 5000  # in the writable folder: each costs the kernel memory that no limit counts
_MEGABYTE = 2**20


def excess(pid: int, *, memory_mb: int) -> str:
    """What the processes below `pid` use too much of, together; "" while that is nothing."""
    below = _descendants(pid)
    if sum(map(_resident, below)) > memory_mb * _MEGABYTE:
        return f"its processes used more than {memory_mb} MiB together"
    with contextlib.suppress(OSError, IndexError):
        files = os.statvfs(Path(f"/proc/{below[-1]}/root", "tmp"))
        if files.f_files - files.f_ffree > _MAX_FILES:
            return f"it made more than {_MAX_FILES} files"
    return ""


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo and len(found) < 1000:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(OSError, ValueError):
            for task in os.listdir(f"/proc/{one}/task"):
                children = Path(f"/proc/{one}/task/{task}/children").read_text()
                todo += [int(child) for child in children.split()]
    return found


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
