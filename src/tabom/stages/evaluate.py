"""Evaluate: decode and judge every evaluation set, for the base or for a trained model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tabom.collect.prompts import load_prompts
from tabom.core.errors import DataError
from tabom.core.identity import identity
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.stages.preflight import (
    Check,
    check_decoding,
    check_function,
    check_model,
    check_verifier,
)
from tabom.stages.recipe import EvaluationConfig
from tabom.stages.stage import UNFINISHED, Counts, Done, Output, Stage, reads
from tabom.trajectory.store import TrajectoryStore
from tabom.verify.config import VerifierConfig

if TYPE_CHECKING:
    from tabom.evaluation.records import EvaluationRecord
    from tabom.trajectory.record import Trajectory

RECORDS = "records.parquet"
TRAJECTORIES = "trajectories.parquet"
FIELDS = "fields.json"


def read_evaluated(folder: Path) -> Iterator[tuple["EvaluationRecord", "Trajectory"]]:
    """Each stored trajectory with its record, which is the one at the set's first speed.

    Paired by place: two sets may ask the same prompts, and ids are then no key.
    """
    from tabom.evaluation.records import read_records

    first: dict[str, int] = {}
    records = [
        r
        for r in read_records(folder / RECORDS)
        if r.tokens_per_step == first.setdefault(r.set, r.tokens_per_step)
    ]
    store = TrajectoryStore.from_parquet(folder / TRAJECTORIES)
    if len(records) != len(store):
        raise DataError(
            f"{folder}: {len(store)} trajectories for {len(records)} records; evaluate again"
        )
    for record, trajectory in zip(records, store, strict=True):
        if record.id != trajectory.id:
            raise DataError(
                f"{folder}: trajectory {trajectory.id!r} stands where {record.id!r} was recorded; "
                "evaluate again"
            )
        yield record, trajectory


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """Records of one model on every evaluation set at every speed.

    The sections decoding and verifier are of the sets that have none of their own.
    """

    kind: ClassVar[str] = "evaluate"
    cost: ClassVar[float] = 1.5
    resumes: ClassVar[bool] = True

    model: ModelConfig
    trained: Output | None = field(default=None, metadata=reads("train"))
    """What `tabom train` wrote; left out: the base alone."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def checks(self) -> Iterator[Check]:
        yield Check("model", check_model, (self.model,))
        for item in self.evaluation.sets:
            here = f"evaluation.sets.{item.name}"
            for pace in item.tokens_per_step:
                decoding = item.decoding_at(pace, base=self.decoding)
                yield Check(f"{here}.decoding", check_decoding, (decoding, self.model))
            verifier = item.verifier or self.verifier
            yield Check(f"{here}.verifier", check_verifier, (verifier,))
            functions = {f"metrics.{name}": function for name, function in item.metrics.items()}
            if item.prompts.function is not None:
                functions["prompts"] = item.prompts.function
            for name, function in functions.items():
                yield Check(f"{here}.{name}", check_function, (function,))

    def work(self, report: Done) -> Counts:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tabom.collect.config import CollectionConfig
        from tabom.collect.prompts import prompts_content
        from tabom.collect.worker import make_requests
        from tabom.core.atomic import replacing, write_json
        from tabom.core.hooks import load_function
        from tabom.evaluation.manifest import EVALUATION, evaluation_manifest
        from tabom.evaluation.records import summarize, write_records
        from tabom.evaluation.run import evaluate_set
        from tabom.trajectory.schema import to_arrow
        from tabom.verify.checkers import build_checker

        model = self.model.load(trained=self.trained.checked() if self.trained else None)
        records, trajectories = [], []
        # set_of: the set whose response to a prompt is kept for the viewer; sets may share prompts.
        notes: dict[str, Any] = {"tds": {}, "fields": {}, "tokens": {}, "set_of": {}}
        manifests: dict[str, dict[str, Any]] = {}
        loaded = [
            (item, load_prompts(item.prompts, seed=self.evaluation.seed))
            for item in self.evaluation.sets
        ]
        total = sum(len(prompts) * len(item.tokens_per_step) for item, prompts in loaded)
        before = 0
        for number, (item, prompts) in enumerate(loaded):
            requests, _ = make_requests(model, prompts, CollectionConfig())
            result = evaluate_set(
                model,
                requests,
                name=item.name,
                role=item.role,
                checker=build_checker(item.verifier or self.verifier),
                decoding=item.decoding_at(item.tokens_per_step[0], base=self.decoding),
                tokens_per_step=item.tokens_per_step,
                seed=self.evaluation.seed,
                batch_size=self.evaluation.batch_size,
                record_field_for=self.evaluation.num_fields,
                extra_metrics={k: load_function(f) for k, f in item.metrics.items()},
                folder=self.folder / UNFINISHED / str(number),  # a name may not do as a folder's
                progress=lambda done, _, before=before: report(before + done, total),  # type: ignore[misc]
            )
            before += len(requests) * len(item.tokens_per_step)
            manifests[item.name] = {
                str(speed): evaluation_manifest(
                    model,
                    item.decoding_at(speed, base=self.decoding),
                    batch_size=self.evaluation.batch_size,
                    seed=self.evaluation.seed,
                    data={**identity(item.prompts), "documents": prompts_content(prompts)},
                    extra={"verifier": (item.verifier or self.verifier)},
                )
                for speed in item.tokens_per_step
            }
            records += result.records
            trajectories += result.trajectories
            if result.tds is not None:
                notes["tds"][item.name] = {
                    "mean_K": _plain(result.tds.mean_K),
                    "average": _plain(np.asarray(result.tds.average)),
                }
            shown = num_shown(self.decoding.max_new_tokens)
            for trajectory in result.trajectories[:shown]:
                name = trajectory.id
                if name in result.fields and name not in notes["set_of"]:
                    ids = trajectory.response_ids_N.tolist()
                    notes["set_of"][name] = item.name
                    notes["fields"][name] = _plain(result.fields[name])
                    notes["tokens"][name] = [model.tokenizer.decode([t]) for t in ids]
        with replacing(self.folder / TRAJECTORIES) as temporary:
            table = pa.Table.from_batches([to_arrow(trajectories)])
            pq.write_table(table, temporary, compression="zstd")
        write_json(self.folder / FIELDS, notes)
        write_json(self.folder / EVALUATION, manifests)
        write_records(self.folder / RECORDS, records)
        counts: dict[str, Any] = {"num_responses": len(records)}
        for summary in summarize(records):
            name = f"{summary.set}@{summary.pace}"
            counts[name] = round(100 * summary.accuracy.value, 2)
        return counts


def num_shown(num_slots: int) -> int:
    """Responses of a set that the viewer can play; a field is N x N numbers."""
    return 6 if num_slots <= 64 else 2


def _plain(values: Any) -> Any:
    """An array as lists for JSON, rounded, with None for NaN."""
    if getattr(values, "ndim", 0):
        return [_plain(v) for v in values]
    return round(float(values), 5) if np.isfinite(values) else None
