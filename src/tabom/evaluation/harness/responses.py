"""Responses on disk, one JSON line each: what a killed evaluation resumes from.

The file also is the record of how each response was decoded.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from tabom.core.errors import DataError
from tabom.decoding.requests import Decoded
from tabom.diagnostics.curves import end_step
from tabom.trajectory.order import length_to_end


@dataclass(frozen=True, kw_only=True)
class StoredResponse:
    """One decoded response of a task's document.

    id: content id of the task, the prompt's token ids and the sample number. fingerprint: of the
    weights and the decoding. task, doc_id, sample: whose it is. prompt_tokens: that the model saw;
    dropped_prompt_tokens: left out of the front. response_ids, step: per slot (step -1: never).
    num_forwards: model calls. tokens_per_forward: slots revealed over model calls.
    length: slots up to and including the first end token. end_step: step that revealed it, -1
    without one.
    """

    id: str
    fingerprint: str
    task: str
    doc_id: int
    sample: int
    prompt_tokens: int
    dropped_prompt_tokens: int
    num_forwards: int
    tokens_per_forward: float
    length: int
    end_step: int
    response_ids: list[int]
    step: list[int]

    @classmethod
    def of(
        cls,
        decoded: Decoded,
        *,
        task: str,
        doc_id: int,
        sample: int,
        dropped_prompt_tokens: int,
        end_ids: Iterable[int],
    ) -> "StoredResponse":
        """What is kept of a decoded response."""
        t, ends = decoded.trajectory, tuple(end_ids)
        return cls(
            id=t.id,
            fingerprint=t.fingerprint,
            task=task,
            doc_id=doc_id,
            sample=sample,
            prompt_tokens=len(t.prompt_ids),
            dropped_prompt_tokens=dropped_prompt_tokens,
            num_forwards=t.num_forwards,
            tokens_per_forward=t.num_revealed / max(t.num_forwards, 1),
            length=length_to_end(t.response_ids_N, ends),
            end_step=end_step(t.step_N, t.response_ids_N, end_ids=ends),
            response_ids=t.response_ids_N.tolist(),
            step=t.step_N.tolist(),
        )


class ResponseFile:
    """A JSONL file of responses, appended to and synced; without a path, memory alone.

    A line is trusted only whole: what a killed process left behind the last line end is cut off.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._found: dict[tuple[str, str], StoredResponse] = {}
        self._file: IO[str] | None = None
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __enter__(self) -> "ResponseFile":
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise DataError(
                    f"{self.path}: another process is writing to it; wait for that evaluation, "
                    "or name another file"
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, id: str, fingerprint: str) -> StoredResponse | None:
        """The response of this content under this decoding, or None."""
        return self._found.get((id, fingerprint))

    def add(self, responses: Iterable[StoredResponse]) -> None:
        """Keep responses, durably when this returns."""
        for response in responses:
            self._found[response.id, response.fingerprint] = response
            if self._file is not None:
                self._file.write(json.dumps(asdict(response), separators=(",", ":")) + "\n")
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                response = StoredResponse(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: not a stored response ({error}); it is no file of "
                    "this evaluation, or was edited: name another file, or remove that line"
                ) from error
            self._found[response.id, response.fingerprint] = response
