"""Several samples of a document: their ids, pass@k, and their mean."""

import math
from collections.abc import Sequence
from dataclasses import replace

from tabom.core.errors import DataError
from tabom.evaluation.records import EvaluationRecord, Pace


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples is right.

    num_samples: n >= k drawn. num_correct: c of them right.
    Returns: 1 - C(n - c, k) / C(n, k). Raises: DataError for k > n or c outside [0, n].
    Source: Chen et al. 2021, eq. 1.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise DataError(
            f"pass@{k} of {num_correct} right in {num_samples} samples is not defined; draw at "
            "least k samples of each document"
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def collapse(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """One record a document: `correct`, costs and metrics are means over its samples.

    Documents are what an interval resamples; the samples of one are not independent of each other.
    """
    groups: dict[tuple[str, Pace, str], list[EvaluationRecord]] = {}
    for record in records:
        key = (record.set, record.pace, record.id)
        groups.setdefault(key, []).append(record)
    return [_mean(group) for group in groups.values()]


def _mean(group: Sequence[EvaluationRecord]) -> EvaluationRecord:
    if len(group) == 1:
        return group[0]
    metrics: dict[str, float | None] = {}
    for name in dict.fromkeys(name for r in group for name in r.metrics):
        known = [v for r in group if (v := r.metrics.get(name)) is not None]
        metrics[name] = sum(known) / len(known) if known else None
    return replace(
        group[0],
        sample=0,
        correct=sum(r.correct for r in group) / len(group),
        tokens_per_forward=sum(r.tokens_per_forward for r in group) / len(group),
        metrics=metrics,
    )
