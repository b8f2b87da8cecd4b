"""What the two sets of programs share: the code block of a response, run against tests."""

import os
from collections.abc import Callable

from tabom.core.errors import DataError
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.code import judge_program
from tabom.verify.row_tests import row_tests
from tabom.verify.sandbox.probe import open_sandbox
from tabom.verify.sandbox.run import Limits

FENCE = "```"
Program = Callable[[Response], str]  # the code that is run for a response


def block_of(text: str) -> str:
    """The code of a response, which goes on in an open block or opens one of its own."""
    return text.split(f"{FENCE}python\n", 1)[-1].split(FENCE)[0]


def program_judge(name: str, program: Program, unsafe_exec: bool) -> Checker:
    """A judge that runs programs in the sandbox, which is tried first.

    Raises: ConfigError where the sandbox does not hold on this machine.
    """
    num_slots = os.cpu_count() or 1
    box = open_sandbox(limits=Limits(), num_slots=num_slots, is_unsafe=unsafe_exec)

    def judge(response: Response) -> Verdict:
        try:
            return judge_program(program(response), row_tests(response.row), sandbox=box)
        except DataError as error:
            return Verdict("unverifiable", str(error))

    return Checker(name=name, judge=judge, needs_complete=False, num_parallel=num_slots)
