"""The checker for programs: a response is right if it passes its row's tests in the sandbox.

Three kinds of rows: `test_list` (MBPP: assert statements; `test_setup_code` and `test_imports` run
before them), `test` with `entry_point` (HumanEval: a `check(candidate)` function), and `tests`
(programs: a list of {input, output}).
"""

import textwrap
from dataclasses import dataclass

from tabom.core.errors import DataError
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Response
from tabom.verify.extract import (
    does_something,
    extract_function,
    extract_program,
    parses,
    python_texts,
)
from tabom.verify.row_tests import RowTests, row_tests
from tabom.verify.sandbox.run import Limits, Sandbox


@dataclass(frozen=True, kw_only=True)
class CodeArgs(Limits):
    """The `args` of a verifier of type code: the limits of the sandbox, and how it is opened."""

    python: str | None = None
    """The interpreter in the sandbox; null is the first that works."""
    unsafe_exec: bool = False
    """Run programs without a sandbox."""


def judge_code(given: Response, *, sandbox: Sandbox) -> Verdict:
    """The verdict on a response against its row's tests.

    Without an end token, code that reaches the end of the text and fails is truncated, not wrong.
    """
    try:
        tests = row_tests(given.row)
    except DataError as error:
        return Verdict("unverifiable", str(error))
    if not given.text.strip():
        return Verdict("no_answer", "the response is empty")
    if tests.kind == "programs":
        program = extract_program(given.text)
    else:
        prompt = str(given.row.get("prompt", ""))
        program = extract_function(given.text, entry_point=tests.entry_point, prompt=prompt)
    is_cut = program.is_open and not given.ended
    if is_cut and not (program.code.strip() and parses(program.code)):
        return Verdict("truncated", "no end token, and no code that compiles")
    verdict = judge_program(program.code, tests, sandbox=sandbox)
    if is_cut and verdict.reason == "wrong":
        return Verdict("truncated", verdict.detail)
    return verdict


def judge_program(code: str, tests: RowTests, *, sandbox: Sandbox) -> Verdict:
    """The verdict on a program that has been taken out of its response."""
    if not code.strip():
        return Verdict("no_answer", "no code in the response")
    outcome = sandbox.run(
        code,
        kind=tests.kind,
        tests=tests.tests,
        entry_point=tests.entry_point,
        setup=tests.setup,
    )
    if outcome.state == "passed":
        return Verdict("accepted", f"{tests.number} tests")
    if outcome.state == "not_started":
        return Verdict("unverifiable", f"the sandbox did not start: {outcome.detail}")
    return Verdict("unverifiable" if outcome.state == "bad_tests" else "wrong", outcome.detail)


def judge_python(given: Response) -> Verdict:
    """The verdict on a response to a row without tests: it ended, and its Python code parses.

    Nothing is run. Says that a response is whole, not that it is right.
    """
    response, has_end = given.text, given.ended
    if not response.strip():
        return Verdict("no_answer", "the response is empty")
    if not has_end:
        return Verdict("truncated", "no end token")
    texts = python_texts(response)
    if not any(map(does_something, texts)):
        if texts:
            return Verdict("wrong", "no Python block is a program")
        return Verdict("no_answer", "no Python code in the response")
    # An excerpt may be indented.
    broken = [i for i, text in enumerate(texts, 1) if not parses(textwrap.dedent(text))]
    if broken:
        return Verdict("wrong", f"Python block {broken[0]} of {len(texts)} does not compile")
    return Verdict("accepted", f"{len(texts)} Python block" + ("" if len(texts) == 1 else "s"))
