"""Checkers: is a response right? One verdict, with its reason, for every trajectory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tabom.core.errors import DataError
from tabom.core.hooks import load_function
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict
from tabom.verify.config import VerifierConfig
from tabom.verify.number import judge_number

Judgement = tuple[str, str]  # reason, detail
Judge = Callable[[Trajectory, bool], Judgement]  # (trajectory, has an end token)


@dataclass(frozen=True, kw_only=True)
class Checker:
    """Judges trajectories. name: what a verdict records as its verifier."""

    name: str
    judge: Judge
    needs_complete: bool = True

    def __call__(self, trajectory: Trajectory, *, mask_id: int, end_ids: Sequence[int]) -> Verdict:
        """The verdict on one response.

        mask_id: the id that a slot never revealed holds. end_ids: every id that ends a response.
        A response with a masked slot before its end is truncated whatever its text says: the text
        leaves masked slots out, so a hole could otherwise pass for a right answer.
        """
        has_end, num_holes = _ending(trajectory, mask_id=mask_id, end_ids=end_ids)
        if self.needs_complete and num_holes:
            reason, detail = "truncated", f"{num_holes} slots before the end were never revealed"
        else:
            reason, detail = self.judge(trajectory, has_end)
        return Verdict(id=trajectory.id, reason=reason, detail=detail, verifier=self.name)


def build_checker(config: VerifierConfig) -> Checker:
    """The checker that `config` describes. Raises ConfigError if its function is not found."""
    return CHECKERS[config.type](config)


def row_of(trajectory: Trajectory) -> dict[str, Any]:
    """The prompt row as a task's function sees it: prompt, reference, task and further columns."""
    own = {
        "prompt": trajectory.prompt,
        "reference": trajectory.reference,
        "task": trajectory.task,
    }
    return {**own, **trajectory.row}


def _ending(trajectory: Trajectory, *, mask_id: int, end_ids: Sequence[int]) -> tuple[bool, int]:
    """Whether there is an end token, and the number of masked slots before it."""
    num_holes = 0
    for token in trajectory.response_ids_N.tolist():
        if token in end_ids:
            return True, num_holes
        num_holes += token == mask_id
    return False, num_holes


def _exact(_: VerifierConfig) -> Checker:
    """Whole response against reference, whitespace normalised.

    An unequal response without an end token is truncated: it might have become right.
    """

    def judge(trajectory: Trajectory, has_end: bool) -> Judgement:
        wanted, found = (" ".join(s.split()) for s in (trajectory.reference, trajectory.response))
        if not wanted:
            return "unverifiable", "the prompt has no reference"
        if not found:
            return "no_answer", "the response is empty"
        if found == wanted:
            return "accepted", ""
        if not has_end:
            return "truncated", "no end token, and not the reference"
        return "wrong", f"wanted {wanted!r}"

    return Checker(name="exact", judge=judge)


def _number(_: VerifierConfig) -> Checker:
    def judge(trajectory: Trajectory, has_end: bool) -> Judgement:
        return judge_number(trajectory.response, reference=trajectory.reference, has_end=has_end)

    return Checker(name="number", judge=judge)


def _function(config: VerifierConfig) -> Checker:
    """A function of the user's.

    An exception in it makes the row unverifiable (one odd row must not end a long run); an answer
    that is no (reason, detail) is an error, since it would be one for every row.
    """
    path = str(config.function)
    function = load_function(path)

    def judge(trajectory: Trajectory, has_end: bool) -> Judgement:
        try:
            answer = function(response=trajectory.response, row=row_of(trajectory), **config.args)
        except Exception as error:
            return "unverifiable", f"{path} raised {type(error).__name__}: {error}"
        if (
            not isinstance(answer, (tuple, list))
            or len(answer) != 2
            or answer[0] not in REASONS
            or not isinstance(answer[1], str)
        ):
            raise DataError(
                f"verifier {path} returned {answer!r} for trajectory {trajectory.id!r}; expected "
                f"(reason, detail): a reason of {', '.join(REASONS)}, and a text"
            )
        reason, detail = answer
        if reason == "no_answer" and not has_end:
            return "truncated", f"no end token; {detail}" if detail else "no end token"
        return reason, detail

    return Checker(name=f"function:{path}", judge=judge)


def _accept_all(_: VerifierConfig) -> Checker:
    return Checker(
        name="accept_all", judge=lambda trajectory, has_end: ("accepted", ""), needs_complete=False
    )


# A new checker (a symbolic one for mathematics, a sandbox for code) is one more row.
CHECKERS: dict[str, Callable[[VerifierConfig], Checker]] = {
    "exact": _exact,
    "number": _number,
    "function": _function,
    "accept_all": _accept_all,
}
