"""Formulas: math-verify on a whole response, or our own verifier on its answer alone."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tabom.evaluation.tasks.judged import Verdict, side_by_side, verdict

if TYPE_CHECKING:
    from tabom.verify.math_pool import MathPool

Pair = tuple[str, str]  # response, gold answer
# For a whole response: above math-verify's own three limits of 5 s, so that its verdict stands.
_WHOLE_S = 20.0


def whole_response(pairs: Sequence[Pair]) -> list[Verdict]:
    """What the paper measures: anything in the response that math-verify takes for an answer."""

    def one(pair: Pair, pool: "MathPool") -> Verdict:
        response, gold = pair
        reason, answer = pool.compare(gold, response, is_whole=True)
        return verdict(answer, is_correct=reason == "accepted", reason=reason)

    return _in_pool(one, pairs, timeout_s=_WHOLE_S)


def stated_answer(pairs: Sequence[Pair]) -> list[Verdict]:
    """What our verifier takes: boxed, or behind "####" or "the answer is"; nothing else."""
    from tabom.verify.checker import Response
    from tabom.verify.symbolic import judge_math

    def one(pair: Pair, pool: "MathPool") -> Verdict:
        found = judge_math(Response(text=pair[0], reference=pair[1]), pool=pool)
        return verdict("", is_correct=found.is_accepted, reason=found.reason, detail=found.detail)

    return _in_pool(one, pairs)


def _in_pool(
    judge: Callable[[Pair, "MathPool"], Verdict], pairs: Sequence[Pair], timeout_s: float = 10.0
) -> list[Verdict]:
    """In processes that are killed when they hang, and that cannot take the machine's memory."""
    from tabom.verify.math_pool import MathPool

    num_workers = os.cpu_count() or 1
    pool = MathPool(num_workers=num_workers, timeout_s=timeout_s)
    try:
        return side_by_side(
            lambda pair: judge(pair, pool), pairs, num_threads=num_workers, what="formulas"
        )
    finally:
        pool.close()
