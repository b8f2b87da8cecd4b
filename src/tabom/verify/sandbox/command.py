"""The command line that shuts a program in: bubblewrap, and setpriv before it where we are root.

Root first becomes a user without rights: the kernel does not apply a limit on processes to
root's programs, not even inside a user namespace.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

INSTALL = (
    "code is run in a sandbox made with bubblewrap; install it (Debian, Ubuntu: "
    "apt-get install bubblewrap; Fedora: dnf install bubblewrap; conda: conda install -c "
    "conda-forge bubblewrap)"
)
_FIRST_UID = 60_000


def missing_tools() -> str | None:
    """What the sandbox needs and this machine lacks, or None."""
    if not sys.platform.startswith("linux"):
        return f"a sandbox needs Linux, this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "there is no bwrap"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "there is no setpriv (package util-linux), which root needs to give up its rights"
    return None


def sandbox_command(
    python: str,
    arguments: Sequence[str],
    *,
    slot: int,
    tmp_mb: int,
    filter_fd: int | None = None,
    info_fd: int | None = None,
) -> list[str]:
    """The command that runs `python arguments` shut in.

    slot: number of the worker; each has a user id of its own where we are root.
    tmp_mb: size of the one writable folder, in MiB. filter_fd: a filter on system calls.
    info_fd: where bubblewrap says which process it started.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
    command = []
    if os.geteuid() == 0:
        uid = str(_free_uids(slot + 1)[slot])
        command += [shutil.which("setpriv") or "setpriv", "--reuid", uid, "--regid", uid]
        command += ["--clear-groups", "--no-new-privs"]
    command += [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    if "--disable-userns" in _bwrap_help():
        command.append("--disable-userns")
    for option, descriptor in (("--seccomp", filter_fd), ("--info-fd", info_fd)):
        command += [] if descriptor is None else [option, str(descriptor)]
    command += ["--cap-drop", "ALL", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin"]
    command += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("lib", "lib32", "lib64", "libx32", "bin", "sbin"):
        path = Path("/", name)
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for folder in python_folders(python):
        command += ["--ro-bind", folder, folder]
    command += ["--proc", "/proc", "--dev", "/dev"]
    # Every place that could be written to has a size: else it is the machine's memory.
    command += ["--size", str(2**20), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    command += ["--size", str(tmp_mb * 2**20), "--tmpfs", "/tmp", "--remount-ro", "/"]
    return [*command, "--chdir", "/tmp", python, *arguments]


def python_folders(python: str) -> list[str]:
    """The folders outside /usr that this interpreter needs: its own and its standard library's."""
    prefix = Path(python).resolve().parent.parent
    return [] if prefix.is_relative_to("/usr") else [str(prefix)]


def pythons() -> list[str]:
    """Interpreters to try, this one's first. It may lie where a user without rights cannot go."""
    found = [Path(sys.executable).resolve()]
    found += [Path(p).resolve() for p in map(shutil.which, ("python3",)) if p is not None]
    found += [Path(f"/usr/bin/python3{minor}") for minor in ("", ".13", ".12", ".11", ".10")]
    names = dict.fromkeys(str(p.resolve()) for p in found if p.is_file())
    return [name for name in names if os.geteuid() != 0 or _is_open_to_all(Path(name))]


def _is_open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


@lru_cache(maxsize=1)
def _bwrap_help() -> str:
    done = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@lru_cache(maxsize=8)
def _free_uids(count: int) -> list[int]:
    """User ids that no account of this machine has."""
    taken = {account.pw_uid for account in pwd.getpwall()}
    free = (uid for uid in range(_FIRST_UID, _FIRST_UID + 5000) if uid not in taken)
    return [uid for uid, _ in zip(free, range(count), strict=False)]
