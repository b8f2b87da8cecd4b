"""What an evaluation leaves in its folder, written and read."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing, write_json
from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.evaluation.manifest import EVALUATION, HELD_OUT
from tabom.evaluation.records import EvaluationRecord, Pace, read_records, write_records
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import to_arrow
from tabom.trajectory.store import TrajectoryStore

if TYPE_CHECKING:
    from tabom.evaluation.run import SetResult
    from tabom.models.contract import MaskedDiffusionModel

RECORDS = "records.parquet"
TRAJECTORIES = "trajectories.parquet"
FIELDS = "fields.json"
RESULTS = "results.json"


def write_evaluation(
    folder: Path,
    results: Sequence["SetResult"],
    *,
    model: "MaskedDiffusionModel",
    held_out: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write records, trajectories, what the viewer shows, totals and manifests of all sets.

    held_out: by set, what it shares with the training prompts, where that was counted.
    Returns: counts for the stage's manifest: accuracies in percent, and costs.
    """
    records = [record for result in results for record in result.records]
    trajectories = [trajectory for result in results for trajectory in result.trajectories]
    with replacing(folder / TRAJECTORIES) as temporary:
        table = pa.Table.from_batches([to_arrow(trajectories)])
        pq.write_table(table, temporary, compression="zstd")
    write_json(folder / FIELDS, _shown(model, results))
    write_json(folder / RESULTS, {result.name: result.totals for result in results})
    manifests: dict[str, Any] = {result.name: result.manifests for result in results}
    # It stands beside how a set was evaluated, so that a comparison of folders finds it.
    for name, found in held_out.items():
        manifests[name] = {p: {**one, HELD_OUT: found} for p, one in manifests[name].items()}
    write_json(folder / EVALUATION, manifests)
    write_records(folder / RECORDS, records)
    counts: dict[str, Any] = {"num_responses": len(records)}
    for result in results:
        for pace, numbers in result.totals.items():
            name = f"{result.name}@{pace}"
            # The first number is of the judge that decides what is correct.
            counts[name] = round(100 * next(iter(numbers.values())), 2)
            counts[f"{name} tokens_per_forward"] = round(numbers["tokens_per_forward"], 3)
    for name, found in held_out.items():
        if "num_exact" in found:
            counts[f"{name} in_training"] = found["num_exact"]
            counts[f"{name} near_training"] = found["num_near"]
    return counts


def read_evaluated(folder: Path) -> Iterator[tuple[EvaluationRecord, Trajectory]]:
    """Each stored trajectory with its record, which is the one at the set's first pace.

    Paired by place: two sets may ask the same prompts, and ids are then no key.
    Raises: DataError if the two files do not belong together.
    """
    first: dict[str, Pace] = {}
    records = (
        record
        for record in read_records(folder / RECORDS)
        if record.pace == first.setdefault(record.set, record.pace)
    )
    # Where one file has fewer rows, a None stands against an id.
    for record, trajectory in zip_longest(records, TrajectoryStore(folder / TRAJECTORIES)):
        ids = [record and record.trajectory, trajectory and trajectory.id]
        if ids[0] != ids[1]:
            raise DataError(
                f"{folder}: trajectory {ids[1]!r} stands where {ids[0]!r} was recorded; evaluate "
                "again"
            )
        yield record, trajectory


def num_shown(num_slots: int) -> int:
    """Responses of a set that the viewer can play; a field is N x N numbers."""
    return 6 if num_slots <= 64 else 2


def _shown(model: "MaskedDiffusionModel", results: Sequence["SetResult"]) -> dict[str, Any]:
    """Timing curves, and the responses that the viewer plays.

    set_of: the set whose response to a prompt is kept; sets may share prompts.
    """
    notes: dict[str, Any] = {"tds": {}, "fields": {}, "tokens": {}, "set_of": {}}
    for result in results:
        curve = result.tds(model.ids.eos)
        if curve is not None:
            notes["tds"][result.name] = {
                "mean_K": _plain(curve.mean_K),
                "average": _plain(np.asarray(curve.average)),
            }
        # The page holds fields whole, and they grow with the square of the slots.
        shown = num_shown(max((t.num_slots for t in result.trajectories), default=0))
        for trajectory in result.trajectories[:shown]:
            name = trajectory.id
            if name in result.fields and name not in notes["set_of"]:
                ids = trajectory.response_ids_N.tolist()
                notes["set_of"][name] = result.name
                notes["fields"][name] = _plain(result.fields[name])
                notes["tokens"][name] = [model.tokenizer.decode([t]) for t in ids]
    return notes


def _plain(values: Any) -> Any:
    """An array as lists for JSON, rounded, with None for NaN."""
    return to_plain(np.round(np.asarray(values, dtype=np.float64), 5))
