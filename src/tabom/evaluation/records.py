"""One record per evaluated response: written and read."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError
from tabom.core.place import Place, place, source
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.settings import Role

METRIC = "metric_"  # prefix of the columns of further metrics


class Pace(NamedTuple):
    """How fast a response was decoded: tokens a step, or a schedule by its name, such as
    "threshold 0.9"."""

    tokens_per_step: int
    schedule: str = ""

    @classmethod
    def of(cls, decoding: DecodingConfig) -> "Pace":
        """The pace that decoding settings set: under a threshold, tokens a step do not."""
        kind = decoding.schedule
        if kind == "fixed":
            return cls(decoding.tokens_per_step)
        if kind == "official":
            steps = "" if decoding.steps is None else f", {decoding.steps} steps"
            return cls(decoding.tokens_per_step, f"official{steps}")
        return cls(decoding.tokens_per_step, f"{kind} {getattr(decoding, kind):g}")

    def __str__(self) -> str:
        return self.schedule or str(self.tokens_per_step)

    @property
    def label(self) -> str:
        """In words: "2 tokens a step", "threshold 0.9"."""
        few = "1 token" if self.tokens_per_step == 1 else f"{self.tokens_per_step} tokens"
        return self.schedule or f"{few} a step"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """How one document of an evaluation set was answered at one pace: the columns of the file.

    set: name of the evaluation set. role: in_domain or out_of_domain. id: of the document, the same
    for every model. sample: number of the response where a document has several.
    tokens_per_step: slots revealed a model call, as configured. schedule: what set the pace where
    that did not.
    correct: 1 accepted, else 0.
    reason, detail: of the verdict. num_forwards: model calls. length: slots up to and including
    the first end token. tokens_per_forward: slots revealed over model calls. end_step: step that
    revealed the first end token, -1 if there is none. response: text. trajectory: its id, which is
    the key of its draws.
    metrics: further numbers, a column `metric_<name>` each; None where one does not apply.
    """

    set: str
    role: Role
    id: str
    sample: int = 0
    tokens_per_step: int
    schedule: str = ""
    correct: float
    reason: str
    detail: str = ""
    num_forwards: int
    length: int
    tokens_per_forward: float
    end_step: int
    response: str = ""
    trajectory: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def pace(self) -> Pace:
        return Pace(self.tokens_per_step, self.schedule)


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), Role: pa.string()}
_COLUMNS = {
    f.name: _TYPES[f.type] for f in dataclasses.fields(EvaluationRecord) if f.name != "metrics"
}


# What a comparison looks at: no texts.
SCORES = (
    "set", "role", "id", "sample", "tokens_per_step", "schedule", "correct", "num_forwards",
    "tokens_per_forward",
)  # fmt: skip


def to_table(records: Iterable[EvaluationRecord]) -> pa.Table:
    """Records as columns."""
    rows = [_flat(record) for record in records]
    # Sets have different metrics: a column is empty where a set has none of that name.
    metrics = sorted({name for row in rows for name in row if name.startswith(METRIC)})
    schema = pa.schema([*_COLUMNS.items(), *((name, pa.float64()) for name in metrics)])
    return pa.Table.from_pylist(rows, schema=schema)


def write_records(path: Place, records: Iterable[EvaluationRecord]) -> None:
    """Write records as one Parquet file, whole or not at all."""
    with replacing(path) as temporary:
        pq.write_table(to_table(records), temporary, compression="zstd")


def read_table(path: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """The columns of a file that `write_records` wrote. columns: some, with every metric; or all.

    Raises: DataError naming the file if it is missing or malformed.
    """
    path = place(path)
    try:
        with pq.ParquetFile(source(path)) as file:
            there = file.schema_arrow.names
            wanted = [n for n in there if columns is None or n in columns or n.startswith(METRIC)]
            table = file.read(columns=wanted)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as evaluation records ({error})") from error
    # Files of an older version lack columns.
    missing = [name for name in columns or _COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; evaluate again")
    return table


def read_records(path: Place) -> list[EvaluationRecord]:
    """The records of a file that `write_records` wrote.

    Raises: as `read_table`.
    """
    records = []
    for row in read_table(path).to_pylist():
        metrics = {k[len(METRIC) :]: v for k, v in row.items() if k.startswith(METRIC)}
        known = {name: row[name] for name in _COLUMNS}
        records.append(EvaluationRecord(**known, metrics=metrics))
    return records


def _flat(record: EvaluationRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _COLUMNS}
    return {**row, **{METRIC + name: value for name, value in record.metrics.items()}}
