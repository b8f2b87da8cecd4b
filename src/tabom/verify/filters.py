"""From trajectories to verdicts, and from verdicts to the trajectories that training sees."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict
from tabom.verify.checkers import Checker

_NUM_EXAMPLES = 3
_EXAMPLE_LENGTH = 120


def verify_trajectories(
    trajectories: Iterable[Trajectory],
    checker: Checker,
    *,
    mask_id: int,
    end_ids: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Verdict], Counter[str]]:
    """One verdict per trajectory, in order, and how often each reason occurred.

    trajectories: any iterable; a few are held at a time. progress: called with how many are done.
    Returns: the verdicts, and counts with a key for every reason (0 included).
    """
    counts = Counter(dict.fromkeys(REASONS, 0))
    verdicts = []
    for verdict in checker.verify_many(trajectories, mask_id=mask_id, end_ids=end_ids):
        counts[verdict.reason] += 1
        verdicts.append(verdict)
        if progress is not None:
            progress(len(verdicts))
    return verdicts, counts


def accepted_ratio(counts: Counter[str]) -> float:
    """The share of accepted trajectories, in [0, 1]; 0 where there are none at all."""
    total = sum(counts.values())
    return counts["accepted"] / total if total else 0.0


def accepted(
    trajectories: Iterable[Trajectory], verdicts: Mapping[str, Verdict] | Iterable[Verdict]
) -> Iterator[Trajectory]:
    """The accepted trajectories, streamed in the order of `trajectories`.

    trajectories: a store, or any iterable. verdicts: as made here or as `read_verdicts` gives them.
    Raises: DataError at once if no verdict is accepted or two share an id; while streaming if a
        trajectory has no verdict, and at the end if a verdict has no trajectory.
    """
    by_id: dict[str, Verdict] = {}
    for verdict in verdicts.values() if isinstance(verdicts, Mapping) else verdicts:
        if verdict.id in by_id:
            raise DataError(f"two verdicts for trajectory {verdict.id!r}; run verify again")
        by_id[verdict.id] = verdict
    require_accepted(by_id.values(), trajectories=trajectories)
    return _stream(trajectories, by_id)


def _stream(trajectories: Iterable[Trajectory], by_id: dict[str, Verdict]) -> Iterator[Trajectory]:
    for trajectory in trajectories:
        verdict = by_id.pop(trajectory.id, None)
        if verdict is None:
            raise DataError(
                f"trajectory {trajectory.id!r} has no verdict (or occurs twice); the verdicts are "
                "of other trajectories than these: run verify again"
            )
        if verdict.reason == "accepted":
            yield trajectory
    if by_id:
        raise DataError(
            f"{len(by_id)} verdicts belong to no trajectory here, the first {next(iter(by_id))!r}; "
            "the verdicts are of other trajectories than these: run verify again"
        )


def require_accepted(
    verdicts: Iterable[Verdict], *, trajectories: Iterable[Trajectory] = ()
) -> None:
    """Raise DataError if no verdict is accepted, with the counts and what to do.

    trajectories: where given, the first wrong responses are shown beside their references.
    """
    reasons = {verdict.id: verdict.reason for verdict in verdicts}
    counts = Counter(reasons.values())
    if counts["accepted"]:
        return
    listed = ", ".join(f"{reason} {counts[reason]}" for reason in REASONS if counts[reason])
    lines = [
        f"the verifier accepted none of {len(reasons)} trajectories"
        f" ({listed or 'there are no verdicts'}): there is nothing to train on.",
        "Check that the verifier fits the answers' format and the prompts have a reference; "
        "raise decoding max_new_tokens if responses are truncated; take more prompts or a "
        'stronger model if they are wrong; or set the verifier\'s type to "accept_all".',
    ]
    for trajectory in _first_wrong(trajectories, reasons):
        response, reference = (
            text if len(text) <= _EXAMPLE_LENGTH else text[:_EXAMPLE_LENGTH] + "..."
            for text in (trajectory.response, trajectory.reference)
        )
        lines.append(f"  {reasons[trajectory.id]}: response {response!r}, reference {reference!r}")
    raise DataError("\n".join(lines))


def _first_wrong(
    trajectories: Iterable[Trajectory], reasons: dict[str, str]
) -> Iterator[Trajectory]:
    num_shown = 0
    for trajectory in trajectories:
        if num_shown == _NUM_EXAMPLES:
            return
        if trajectory.id in reasons:
            num_shown += 1
            yield trajectory
