"""The checkers by name, and the one door to them: is a response right?"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from tabom.core.configs import build
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.config import CheckerType, VerifierConfig


def judge(
    response: str,
    *,
    reference: str = "",
    kind: CheckerType = "math",
    ended: bool = True,
    row: Mapping[str, Any] | None = None,
    function: str | None = None,
) -> Verdict:
    """Whether one response is right: what every stage, evaluation set and task asks.

    reference: the gold answer. kind: a verifier's type. ended: whether the response has an end
    token; without one, an answer that reaches the end of the text may have been cut.
    row: the prompt's columns, such as the tests of a program. function: for kind function, its
    dotted path.
    """
    given = Response(text=response, reference=reference, row=row or {}, ended=ended)
    return _shared_checker(kind, function).judge_one(given)


@lru_cache(maxsize=16)
def _shared_checker(kind: CheckerType, function: str | None) -> Checker:
    return build_checker(VerifierConfig(type=kind, function=function))


def build_checker(config: VerifierConfig) -> Checker:
    """The checker that `config` describes. Raises ConfigError if its function is not found."""
    return CHECKERS[config.type](config)


def _exact(_: VerifierConfig) -> Checker:
    """Whole response against reference, whitespace normalised.

    An unequal response without an end token is truncated: it might have become right.
    """

    def judge(response: Response) -> Verdict:
        wanted, found = (" ".join(s.split()) for s in (response.reference, response.text))
        if not wanted:
            return Verdict("unverifiable", "the prompt has no reference")
        if not found:
            return Verdict("no_answer", "the response is empty")
        if found == wanted:
            return Verdict("accepted")
        if not response.ended:
            return Verdict("truncated", "no end token, and not the reference")
        return Verdict("wrong", f"wanted {wanted!r}")

    return Checker(name="exact", judge=judge)


def _number(_: VerifierConfig) -> Checker:
    from tabom.verify.number import judge_number

    return Checker(name="number", judge=judge_number)


def _math(config: VerifierConfig) -> Checker:
    from tabom.verify.math_pool import MathArgs, MathPool
    from tabom.verify.symbolic import judge_math

    args = build(MathArgs, config.args, where="verifier.args")
    num_workers = _num_workers(config)
    pool = MathPool(num_workers=num_workers, timeout_s=args.timeout_s)
    return Checker(
        name="math",
        judge=lambda response: judge_math(response, pool=pool),
        num_parallel=num_workers,
    )


def _code(config: VerifierConfig) -> Checker:
    from tabom.verify.code import CodeArgs, judge_code
    from tabom.verify.sandbox.probe import open_sandbox

    args = build(CodeArgs, config.args, where="verifier.args")
    num_workers = _num_workers(config)
    sandbox = open_sandbox(
        limits=args, num_slots=num_workers, python=args.python, is_unsafe=args.unsafe_exec
    )
    return Checker(
        name="code" if sandbox.is_shut else "code (no sandbox)",
        judge=lambda response: judge_code(response, sandbox=sandbox),
        num_parallel=num_workers,
    )


def _python(_: VerifierConfig) -> Checker:
    from tabom.verify.code import judge_python

    return Checker(name="python", judge=judge_python)


def _num_workers(config: VerifierConfig) -> int:
    """The setting, or the cores that this process may use."""
    if config.num_workers is not None:
        return config.num_workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _function(config: VerifierConfig) -> Checker:
    from tabom.verify.function import FunctionJudge

    return Checker(name=f"function:{config.function}", judge=FunctionJudge(config))


def _accept_all(_: VerifierConfig) -> Checker:
    return Checker(
        name="accept_all", judge=lambda response: Verdict("accepted"), needs_complete=False
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
