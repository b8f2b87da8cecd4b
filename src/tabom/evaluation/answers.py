"""What one model answered on one set at one pace, as columns.

Legend: A answers, D documents; the answers of a document stand together, in the order of samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tabom.core.errors import DataError
from tabom.evaluation.records import METRIC, Pace
from tabom.evaluation.stats import Floats, pass_at_k

Cell = tuple[str, Pace]  # an evaluation set at one pace


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Documents in the order of their ids.

    id_D: text. start_D, size_D: the first answer of each document and how many it has.
    correct_A, num_forwards_A, tokens_per_forward_A: as in the records, float64.
    metrics: name -> `[A]`, NaN where a metric does not apply.
    """

    role: str
    id_D: NDArray[Any]
    start_D: NDArray[np.int64]
    size_D: NDArray[np.int64]
    correct_A: Floats
    num_forwards_A: Floats
    tokens_per_forward_A: Floats
    metrics: Mapping[str, Floats]

    @property
    def num_documents(self) -> int:
        return len(self.id_D)

    @property
    def num_samples(self) -> int:
        """Answers that every document has."""
        return int(self.size_D.min())

    @cached_property
    def first_D(self) -> Floats:
        """Whether the first answer to each document is right."""
        return self.correct_A[self.start_D]

    def solved(self, k: int) -> NDArray[np.bool_]:
        """Whether one of the first k answers to each document is right."""
        place_A = np.arange(len(self.correct_A)) - np.repeat(self.start_D, self.size_D)
        right_A = (self.correct_A > 0) & (place_A < k)
        return np.logical_or.reduceat(right_A, self.start_D)

    def asks_the_same(self, other: "Answers") -> bool:
        """Whether both answer the same documents."""
        return self.id_D is other.id_D or bool(np.array_equal(self.id_D, other.id_D))


Score = Callable[[Answers], Floats]  # of each document; NaN where it does not apply


def accuracy(answers: Answers) -> Floats:
    """The share of right answers."""
    total_D: Floats = np.add.reduceat(answers.correct_A, answers.start_D)
    return total_D / answers.size_D


def metric(name: str) -> Score:
    """The mean of a metric over the answers that have it."""

    def score(answers: Answers) -> Floats:
        value_A = answers.metrics.get(name)
        if value_A is None:
            return np.full(answers.num_documents, np.nan)
        known_A = ~np.isnan(value_A)
        total_D = np.add.reduceat(np.where(known_A, value_A, 0.0), answers.start_D)
        count_D = np.add.reduceat(known_A.astype(np.float64), answers.start_D)
        with np.errstate(invalid="ignore"):
            result: Floats = total_D / count_D
        return result

    return score


def pass_at(k: int) -> Score:
    """The chance that one of k samples is right, where there are as many."""

    def score(answers: Answers) -> Floats:
        right_D = np.add.reduceat((answers.correct_A == 1).astype(np.int64), answers.start_D)
        kinds, kind_D = np.unique(np.stack([answers.size_D, right_D]), axis=1, return_inverse=True)
        value = [pass_at_k(int(n), int(c), k) if n >= k else np.nan for n, c in kinds.T]
        return np.array(value)[kind_D.reshape(-1)]

    return score


def answers_of(table: pa.Table, *, where: str = "records") -> dict[Cell, Answers]:
    """The answers by set and pace, in the order in which these first stand in a table of records.

    where: what the table is, for messages.
    Raises: DataError if a sample of a document occurs twice.
    """
    if not len(table):
        return {}
    number = np.arange(len(table))
    names = ["set", "tokens_per_step", "schedule"]
    codes = [np.asarray(table[n].combine_chunks().dictionary_encode().indices) for n in names]
    code_A = codes[0].astype(np.int64)
    for code in codes[1:]:
        code_A = code_A * (int(code.max()) + 1) + code
    _, first, inverse = np.unique(code_A, return_index=True, return_inverse=True)
    found: dict[Cell, Answers] = {}
    for group in np.argsort(first):
        part = table.take(pa.array(number[inverse.reshape(-1) == group]))
        pace = Pace(part["tokens_per_step"][0].as_py(), part["schedule"][0].as_py())
        name = part["set"][0].as_py()
        found[name, pace] = _answers(part, where=f"{where}: {name!r}")
    return found


def _answers(part: pa.Table, *, where: str) -> Answers:
    part = part.sort_by([("id", "ascending"), ("sample", "ascending")])
    id_A = part["id"].to_numpy(zero_copy_only=False)
    sample_A = part["sample"].to_numpy()
    is_new_A = np.ones(len(id_A), dtype=bool)
    is_new_A[1:] = id_A[1:] != id_A[:-1]
    twice_A = ~is_new_A[1:] & (sample_A[1:] == sample_A[:-1])
    if twice_A.any():
        raise DataError(f"{where}: {id_A[1:][twice_A][0]!r} occurs twice")
    roles = part["role"].unique().to_pylist()
    if len(roles) > 1:
        raise DataError(f"{where} is both in and out of domain")
    start_D = np.flatnonzero(is_new_A)

    def column(name: str) -> Floats:
        values: Floats = part[name].cast(pa.float64()).to_numpy()
        return values

    return Answers(
        role=roles[0],
        id_D=id_A[start_D],
        start_D=start_D,
        size_D=np.diff(np.append(start_D, len(id_A))),
        correct_A=column("correct"),
        num_forwards_A=column("num_forwards"),
        tokens_per_forward_A=column("tokens_per_forward"),
        metrics={
            name.removeprefix(METRIC): column(name)
            for name in part.column_names
            if name.startswith(METRIC) and part[name].null_count < len(part)
        },
    )
