"""From trajectories to verdicts, and from verdicts to the trajectories that training sees."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict, VerdictLog
from tabom.verify.checker import Checker, Response

_NUM_EXAMPLES = 3
_EXAMPLE_LENGTH = 120


def verify_trajectories(
    trajectories: Iterable[Trajectory],
    checker: Checker,
    *,
    mask_id: int,
    end_ids: Sequence[int],
    log: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Verdict]:
    """The verdict on each trajectory, by id.

    trajectories: any iterable; a few are held at a time.
    log: a file that keeps every verdict as it comes. Those in it are not judged again; it is gone
        when all are judged, since the caller then has them.
    progress: called with how many are done.
    Raises: DataError if two trajectories share an id.
    """
    kept = None if log is None else VerdictLog(log)
    verdicts: dict[str, Verdict] = {} if kept is None else dict(kept.verdicts)
    asked: set[str] = set()
    waiting: deque[str] = deque()

    def responses() -> Iterator[Response]:
        for trajectory in trajectories:
            if trajectory.id in asked:
                raise DataError(f"trajectory {trajectory.id!r} occurs twice; one id is one verdict")
            asked.add(trajectory.id)
            if trajectory.id not in verdicts:
                waiting.append(trajectory.id)
                yield Response.of(trajectory, mask_id=mask_id, end_ids=end_ids)

    try:
        for verdict in checker.judge_many(responses()):
            key = waiting.popleft()
            verdicts[key] = verdict
            if kept is not None:
                kept.append(key, verdict)
            if progress is not None:
                progress(len(verdicts))
    except BaseException:
        if kept is not None:
            kept.close()
        raise
    if kept is not None:
        kept.close(remove=True)
    return verdicts


def judged(
    batches: Iterable[pa.RecordBatch], verdicts: pa.Table, *, with_rejected: bool = False
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The rows of a store that were accepted, batch by batch; no row becomes an object.

    batches: with the column id, as `TrajectoryStore.batches` gives them. verdicts: as
        `read_verdict_table` gives them; fastest in the order of the store.
    with_rejected: those that were judged wrong, too: also without an answer, or cut short. What
        could not be verified is left out: nothing is known of it.
    Returns: the rows, and for each whether it was accepted (bool).
    Raises: while streaming DataError if a trajectory has no verdict, and at the end if a verdict
        has no trajectory.
    """
    names, reasons = (verdicts[n].combine_chunks() for n in ("id", "reason"))
    is_accepted = np.asarray(pc.equal(reasons, "accepted"))
    is_wanted = np.asarray(pc.not_equal(reasons, "unverifiable")) if with_rejected else is_accepted
    is_left, start = np.ones(len(names), dtype=bool), 0
    for batch in batches:
        ids = batch.column("id")
        if ids.equals(names.slice(start, len(ids))):
            row = np.arange(start, start + len(ids))
        else:
            row = pc.index_in(ids, value_set=names).fill_null(-1).to_numpy()
        is_first = np.zeros(len(ids), dtype=bool)
        is_first[np.unique(row, return_index=True)[1]] = True
        is_fine = is_first & (row >= 0) & is_left[row] if len(names) else row >= 0
        if not is_fine.all():
            raise DataError(
                f"trajectory {ids[int(is_fine.argmin())].as_py()!r} has no verdict (or occurs "
                "twice); the verdicts are of other trajectories than these: run verify again"
            )
        is_left[row] = False
        start += len(ids)
        keep = is_wanted[row]
        yield batch.filter(pa.array(keep)), is_accepted[row][keep]
    if is_left.any():
        raise DataError(
            f"{is_left.sum()} verdicts belong to no trajectory here, the first "
            f"{names[int(is_left.argmax())].as_py()!r}; the verdicts are of other trajectories "
            "than these: run verify again"
        )


def require_accepted(
    verdicts: Mapping[str, Verdict], *, trajectories: Iterable[Trajectory] = ()
) -> None:
    """Raise DataError if no verdict is accepted, with the counts and what to do.

    trajectories: where given, the first wrong responses are shown beside their references.
    """
    counts = Counter(verdict.reason for verdict in verdicts.values())
    if counts["accepted"]:
        return
    listed = ", ".join(f"{reason} {counts[reason]}" for reason in REASONS if counts[reason])
    lines = [
        f"the verifier accepted none of {len(verdicts)} trajectories"
        f" ({listed or 'there are no verdicts'}): there is nothing to train on.",
        "Check that the verifier fits the answers' format and the prompts have a reference; "
        "raise decoding max_new_tokens if responses are truncated; take more prompts or a "
        'stronger model if they are wrong; or set the verifier\'s type to "accept_all".',
    ]
    shown = (t for t in trajectories if t.id in verdicts)
    for trajectory, _ in zip(shown, range(_NUM_EXAMPLES), strict=False):
        response, reference = (
            text if len(text) <= _EXAMPLE_LENGTH else text[:_EXAMPLE_LENGTH] + "..."
            for text in (trajectory.response, trajectory.reference)
        )
        verdict = verdicts[trajectory.id]
        lines.append(f"  {verdict.reason}: response {response!r}, reference {reference!r}")
    raise DataError("\n".join(lines))
