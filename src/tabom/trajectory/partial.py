"""The durable write path: one append-only JSON Lines file per writer attempt.

A process may be killed at any byte. So a line is one `write` followed by an fsync, it carries a
CRC of itself, and no attempt ever appends to the file of another one: what a crash tore is the
last line of a file that nobody will touch again. Readers drop such a line and count it.
"""

import json
import os
import re
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tabom.core.atomic import sync_folder
from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.trajectory.record import FloatArray, Trajectory

PARTIAL = "partial"
_HEAD, _MIDDLE, _TAIL = b'{"crc32":"', b'","row":', b"}\n"
_START = len(_HEAD) + 8 + len(_MIDDLE)
_ID = re.compile(rb'\{"id":("(?:[^"\\]|\\.)*")')


def _without_nan(values_N: FloatArray) -> list[float | None]:
    return [None if value != value else value for value in values_N.tolist()]


def encode_line(trajectory: Trajectory) -> bytes:
    """One line: a JSON object of a checksum and the row, the row's id first. NaN becomes null."""
    t = trajectory
    row = {
        "id": t.id,
        "prompt": t.prompt,
        "prompt_ids": t.prompt_ids.tolist(),
        "response": t.response,
        "response_ids": t.response_ids_N.tolist(),
        "step": t.step_N.tolist(),
        "entropy": _without_nan(t.entropy_N),
        "confidence": _without_nan(t.confidence_N),
        "num_forwards": int(t.num_forwards),
        "method": t.method,
        "task": t.task,
        "reference": t.reference,
        "row": to_plain(t.row),
        "fingerprint": t.fingerprint,
    }
    payload = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    return _HEAD + b"%08x" % zlib.crc32(payload) + _MIDDLE + payload + _TAIL


def decode_line(line: bytes) -> bytes | None:
    """The row's bytes, or None for a line that is torn or was changed."""
    if not line.endswith(_TAIL) or not line.startswith(_HEAD):
        return None
    payload = line[_START : -len(_TAIL)]
    return payload if line[:_START] == _HEAD + b"%08x" % zlib.crc32(payload) + _MIDDLE else None


def parse_row(payload: bytes, *, place: str) -> Trajectory:
    """The trajectory of a line's row. Raises DataError naming the place if it is not one."""
    try:
        row: dict[str, Any] = json.loads(payload)
        entropy_N, confidence_N = (
            np.array([np.nan if v is None else v for v in row.pop(name)], dtype=np.float32)
            for name in ("entropy", "confidence")
        )
        return Trajectory(
            response_ids_N=row.pop("response_ids"),
            step_N=row.pop("step"),
            entropy_N=entropy_N,
            confidence_N=confidence_N,
            **row,
        )
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise DataError(f"{place}: {error}; delete the line and run the collection again") from None


class TrajectoryWriter:
    """Appends trajectories to a file of its own under `folder/partial/`.

    Use it as a context manager. What `append` has returned from survives a crash.
    """

    def __init__(self, folder: str | os.PathLike[str], rank: int = 0) -> None:
        """folder: of the collection. rank: of the process, for the file's name only."""
        parent = Path(folder) / PARTIAL
        parent.mkdir(parents=True, exist_ok=True)
        self.path = parent / f"traj-{rank:05d}-{uuid.uuid4().hex}.jsonl"
        self.num_written = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._descriptor: int | None = os.open(self.path, flags, 0o644)
        sync_folder(parent)

    def append(self, trajectory: Trajectory) -> None:
        """Write one trajectory; on return it is on disk."""
        self.append_many([trajectory])

    def append_many(self, trajectories: Sequence[Trajectory]) -> None:
        """Write several, one line each, with one fsync for all; on return they are on disk.

        Raises: OSError if the disk refuses. The writer is closed then: a line after a torn one
            would be lost with it.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the writer is closed")
        try:
            for trajectory in trajectories:
                line = encode_line(trajectory)
                while line:  # one write in practice; a signal or a full disk may cut it short
                    line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError:
            self.close()
            raise
        self.num_written += len(trajectories)

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Line:
    """Where one good line lies, and its row's bytes."""

    path: Path
    number: int  # in its file, from 1
    offset: int
    num_bytes: int
    payload: bytes

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.number}"

    @property
    def id(self) -> str:
        match = _ID.match(self.payload)
        if match is None:
            raise DataError(f"{self.place}: no id; delete the line and run the collection again")
        return str(json.loads(match[1]))


@dataclass
class Torn:
    """Counts the lines a reader had to drop."""

    count: int = 0


def read_lines(folder: str | os.PathLike[str], torn: Torn | None = None) -> Iterator[Line]:
    """Every good line under `folder/partial/`, file after file, in the order they were written.

    torn: its count grows by one for every line dropped (cut short, or its CRC does not fit).
    """
    for path in sorted((Path(folder) / PARTIAL).glob("*.jsonl")):
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                payload = decode_line(line)
                if payload is not None:
                    yield Line(path, number, offset, len(line), payload)
                elif torn is not None:
                    torn.count += 1
                offset += len(line)


def scan_partial(folder: str | os.PathLike[str]) -> set[str]:
    """The ids that are safely on disk: what a resumed collection need not do again."""
    return {line.id for line in read_lines(folder)}
