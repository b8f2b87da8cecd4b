"""A try at a chunk: who works on it, and how others know that he lives."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tabom.core.atomic import write_bytes
from tabom.core.errors import TabomError
from tabom.core.place import remove
from tabom.core.plain import canonical_json

PARTS = 16  # that a chunk is split into: 256 items are single ones after two splits
BEAT_S = 20.0  # how often a worker says that it is alive
LOST_S = 120.0  # silence after which a worker on another machine counts as dead


class Chunk(NamedTuple):
    """A range of items. group: what the items are of, where a plan has several kinds."""

    name: str
    start: int
    end: int
    group: str = ""

    @property
    def size(self) -> int:
        return self.end - self.start

    def parts(self) -> list["Chunk"]:
        """The chunk cut again, into ranges whose lengths differ by one at most."""
        num = min(PARTS, self.size)
        edges = [self.start + self.size * i // num for i in range(num + 1)]
        return [
            Chunk(f"{self.name}.{i:02d}", edges[i], edges[i + 1], self.group) for i in range(num)
        ]


class _Worker(NamedTuple):
    """A process. host: with its space of process ids. born: so that ids differ in time."""

    host: str
    pid: int
    born: str

    @classmethod
    def here(cls) -> "_Worker":
        try:
            space = os.readlink("/proc/self/ns/pid")
        except OSError:
            space = ""
        return cls(f"{socket.gethostname()} {space}", os.getpid(), _born(os.getpid()))

    def is_gone(self, beat: float) -> bool:
        """Whether the process is dead: known on its own machine, and elsewhere by its silence."""
        if self.host == _Worker.here().host:
            return _born(self.pid) != self.born
        return time.time() - beat > LOST_S


def _born(pid: int) -> str:
    """When a process of this machine started; "" for one that is not there, or is a zombie."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after[0] in "ZX" else after[19]


@dataclass
class Attempt:
    """One worker's try at one chunk. As a context it says that the worker lives, until it ends.

    An error of the user's, Ctrl-C or SIGTERM give the chunk back; another error counts as a death.
    """

    chunk: Chunk
    path: Path
    rows: int = 0
    """Rows done so far, which whoever works sets."""
    started: float = field(default_factory=time.time)
    state: str = "running"
    facts: dict[str, Any] = field(default_factory=dict)

    def text(self) -> bytes:
        """What the object says."""
        said = {
            "worker": _Worker.here(),
            "state": self.state,
            "started": self.started,
            "beat": time.time(),
            "rows": self.rows,
            **self.facts,
        }
        return canonical_json(said).encode()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):  # the next one will do
                write_bytes(self.path, self.text())

    def __enter__(self) -> "Attempt":
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            return
        if isinstance(error, Exception) and not isinstance(error, TabomError):
            self.state, self.facts = "died", {"why": f"{type(error).__name__}: {error}"}
            write_bytes(self.path, self.text())
        else:
            remove(self.path)


def is_over(said: Mapping[str, Any]) -> bool:
    """Whether nobody works on it any more."""
    if said.get("state") != "running":
        return True
    return _Worker(*said["worker"]).is_gone(said["beat"])
