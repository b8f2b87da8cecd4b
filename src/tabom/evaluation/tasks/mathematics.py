"""Formulas: math-verify on a whole response, or our own verifier on its answer alone."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tabom.core.errors import ConfigError
from tabom.evaluation.tasks.judged import Verdict, verdict

Pair = tuple[str, str]  # response, gold answer


def whole_response(pairs: Sequence[Pair]) -> list[Verdict]:
    """What the paper measures: anything in the response that math-verify takes for an answer."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ConfigError(
            f"formulas are compared with math-verify ({error}): pip install 'tabom[eval]'"
        ) from error
    verdicts = []
    for response, gold in pairs:
        wanted, found = parse(f"${gold}$"), parse(response)
        if not wanted:
            verdicts.append(verdict("", is_correct=False, reason="unverifiable"))
        elif not found:
            verdicts.append(verdict("", is_correct=False, reason="no_answer"))
        else:
            is_correct = bool(verify(wanted, found))
            reason = "accepted" if is_correct else "wrong"
            verdicts.append(verdict(str(found[-1]), is_correct=is_correct, reason=reason))
    return verdicts


def stated_answer(pairs: Sequence[Pair]) -> list[Verdict]:
    """What our verifier takes: boxed, or behind "####" or "the answer is"; nothing else."""
    from tabom.verify.math_pool import MathPool
    from tabom.verify.symbolic import judge_math

    num_workers = os.cpu_count() or 1
    pool = MathPool(num_workers=num_workers)

    def one(pair: Pair) -> Verdict:
        reason, detail = judge_math(pair[0], reference=pair[1], has_end=True, pool=pool)
        return verdict("", is_correct=reason == "accepted", reason=reason, detail=detail)

    try:
        with ThreadPoolExecutor(num_workers) as threads:
            return list(threads.map(one, pairs))
    finally:
        pool.close()
