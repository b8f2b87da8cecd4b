"""Numbers and formulas in a response, as the paper's evaluation takes them."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from tabom.evaluation.tasks import mathematics
from tabom.evaluation.tasks.judged import Verdict, verdict

STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


def strict(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[Verdict]]:
    """The first number behind "The answer is"."""
    return [
        [_number(_first(response), doc) for response in samples]
        for samples, doc in zip(resps, docs, strict=True)
    ]


def flexible(resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[Verdict]]:
    """The last thing in the text that looks like a number."""
    return [
        [_number(_last(response), doc) for response in samples]
        for samples, doc in zip(resps, docs, strict=True)
    ]


def math_whole(
    resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]
) -> list[list[Verdict]]:
    """math-verify on the whole response, against the gold answer."""
    return _formulas(mathematics.whole_response, resps, docs)


def math_stated(
    resps: Sequence[Sequence[str]], docs: Sequence[dict[str, Any]]
) -> list[list[Verdict]]:
    """The answer that the response states as such, against the gold answer."""
    return _formulas(mathematics.stated_answer, resps, docs)


def _formulas(
    judge: Callable[[Sequence[mathematics.Pair]], list[Verdict]],
    resps: Sequence[Sequence[str]],
    docs: Sequence[dict[str, Any]],
) -> list[list[Verdict]]:
    flat = [
        (response, str(doc["answer"]))
        for samples, doc in zip(resps, docs, strict=True)
        for response in samples
    ]
    verdicts = iter(judge(flat))
    return [[next(verdicts) for _ in samples] for samples in resps]


def normalised(text: str) -> str:
    """A number's text without thousands separators, dollar signs, "#### " and a final point."""
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()


def _first(response: str) -> str | None:
    found = STRICT.findall(response)
    return found[0].strip() if found else None


def _last(response: str) -> str | None:
    found = FLEXIBLE.findall(response)
    if not found:
        return None
    return next((text for text in found[-1] if text), "").strip()


def _number(answer: str | None, doc: dict[str, Any]) -> Verdict:
    gold = str(doc["answer"]).split("####")[-1].strip()
    if not any(character.isdigit() for character in gold):
        detail = f"the gold answer {gold[:60]!r} is no number"
        return verdict("", is_correct=False, reason="unverifiable", detail=detail)
    if answer is None:
        return verdict("", is_correct=False, reason="no_answer")
    is_correct = normalised(answer) == normalised(gold)
    return verdict(answer, is_correct=is_correct, reason="accepted" if is_correct else "wrong")
