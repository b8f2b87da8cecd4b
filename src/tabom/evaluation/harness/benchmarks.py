"""Our benchmarks behind lm-eval's own command line: what the task files call.

Documents, prompts and judges are those of `tabom.evaluation.benchmarks`; here they only change
their form. A filter gives every sample its numbers, and lm-eval averages them.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tabom.evaluation.benchmarks import get_benchmark
from tabom.verify.checker import Response

UNSAFE_VARIABLE = "TABOM_UNSAFE_EXEC"  # lm-eval's command line has no flag for it
_NAME, _PROMPT, _OPENING, _REFERENCE = (
    f"tabom_{what}" for what in ("benchmark", "prompt", "opening", "reference")
)

Numbers = dict[str, float]


def documents(*, benchmark: str, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
    """The documents of a benchmark for lm-eval, with what is asked beside their columns.

    data_dir: a folder with `<benchmark>.jsonl`; None takes the hub. Other keyword arguments are
        the task's metadata.
    Raises: DataError naming the file and the line; also if what judges them is not there, so that
        nothing is decoded in vain.
    """
    from datasets import Dataset

    found = get_benchmark(benchmark)
    rows = found.documents(data_dir)
    # What judges them is opened here only to see that it is there.
    found.judges(rows, unsafe_exec=_is_unsafe())
    asked = [
        {
            **row,
            _NAME: benchmark,
            _PROMPT: found.prompt(row),
            _OPENING: found.opening(row),
            _REFERENCE: found.reference(row),
        }
        for row in rows
    ]
    return {"test": Dataset.from_list(asked)}


def _judged(
    chosen: slice, resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]
) -> list[list[Numbers]]:
    """The numbers of every sample by some of a benchmark's judges, as a filter of lm-eval's."""
    benchmark = get_benchmark(str(docs[0][_NAME]))
    responses = [
        Response(text=text, reference=str(doc[_REFERENCE]), row=doc)
        for texts, doc in zip(resps, docs, strict=True)
        for text in texts
    ]
    numbers = [benchmark.numbers(response.row, response.text) for response in responses]
    judges = benchmark.judges(docs, unsafe_exec=_is_unsafe())
    for name in list(judges)[chosen]:
        verdicts = judges[name].judge_many(responses)
        for own, verdict in zip(numbers, verdicts, strict=True):
            own[name.split(",")[0]] = float(verdict.is_accepted)
    # lm-eval wants them as it gave the responses: a list of samples for each document.
    rest = iter(numbers)
    return [[next(rest) for _ in texts] for texts in resps]


first = partial(_judged, slice(0, 1))
second = partial(_judged, slice(1, 2))
every = partial(_judged, slice(None))


def means(doc: Any, results: Sequence[Sequence[Numbers]]) -> Numbers:
    """Each number of a document, averaged over its samples."""
    samples = results[0]
    return {name: sum(each[name] for each in samples) / len(samples) for name in samples[0]}


def instructions(doc: Any, results: Sequence[Sequence[Numbers]]) -> dict[str, Any]:
    """IFEval: whole prompts, and how many of a document's instructions were followed."""
    found = means(doc, results)
    pairs = {
        f"inst_level_{kind}_acc": (found.pop(f"instructions_{kind}"), found["instructions"])
        for kind in ("loose", "strict")
    }
    del found["instructions"]
    return {**found, **pairs}


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The share of all instructions of all documents that were followed."""
    return sum(followed for followed, _ in pairs) / sum(number for _, number in pairs)


def _is_unsafe() -> bool:
    return os.environ.get(UNSAFE_VARIABLE) == "1"
