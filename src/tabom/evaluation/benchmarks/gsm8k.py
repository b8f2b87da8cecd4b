"""GSM8K without examples, in the wording of the release's gsm8k_cot.

The paper's number is flexible-extract: the last thing in a response that looks like a number,
compared with the gold one as text. Patterns and what they pass over are lm-eval's.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from tabom.evaluation.benchmark import Benchmark, Row
from tabom.trajectory.verdicts import Verdict
from tabom.verify.checker import Checker, Response

STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


class GSM8K(Benchmark):
    """Word problems with one number as their answer."""

    name = "gsm8k"
    hub, config = "openai/gsm8k", "main"
    num_documents = 1319
    columns: ClassVar = {"question": str, "answer": str}
    max_new_tokens = 256
    until = ("Q:", "</s>", "<|im_end|>")

    def prompt(self, row: Row) -> str:
        return f"Q: {row['question']}\nA:"

    def reference(self, row: Row) -> str:
        return str(row["answer"]).split("####")[-1].strip()

    def judges(self, rows: Sequence[Row], *, unsafe_exec: bool = False) -> dict[str, Checker]:
        return {
            "exact_match,flexible-extract": Checker(
                name="gsm8k flexible-extract", judge=judge_last, needs_complete=False
            ),
            "exact_match,strict-match": Checker(
                name="gsm8k strict-match", judge=judge_stated, needs_complete=False
            ),
        }


def judge_last(response: Response) -> Verdict:
    """By the last thing in the text that looks like a number."""
    found = FLEXIBLE.findall(response.text)
    answer = next((text for text in found[-1] if text), "") if found else None
    return _compared(answer, response.reference)


def judge_stated(response: Response) -> Verdict:
    """By the first number behind "The answer is"."""
    found = STRICT.findall(response.text)
    return _compared(found[0] if found else None, response.reference)


def _compared(answer: str | None, gold: str) -> Verdict:
    if not any(character.isdigit() for character in gold):
        return Verdict("unverifiable", f"the gold answer {gold[:60]!r} is no number")
    if answer is None:
        return Verdict("no_answer")
    # As text, as lm-eval compares: "7" and "7.0" differ.
    is_equal = _normalised(answer.strip()) == _normalised(gold)
    return Verdict("accepted" if is_equal else "wrong", answer.strip()[:500])


def _normalised(text: str) -> str:
    """A number's text without thousands separators, dollar signs, "#### " and a final point."""
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


BENCHMARK = GSM8K()
