"""From trajectories to verdicts, and from verdicts to the trajectories that training sees."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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


def accepted(
    trajectories: Iterable[Trajectory], verdicts: Mapping[str, Verdict]
) -> Iterator[Trajectory]:
    """The accepted trajectories, streamed in the order of `trajectories`.

    trajectories: a store, or any iterable. verdicts: by id, as `read_verdicts` gives them.
    Raises: DataError at once if no verdict is accepted; while streaming if a trajectory has no
        verdict, and at the end if a verdict has no trajectory.
    """
    require_accepted(verdicts, trajectories=trajectories)
    matched = _matched(trajectories, dict(verdicts))
    return (trajectory for trajectory, verdict in matched if verdict.is_accepted)


def judged(
    trajectories: Iterable[Trajectory], verdicts: Mapping[str, Verdict], *, in_groups: bool = False
) -> tuple[Iterator[Trajectory], dict[str, float]]:
    """All trajectories that were judged right or wrong, and the advantage of each by id.

    What could not be verified is left out: nothing is known of it. A response without an answer,
    or cut short, is wrong.
    trajectories: a store, or a list: it is read several times.
    in_groups: an advantage is the verdict (1 or 0) less its mean over the samples of the prompt;
        prompts whose samples are judged alike are left out. Else it is 1 or -1.
    Raises: as `accepted`.
    """
    require_accepted(verdicts, trajectories=trajectories)
    known = {k: v for k, v in verdicts.items() if v.reason != "unverifiable"}
    advantages = {key: 1.0 if verdict.is_accepted else -1.0 for key, verdict in known.items()}
    if in_groups:
        groups: dict[str, list[str]] = {}
        for t, _ in _matched(trajectories, dict(verdicts)):
            if t.id in known:
                groups.setdefault(t.prompt_ids.tobytes().hex(), []).append(t.id)
        advantages = {}
        for ids in groups.values():
            mean = sum(known[i].is_accepted for i in ids) / len(ids)
            if 0 < mean < 1:
                advantages |= {i: known[i].is_accepted - mean for i in ids}
        if not advantages:
            raise DataError(
                "no prompt has both a right and a wrong response, so none is better than the "
                "others; collect with num_samples above 1 and a temperature"
            )
    matched = _matched(trajectories, dict(verdicts))
    return (trajectory for trajectory, _ in matched if trajectory.id in advantages), advantages


def _matched(
    trajectories: Iterable[Trajectory], left: dict[str, Verdict]
) -> Iterator[tuple[Trajectory, Verdict]]:
    """Each trajectory with its verdict. left: the verdicts, which are taken out of it."""
    for trajectory in trajectories:
        verdict = left.pop(trajectory.id, None)
        if verdict is None:
            raise DataError(
                f"trajectory {trajectory.id!r} has no verdict (or occurs twice); the verdicts are "
                "of other trajectories than these: run verify again"
            )
        yield trajectory, verdict
    if left:
        raise DataError(
            f"{len(left)} verdicts belong to no trajectory here, the first {next(iter(left))!r}; "
            "the verdicts are of other trajectories than these: run verify again"
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
