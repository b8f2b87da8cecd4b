"""Checkers: is a response right? One verdict, with its reason, for every trajectory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tabom.core.errors import ConfigError, DataError
from tabom.core.hooks import load_function
from tabom.trajectory.record import Trajectory
from tabom.trajectory.verdicts import REASONS, Verdict
from tabom.verify.config import VerifierConfig
from tabom.verify.number import judge_number

Judgement = tuple[str, str]  # reason, detail
Judge = Callable[[Trajectory, bool], Judgement]  # (trajectory, has an end token)


@dataclass(frozen=True, kw_only=True)
class Checker:
    """Judges trajectories.

    name: what a verdict records as its verifier. judge: the judgement on one response.
    num_parallel: how many judgements may be asked for at a time, each from a thread of its own;
    the work itself is then done by other processes.
    """

    name: str
    judge: Judge
    needs_complete: bool = True
    num_parallel: int = 1

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

    def verify_many(
        self, trajectories: Iterable[Trajectory], *, mask_id: int, end_ids: Sequence[int]
    ) -> Iterator[Verdict]:
        """The verdicts on many responses, in their order, as they come; side by side where it can.

        trajectories: any iterable; a few more than are at work are held at a time.
        """
        if self.num_parallel == 1:
            for trajectory in trajectories:
                yield self(trajectory, mask_id=mask_id, end_ids=end_ids)
            return
        waiting: deque[Future[Verdict]] = deque()
        pool = ThreadPoolExecutor(self.num_parallel, thread_name_prefix="verify")
        try:
            for trajectory in trajectories:
                waiting.append(pool.submit(self, trajectory, mask_id=mask_id, end_ids=end_ids))
                if len(waiting) >= 4 * self.num_parallel:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


def _math(config: VerifierConfig) -> Checker:
    from tabom.verify.math_pool import MathPool
    from tabom.verify.symbolic import judge_math

    unknown = sorted(set(config.args) - {"timeout_s"})
    timeout_s = config.args.get("timeout_s", 10.0)
    if unknown or not isinstance(timeout_s, int | float) or timeout_s <= 0:
        raise ConfigError(
            f"verifier.args of type math: expected timeout_s alone, seconds above 0, got "
            f"{config.args}"
        )
    num_workers = _num_workers(config)
    pool = MathPool(num_workers=num_workers, timeout_s=timeout_s)

    def judge(trajectory: Trajectory, has_end: bool) -> Judgement:
        return judge_math(
            trajectory.response, reference=trajectory.reference, has_end=has_end, pool=pool
        )

    return Checker(name="math", judge=judge, num_parallel=num_workers)


def _code(config: VerifierConfig) -> Checker:
    from tabom.verify.code import code_settings, judge_code
    from tabom.verify.sandbox.probe import open_sandbox

    settings, num_workers = code_settings(config.args), _num_workers(config)
    sandbox = open_sandbox(
        limits=settings.limits,
        num_slots=num_workers,
        python=settings.python,
        is_unsafe=settings.unsafe_exec,
    )

    def judge(trajectory: Trajectory, has_end: bool) -> Judgement:
        return judge_code(
            trajectory.response, row=row_of(trajectory), has_end=has_end, sandbox=sandbox
        )

    name = "code" if sandbox.is_shut else "code (no sandbox)"
    return Checker(name=name, judge=judge, num_parallel=num_workers)


def _python(_: VerifierConfig) -> Checker:
    from tabom.verify.code import judge_python

    return Checker(
        name="python",
        judge=lambda trajectory, has_end: judge_python(trajectory.response, has_end=has_end),
    )


def _num_workers(config: VerifierConfig) -> int:
    """The setting, or the cores that this process may use."""
    if config.num_workers is not None:
        return config.num_workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


# A new checker is one more row.
CHECKERS: dict[str, Callable[[VerifierConfig], Checker]] = {
    "exact": _exact,
    "number": _number,
    "math": _math,
    "code": _code,
    "python": _python,
    "function": _function,
    "accept_all": _accept_all,
}
