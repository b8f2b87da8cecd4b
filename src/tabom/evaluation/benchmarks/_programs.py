"""What the two sets of programs share: the code block of a response, run against tests."""

import os
from collections.abc import Callable, Sequence

from tabom.evaluation.benchmark import JudgeOptions
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.sandbox.probe import open_sandbox
from tabom.verify.sandbox.run import Limits

FENCE = "```"
Program = tuple[str, Sequence[str], str | None]  # code, tests, the function that they call


def block_of(text: str) -> str:
    """The code of a response, which goes on in an open block or opens one of its own."""
    return text.split(f"{FENCE}python\n", 1)[-1].split(FENCE)[0]


def program_judge(
    name: str, program: Callable[[Response], Program], options: JudgeOptions
) -> Checker:
    """A judge that runs programs in the sandbox, which is tried first.

    program: what is run for a response.
    Raises: ConfigError where the sandbox does not hold on this machine.
    """
    num_slots = options.num_workers or os.cpu_count() or 1
    box = open_sandbox(limits=Limits(), num_slots=num_slots, is_unsafe=options.unsafe_exec)

    def judge(response: Response) -> Verdict:
        code, tests, entry_point = program(response)
        if not tests:
            return Verdict("unverifiable", "the row has no tests")
        if not code.strip():
            return Verdict("no_answer")
        outcome = box.run(code, kind="asserts", tests=tests, entry_point=entry_point)
        reasons = {"passed": "accepted", "bad_tests": "unverifiable", "not_started": "unverifiable"}
        return Verdict(reasons.get(outcome.state, "wrong"), outcome.detail)

    return Checker(name=name, judge=judge, needs_complete=False, num_parallel=num_slots)
