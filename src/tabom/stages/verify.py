"""Verify: judge every trajectory of a collection."""

from dataclasses import dataclass, field
from typing import ClassVar

from tabom.models.config import ModelConfig
from tabom.stages.stage import Counts, Done, Output, Stage, reads
from tabom.verify.config import VerifierConfig

VERDICTS = "verdicts.parquet"
VERDICT_LOG = ".verdicts.jsonl"


@dataclass(frozen=True, kw_only=True)
class Verify(Stage):
    """Verdicts of one collection; the model says which ids are masks and ends."""

    kind: ClassVar[str] = "verify"
    cost: ClassVar[float] = 0.2
    resumes: ClassVar[bool] = True

    model: ModelConfig
    trajectories: Output = field(metadata=reads("collect"))
    """What `tabom collect` wrote."""
    verifier: VerifierConfig = field(default_factory=VerifierConfig)

    def work(self, report: Done) -> Counts:
        from tabom.models.checkpoint import load_ids
        from tabom.trajectory.store import TrajectoryStore
        from tabom.trajectory.verdicts import count_reasons, write_verdicts
        from tabom.verify.checkers import build_checker
        from tabom.verify.filters import verify_trajectories

        store = TrajectoryStore(self.trajectories.checked())
        ids = load_ids(self.model.model_name_or_path, mask_token_id=self.model.mask_token_id)
        verdicts = verify_trajectories(
            store,
            build_checker(self.verifier),
            mask_id=ids.mask,
            end_ids=ids.eos,
            log=self.folder / VERDICT_LOG,  # a rerun judges what is not in it
            progress=lambda done: report(done, len(store)),
        )
        write_verdicts(self.folder / VERDICTS, verdicts)
        return {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}
