"""From the verdicts on a document's samples to the metrics that lm-eval averages.

Every filter of our tasks gives a verdict per sample: `{"answer", "correct", "reason"}`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

Verdict = dict[str, Any]
Item = TypeVar("Item")

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)  # no bar over what is judged


def verdict(answer: str, *, is_correct: bool, reason: str, **more: Any) -> Verdict:
    """A verdict on one sample. reason: accepted, wrong, no_answer, ..., with a text behind it."""
    return {"answer": answer, "correct": int(is_correct), "reason": reason, **more}


def side_by_side(
    judge: Callable[[Item], Verdict], items: Sequence[Item], *, num_threads: int, what: str
) -> list[Verdict]:
    """The verdicts on some items, in their order, under a bar; the work is done by processes."""
    # None: no bar where there is no terminal.
    bar = tqdm(total=len(items), desc=f"judge {what}", leave=False, disable=QUIET.get() or None)
    verdicts = []
    with bar, ThreadPoolExecutor(num_threads) as threads:
        for found in threads.map(judge, items):
            verdicts.append(found)
            bar.update()
    return verdicts


def share(results: Sequence[Sequence[Mapping[str, Any]]], key: str = "correct") -> float:
    """The share of right samples of one document."""
    samples = results[0]
    return sum(float(v[key]) for v in samples) / len(samples)


def exact_match(doc: Any, results: Any) -> dict[str, float]:
    """The share of samples whose number is the gold one."""
    return {"exact_match": share(results)}


def math_verify(doc: Any, results: Any) -> dict[str, float]:
    """The share of samples that math-verify (or the stricter filter) takes for right."""
    return {"math_verify": share(results)}


def pass_at_1(doc: Any, results: Any) -> dict[str, float]:
    """The share of samples that pass their tests, as HumanEval's metric is called."""
    return {"pass@1": share(results)}


def pass_at_1_underscored(doc: Any, results: Any) -> dict[str, float]:
    """The same as MBPP's metric is called."""
    return {"pass_at_1": share(results)}


def ifeval(doc: Any, results: Any) -> dict[str, Any]:
    """Whole prompts and single instructions, strictly and loosely."""
    return {
        "prompt_level_strict_acc": share(results, "strict"),
        "prompt_level_loose_acc": share(results, "correct"),
        "inst_level_strict_acc": [x for v in results[0] for x in v["each_strict"]],
        "inst_level_loose_acc": [x for v in results[0] for x in v["each_loose"]],
    }


def flat_mean(items: Sequence[Sequence[float]]) -> float:
    """The mean over all instructions of all documents."""
    flat = [float(x) for item in items for x in item]
    return sum(flat) / len(flat)
