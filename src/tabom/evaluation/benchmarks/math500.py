"""MATH500 without examples, in the wording of minerva_math.

The paper's number is math-verify on the whole response: whatever in it math-verify takes for an
answer. `stated` is stricter: the answer must be boxed or named as such, as the verifier that
training uses demands.
"""

from collections.abc import Sequence
from typing import ClassVar

from tabom.evaluation.benchmark import Benchmark, Row
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig

# Above math-verify's own three limits of 5 s, so that its verdict stands.
WHOLE_S = 20.0


class MATH500(Benchmark):
    """Competition problems whose answers are formulas."""

    name = "math500"
    hub = "HuggingFaceH4/MATH-500"
    num_documents = 500
    columns: ClassVar = {"problem": str, "answer": str}
    optional = ("solution",)
    max_new_tokens = 512
    until = ("Problem:",)

    def prompt(self, row: Row) -> str:
        return f"Problem:\n{row['problem']}\n\nSolution:"

    def reference(self, row: Row) -> str:
        return str(row["answer"])

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        stated = build_checker(VerifierConfig(type="math"))
        return {
            "math_verify,none": whole_response(num_workers=stated.num_parallel),
            "math_verify,stated": stated,
        }


def whole_response(*, num_workers: int) -> Checker:
    """math-verify on whole responses, in processes that can be killed."""
    from tabom.verify.math_pool import MathPool

    pool = MathPool(num_workers=num_workers, timeout_s=WHOLE_S)

    def judge(response: Response) -> Verdict:
        reason, answer = pool.compare(response.reference, response.text, is_whole=True)
        return Verdict(reason, answer[:500])

    return Checker(name="math-verify", judge=judge, needs_complete=False, num_parallel=num_workers)


BENCHMARK = MATH500()
