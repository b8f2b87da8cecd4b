"""pass@k: what a model reaches within k samples, and what training moved beyond the base.

Legend: D documents.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tabom.core.errors import DataError
from tabom.evaluation.records import EvaluationRecord, Speed
from tabom.evaluation.stats import LEVEL, NUM_RESAMPLES, Interval, macro_interval, paired_interval

_MARK = "#"  # "document#3" is the fourth sample of a document; the first has no mark


def sample_id(document: str, sample: int) -> str:
    """The id of one sample's record."""
    return document if sample == 0 else f"{document}{_MARK}{sample}"


def split_id(id: str) -> tuple[str, int]:
    """The document and the sample number of a record's id."""
    document, mark, number = id.rpartition(_MARK)
    return (document, int(number)) if mark and number.isdigit() else (id, 0)


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


Tally = dict[str, tuple[int, int]]  # document -> samples, right ones


def tally(records: Iterable[EvaluationRecord]) -> Tally:
    """Samples and right answers of each document of one set at one speed."""
    counts: Tally = {}
    for record in records:
        document, _ = split_id(record.id)
        samples, right = counts.get(document, (0, 0))
        counts[document] = (samples + 1, right + int(record.correct))
    return counts


def collapse(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """One record a document: `correct`, costs and metrics are means over its samples.

    Documents are what an interval resamples; the samples of one are not independent of each other.
    """
    groups: dict[tuple[str, Speed, str], list[EvaluationRecord]] = {}
    for record in records:
        key = (record.set, record.speed, split_id(record.id)[0])
        groups.setdefault(key, []).append(record)
    return [_mean(document, group) for (_, _, document), group in groups.items()]


def _mean(document: str, group: Sequence[EvaluationRecord]) -> EvaluationRecord:
    if len(group) == 1:
        return group[0] if group[0].id == document else replace(group[0], id=document)
    metrics: dict[str, float | None] = {}
    for name in dict.fromkeys(name for r in group for name in r.metrics):
        known = [v for r in group if (v := r.metrics.get(name)) is not None]
        metrics[name] = sum(known) / len(known) if known else None
    return replace(
        group[0],
        id=document,
        correct=sum(r.correct for r in group) / len(group),
        tokens_per_forward=sum(r.tokens_per_forward for r in group) / len(group),
        metrics=metrics,
    )


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    """pass@k of one set. delta: to the base, paired by document; None where it has no k samples."""

    k: int
    value: Interval
    delta: Interval | None


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Which documents each of two models solves at least once.

    gained: the arm does within its samples, the base never within its own. lost: the reverse.
    both, neither. num_samples, num_base_samples: the least number a document.
    """

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    both: int
    neither: int
    num_samples: int
    num_base_samples: int


def pass_curve(
    arm: Tally,
    base: Tally | None = None,
    *,
    ks: Sequence[int] | None = None,
    level: float = LEVEL,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[PassAtK]:
    """pass@k against k, with bootstrap intervals over documents.

    ks: None takes the powers of two up to the least number of samples, and that number.
    """
    most = min(n for n, _ in arm.values())
    if ks is None:
        ks = sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most})
    if base is not None and base.keys() != arm.keys():
        raise DataError("the arm and the base have other documents; sample both on the same ones")
    documents = sorted(arm)
    curve = []
    for k in ks:
        own_D = [pass_at_k(*arm[d], k) for d in documents]
        options = {"level": level, "num_resamples": num_resamples, "seed": seed}
        delta = None
        if base is not None and all(base[d][0] >= k for d in documents):
            delta = paired_interval(own_D, [pass_at_k(*base[d], k) for d in documents], **options)  # type: ignore[arg-type]
        value = macro_interval([np.asarray(own_D)[None]], **options)  # type: ignore[arg-type]
        curve.append(PassAtK(k=k, value=value, delta=delta))
    return curve


def boundary(arm: Tally, base: Tally) -> Boundary:
    """Whether training reaches documents that the base never does (and loses others)."""
    if arm.keys() != base.keys():
        raise DataError("the arm and the base have other documents; sample both on the same ones")
    return Boundary(
        gained=tuple(d for d in sorted(arm) if arm[d][1] and not base[d][1]),
        lost=tuple(d for d in sorted(arm) if base[d][1] and not arm[d][1]),
        both=sum(bool(arm[d][1] and base[d][1]) for d in arm),
        neither=sum(not arm[d][1] and not base[d][1] for d in arm),
        num_samples=min(n for n, _ in arm.values()),
        num_base_samples=min(n for n, _ in base.values()),
    )


def has_samples(tallies: Mapping[str, Tally]) -> bool:
    """Whether any document was sampled more than once."""
    return any(n > 1 for counts in tallies.values() for n, _ in counts.values())
