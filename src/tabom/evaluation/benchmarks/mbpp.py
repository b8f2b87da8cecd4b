"""MBPP without examples, in the wording of the release's mbpp_instruct."""

from collections.abc import Sequence
from typing import ClassVar

from tabom.evaluation.benchmark import Benchmark, Row
from tabom.evaluation.benchmarks._programs import FENCE, block_of, program_judge
from tabom.verify.checker import Checker, Response


class MBPP(Benchmark):
    """Small functions, asked for in a sentence and with three asserts."""

    name = "mbpp"
    hub, config = "google-research-datasets/mbpp", "full"
    num_documents = 500
    columns: ClassVar = {"text": str, "test_list": list}
    optional = ("task_id", "test_setup_code", "test_imports")
    other_names: ClassVar = {"text": "prompt"}  # of the sanitized edition
    max_new_tokens = 1024
    until = (FENCE,)

    def prompt(self, row: Row) -> str:
        tests = "\n".join(row["test_list"][:3])
        return (
            "You are an expert Python programmer, and here is your task:\n"
            f"{row['text']}\nYour code should pass these tests:\n{tests}"
        )

    def opening(self, row: Row) -> str:
        return f"Here is the completed function:\n{FENCE}python\n"

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        return {"pass_at_1,none": program_judge("mbpp", program, unsafe_exec)}


def program(response: Response) -> str:
    """The response up to the end of its code block.

    A row's imports and setup run behind it, before each assert: a setup may build what the
    program defines.
    """
    return block_of(response.text)


BENCHMARK = MBPP()
