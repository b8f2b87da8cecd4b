"""What all processes of a sandbox use together: limits on each of them bound no sum.

A control group holds the sum where this process may make one; elsewhere it is counted while the
program runs, several times a second.
"""

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MAX_FILES = 5000  # in the writable folder: each costs the kernel memory that no limit counts
_MEGABYTE = 2**20


def make_group(name: str, *, memory_mb: int, processes: int) -> Path | None:
    """A control group with these limits for one sandbox, or None where none can be made."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").split("\n")
        own = next(line[3:] for line in lines if line.startswith("0::"))
        group = _ROOT / own.lstrip("/") / name
        if "memory" not in (group.parent / "cgroup.subtree_control").read_text().split():
            return None
        group.mkdir()
    except (OSError, StopIteration):
        return None
    try:
        (group / "memory.max").write_text(str(memory_mb * _MEGABYTE))
        (group / "pids.max").write_text(str(processes + 8))
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")
    except OSError:
        drop_group(group)
        return None
    return group


def join_group(group: Path, pid: int) -> None:
    """Put a process, and what it starts from now on, into a group."""
    with contextlib.suppress(OSError):
        (group / "cgroup.procs").write_text(str(pid))


def drop_group(group: Path) -> None:
    """Remove a group whose processes have ended."""
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    with contextlib.suppress(OSError):
        group.rmdir()


def excess(pid: int, *, memory_mb: int) -> str:
    """What the processes below `pid` use too much of, together; "" while that is nothing."""
    below = _descendants(pid)
    if sum(map(_resident, below)) > memory_mb * _MEGABYTE:
        return f"its processes used more than {memory_mb} MiB together"
    with contextlib.suppress(OSError, IndexError):
        files = os.statvfs(f"/proc/{below[-1]}/root/tmp")
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
