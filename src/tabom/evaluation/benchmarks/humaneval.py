"""HumanEval without examples, in the wording of the release's humaneval_instruct.

The answer is opened with the function's head, so a response usually goes on inside it.
"""

from collections.abc import Sequence
from typing import ClassVar

from tabom.evaluation.benchmark import Benchmark, Row
from tabom.evaluation.benchmarks._programs import FENCE, block_of, program_judge
from tabom.verify.checker import Checker, Response
from tabom.verify.extract import extract_function


class HumanEval(Benchmark):
    """Functions to be completed, with hidden tests."""

    name = "humaneval"
    hub = "openai/openai_humaneval"
    num_documents = 164
    columns: ClassVar = {"task_id": str, "prompt": str, "test": str, "entry_point": str}
    max_new_tokens = 768
    until = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def prompt(self, row: Row) -> str:
        task = "Write a solution to the following problem and make sure that it passes the tests:"
        return f"{task}\n{FENCE}{row['prompt']}"

    def opening(self, row: Row) -> str:
        return f"Here is the completed function:\n{FENCE}python\n{row['prompt']}\n"

    def question(self, row: Row) -> str:
        return str(row["prompt"])

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        return {"pass@1,create_test": program_judge("humaneval", completed, unsafe_exec)}


def completed(response: Response) -> str:
    """The prompt with the response behind it, up to the end of its code block."""
    row, body = response.row, block_of(response.text)
    name, head = str(row["entry_point"]), str(row["prompt"])
    # A response may go on inside the function, or write it anew; both are found.
    found = extract_function(f"{FENCE}python\n{body}\n{FENCE}\n", entry_point=name, prompt=head)
    return found.code if found.code.strip() else f"{head}\n{body}"


BENCHMARK = HumanEval()
