"""One record per evaluated response: written, read and summed up."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError
from tabom.evaluation.stats import LEVEL, Estimate, wilson_interval

Role = Literal["in_domain", "out_of_domain"]
_METRIC = "metric_"  # prefix of the columns of further metrics


class Pace(NamedTuple):
    """How fast a response was decoded: tokens a step, or a schedule by its name, such as
    "threshold 0.9"."""

    tokens_per_step: int
    schedule: str = ""

    def __str__(self) -> str:
        return self.schedule or str(self.tokens_per_step)

    @property
    def label(self) -> str:
        """In words: "2 tokens a step", "threshold 0.9"."""
        few = "1 token" if self.tokens_per_step == 1 else f"{self.tokens_per_step} tokens"
        return self.schedule or f"{few} a step"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """How one prompt of an evaluation set was answered at one pace.

    set: name of the evaluation set. role: in_domain or out_of_domain. id: of the request.
    tokens_per_step: slots revealed a model call, as configured.
    correct: 1 accepted, else 0; between them only where `passk.collapse` made one record of
    several samples.
    reason, detail: of the verdict. num_forwards: model calls. length: slots up to and including
    the first end token. tokens_per_forward: slots revealed over model calls. end_step: step that
    revealed the first end token, -1 if there is none. response: text.
    metrics: further numbers; None where one does not apply.
    schedule: only where several schedules are compared, told by the evaluation manifests: no column
    of the file.
    """

    set: str
    role: Role
    id: str
    tokens_per_step: int
    correct: float
    reason: str
    detail: str = ""
    num_forwards: int
    length: int
    tokens_per_forward: float
    end_step: int
    response: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    schedule: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise DataError(
                f"evaluation set {self.set!r}: role {self.role!r} is not one of "
                f"{', '.join(get_args(Role))}"
            )

    @property
    def pace(self) -> Pace:
        return Pace(self.tokens_per_step, self.schedule)


_NO_COLUMN = ("metrics", "schedule")
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), Role: pa.string()}
_FIELDS = {f.name: f.type for f in dataclasses.fields(EvaluationRecord) if f.name not in _NO_COLUMN}


def write_records(path: str | Path, records: Iterable[EvaluationRecord]) -> None:
    """Write records, whole or not at all: `.parquet`, or `.jsonl` with one record a line.

    Raises: DataError for another suffix, or if a (set, pace, id) occurs twice.
    """
    path, rows = Path(path), [_flat(record) for record in _unique(records, str(path))]
    names = sorted({name for row in rows for name in row if name.startswith(_METRIC)})
    if path.suffix == ".jsonl":
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    elif path.suffix == ".parquet":
        schema = pa.schema(
            [(name, _TYPES[kind]) for name, kind in _FIELDS.items()]
            + [(name, pa.float64()) for name in names]
        )
        with replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")
    else:
        raise DataError(f"{path}: records are written as .parquet or .jsonl; choose one of them")


def read_records(path: str | Path) -> list[EvaluationRecord]:
    """The records of a file that `write_records` wrote.

    Raises: DataError naming file and row if it is missing or malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run evaluate first")
    try:
        if path.suffix == ".jsonl":
            # Not splitlines: that also splits at characters which a response may hold.
            lines = path.read_text(encoding="utf-8").split("\n")
            rows = [json.loads(line) for line in lines if line]
        else:
            rows = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as evaluation records ({error})") from error
    records = []
    for number, row in enumerate(rows):
        missing = [name for name in _FIELDS if name not in row]
        if missing:
            raise DataError(f"{path}, row {number}: no {missing[0]!r}; evaluate again")
        known = {name: row[name] for name in _FIELDS}
        metrics = {k[len(_METRIC) :]: v for k, v in row.items() if k.startswith(_METRIC)}
        records.append(EvaluationRecord(**known, metrics=metrics))
    return list(_unique(records, str(path)))


def _flat(record: EvaluationRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _FIELDS}
    return {**row, **{_METRIC + name: value for name, value in record.metrics.items()}}


def _unique(records: Iterable[EvaluationRecord], where: str) -> Iterable[EvaluationRecord]:
    seen: set[tuple[str, int, str]] = set()
    for record in records:
        key = (record.set, record.tokens_per_step, record.id)
        if key in seen:
            raise DataError(
                f"{where}: {record.id!r} of set {record.set!r} occurs twice at "
                f"{record.tokens_per_step} tokens a step; each prompt is answered once"
            )
        seen.add(key)
        yield record


@dataclass(frozen=True, kw_only=True)
class SetSummary:
    """One set at one pace. Means are over its documents.

    accuracy: share of accepted responses with Wilson's interval. reasons: counts of the verdicts.
    metrics: means over the documents to which the metric applies, left out where there is none.
    """

    set: str
    role: Role
    pace: Pace
    num_documents: int
    accuracy: Estimate
    reasons: dict[str, int]
    num_forwards: float
    tokens_per_forward: float
    length: float
    metrics: dict[str, float]

    @property
    def tokens_per_step(self) -> int:
        return self.pace.tokens_per_step


def summarize(records: Sequence[EvaluationRecord], *, level: float = LEVEL) -> list[SetSummary]:
    """One summary per (set, pace), in the order in which they first occur."""
    groups: dict[tuple[str, Pace], list[EvaluationRecord]] = {}
    for record in records:
        groups.setdefault((record.set, record.pace), []).append(record)
    return [_summary(group, level) for group in groups.values()]


def _summary(group: Sequence[EvaluationRecord], level: float) -> SetSummary:
    values: dict[str, list[float]] = {}
    for record in group:
        for name, value in record.metrics.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    num = len(group)
    return SetSummary(
        set=group[0].set,
        role=group[0].role,
        pace=group[0].pace,
        num_documents=num,
        accuracy=wilson_interval(round(sum(r.correct for r in group)), num, level=level),
        reasons=dict(Counter(r.reason for r in group)),
        num_forwards=sum(r.num_forwards for r in group) / num,
        tokens_per_forward=sum(r.tokens_per_forward for r in group) / num,
        length=sum(r.length for r in group) / num,
        metrics={name: sum(v) / len(v) for name, v in values.items()},
    )
