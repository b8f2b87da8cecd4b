"""A filter on system calls for what namespaces and limits leave open.

Memory that no limit counts (memfd, shared segments), sockets that no network namespace holds
(AF_VSOCK), and interfaces of the kernel that no program of ours needs. Written as the program that
bubblewrap hands to the kernel (`--seccomp`): a denied call fails with EPERM.
"""

import platform
import struct
import tempfile
from typing import BinaryIO

_LOAD, _EQUAL, _GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_ALLOW, _DENY = 0x7FFF0000, 0x00050001  # the latter with errno 1
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_FAMILIES = (1, 2, 10, 16)  # unix, both of the internet, netlink: these have namespaces
# Of each architecture: memfd_create, shmget, ptrace, process_vm_readv, process_vm_writev, keyctl,
# add_key, request_key, bpf, perf_event_open, userfaultfd, kcmp, init_module, mq_open.
_DENIED = {
    "x86_64": (319, 29, 101, 310, 311, 250, 248, 249, 321, 298, 323, 312, 175, 240),
    "aarch64": (279, 194, 117, 270, 271, 219, 217, 218, 280, 241, 282, 272, 105, 180),
}
_DENIED_EVERYWHERE = (425, 426, 427, 447, 428, 429, 430, 431, 432, 433)  # io_uring, secret, mounts
_FIRST_X32 = 0x40000000


def program(machine: str) -> bytes | None:
    """The filter for a machine, as the kernel takes it; None for one that is not known here."""
    if machine not in _ARCHITECTURES:
        return None
    denied = (*_DENIED[machine], *_DENIED_EVERYWHERE)
    steps: list[tuple[int, int | str, int | str, int]] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, "deny", _ARCHITECTURES[machine]),
        (_LOAD, 0, 0, 0),
        (_GREATER, "deny", 0, _FIRST_X32 - 1),
        *((_EQUAL, "deny", 0, number) for number in denied),
        (_EQUAL, 0, "allow", _SOCKET[machine]),
        (_LOAD, 0, 0, 16),  # the first argument: the family
        *((_EQUAL, "allow", 0, family) for family in _FAMILIES),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _ALLOW),
    ]
    places = {"deny": len(steps) - 2, "allow": len(steps) - 1}
    return b"".join(
        struct.pack("=HBBI", code, *(_jump(to, i, places) for to in (yes, no)), value)
        for i, (code, yes, no, value) in enumerate(steps)
    )


def _jump(to: int | str, place: int, places: dict[str, int]) -> int:
    return to if isinstance(to, int) else places[to] - place - 1


def open_filter() -> BinaryIO | None:
    """A file with this machine's filter, for bubblewrap to read; None where there is none."""
    code = program(platform.machine())
    if code is None:
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    file.write(code)
    file.seek(0)
    return file
