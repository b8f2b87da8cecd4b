"""Verify: judge every trajectory of a collection."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tabom.core.place import local_folder
from tabom.core.preempt import Preemption
from tabom.models.config import ModelConfig
from tabom.stages.launch import Chunked
from tabom.stages.stage import Counts, Done, Output, reads
from tabom.verify.config import VerifierConfig

if TYPE_CHECKING:
    from tabom.trajectory.verdicts import Verdict

VERDICTS = "verdicts.parquet"
VERDICT_LOG = ".verdicts.jsonl"


def verdicts_file(given: Path) -> Path:
    """The file of verdicts that a folder of `tabom verify` holds, or that is given itself."""
    return given / VERDICTS if given.is_dir() else given


@dataclass(frozen=True, kw_only=True)
class Verify(Chunked):
    """Verdicts of one collection; the model says which ids are masks and ends."""

    kind: ClassVar[str] = "verify"
    cost: ClassVar[float] = 0.2
    uses_gpus: ClassVar[bool] = False

    model: ModelConfig
    trajectories: Output = field(metadata=reads("collect"))
    """What `tabom collect` wrote."""
    verifier: VerifierConfig = field(default_factory=VerifierConfig)

    def work(self, report: Done) -> Counts:
        from tabom.models.checkpoint import load_ids
        from tabom.trajectory.store import TrajectoryStore
        from tabom.trajectory.verdicts import count_reasons, from_json, to_json, write_verdicts
        from tabom.verify.checkers import build_checker
        from tabom.verify.filters import verify_trajectories

        store = TrajectoryStore(self.trajectories.checked())
        ids = load_ids(self.model.model_name_or_path, mask_token_id=self.model.mask_token_id)
        judge = partial(
            verify_trajectories,
            checker=build_checker(self.verifier),
            mask_id=ids.mask,
            end_ids=ids.eos,
        )

        def write(verdicts: "Mapping[str, Verdict]") -> Counts:
            write_verdicts(self.folder / VERDICTS, verdicts)
            return {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}

        if not self.is_one_of_many:
            log = local_folder(self.folder) / VERDICT_LOG  # a rerun judges what is not in it
            return write(judge(store, log=log, progress=lambda done: report(done, len(store))))
        chunks = self.chunks()
        chunks.begin(self.fingerprint, lambda: store.ranges(self.launch.chunk_size))
        with Preemption(signal.SIGTERM, doing="finishing this chunk") as stop:
            for attempt in chunks.attempts(stop):
                with attempt:
                    name, start, end, group = attempt.chunk
                    found = judge(store.rows(group, start, end), log=chunks.spool / name)
                    chunks.put(attempt, to_json(found))

        def all_verdicts() -> Counts:
            paths = map(chunks.path_of, chunks.leaves())
            return write({k: v for path in paths for k, v in from_json(path.read_bytes()).items()})

        return self.ended(chunks, all_verdicts)
