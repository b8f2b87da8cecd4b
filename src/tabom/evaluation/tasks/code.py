"""Programs in a response, run against their tests in the sandbox."""

import os
from collections.abc import Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from tabom.evaluation.tasks.judged import Verdict, side_by_side, verdict
from tabom.verify.code import row_tests
from tabom.verify.extract import extract_function
from tabom.verify.sandbox.probe import open_sandbox
from tabom.verify.sandbox.run import Limits, Sandbox

UNSAFE: ContextVar[bool] = ContextVar("unsafe_exec", default=False)
UNSAFE_VARIABLE = "TABOM_UNSAFE_EXEC"  # for lm-eval's own command line, which has no flag for it
_FENCE = "```"

Job = tuple[str, list[str], str | None]  # program, tests, the function that they call


def sandbox() -> Sandbox:
    """The sandbox, tried once on this machine. Raises ConfigError where it does not hold."""
    return _open(UNSAFE.get() or os.environ.get(UNSAFE_VARIABLE) == "1")


@lru_cache(maxsize=2)
def _open(is_unsafe: bool) -> Sandbox:
    return open_sandbox(limits=Limits(), num_slots=os.cpu_count() or 1, is_unsafe=is_unsafe)


def humaneval(
    resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]
) -> list[list[Verdict]]:
    """The prompt with the response behind it, up to the end of its code block."""

    def job(response: str, doc: dict[str, Any]) -> Job:
        name = str(doc["entry_point"])
        # The response goes on in an open block, or opens one of its own.
        body = response.split(f"{_FENCE}python\n", 1)[-1].split(_FENCE)[0]
        found = extract_function(
            f"{_FENCE}python\n{body}\n{_FENCE}\n", entry_point=name, prompt=str(doc["prompt"])
        )
        code = found.code if found.code.strip() else f"{doc['prompt']}\n{body}"
        return code, [f"{doc['test']}\n\ncheck({name})\n"], name

    return _judge(resps, docs, job)


def mbpp(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[Verdict]]:
    """The response up to the end of its code block, against the list of asserts.

    A row's imports and setup run behind the program, before each assert: a setup may build what
    the program defines.
    """

    def job(response: str, doc: dict[str, Any]) -> Job:
        body = response.split(f"{_FENCE}python\n", 1)[-1].split(_FENCE)[0]
        return body, list(row_tests(doc).tests), None

    return _judge(resps, docs, job)


def _judge(resps: Any, docs: Any, job: Any) -> list[list[Verdict]]:
    jobs = [
        job(response, doc) for samples, doc in zip(resps, docs, strict=True) for response in samples
    ]
    box = sandbox()
    verdicts = iter(
        side_by_side(lambda one: _run(box, one), jobs, num_threads=box.num_slots, what="programs")
    )
    return [[next(verdicts) for _ in samples] for samples in resps]


def _run(box: Sandbox, job: Job) -> Verdict:
    code, tests, entry_point = job
    if not tests:
        return verdict(code, is_correct=False, reason="unverifiable", detail="the row has no tests")
    if not code.strip():
        return verdict(code, is_correct=False, reason="no_answer")
    outcome = box.run(code, kind="asserts", tests=tests, entry_point=entry_point)
    is_correct = outcome.state == "passed"
    reason = {"passed": "accepted", "bad_tests": "unverifiable", "not_started": "unverifiable"}
    return verdict(
        code,
        is_correct=is_correct,
        reason=reason.get(outcome.state, "wrong"),
        detail=outcome.detail,
    )
