"""What a verifier said of each trajectory: kept beside the store, keyed by id.

Beside and not inside, so that verifying again never means collecting again.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError

REASONS = ("accepted", "wrong", "no_answer", "truncated", "unverifiable")

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "reason", "detail", "verifier")],
    metadata={b"tabom_verdicts": b"1"},
)


@dataclass(frozen=True)
class Verdict:
    """One trajectory's verdict.

    id: of the trajectory. reason: one of REASONS. detail: what was found, for a person.
    verifier: name and version of the checker.
    """

    id: str
    reason: str
    detail: str = ""
    verifier: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise DataError(
                f"verdict on {self.id!r}: reason {self.reason!r} is not one of {', '.join(REASONS)}"
            )

    @property
    def is_accepted(self) -> bool:
        return self.reason == "accepted"


def write_verdicts(path: str | os.PathLike[str], verdicts: Iterable[Verdict]) -> None:
    """Write the verdicts as one Parquet file, whole or not at all.

    Raises: DataError if an id has two verdicts.
    """
    rows = list(verdicts)
    seen: set[str] = set()
    for verdict in rows:
        if verdict.id in seen:
            raise DataError(f"{path}: two verdicts on {verdict.id!r}; one id has one verdict")
        seen.add(verdict.id)
    columns = [pa.array([getattr(v, f.name) for v in rows], type=f.type) for f in _SCHEMA]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), temporary, compression="zstd")


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, Verdict]:
    """The verdicts by id, in the file's order.

    Raises: DataError naming the file, and the row where one is at fault.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; verify the trajectories first")
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    if (table.schema.metadata or {}).get(b"tabom_verdicts") != b"1":
        raise DataError(f"{path}: not a verdict file of tabom (its metadata does not say so)")
    missing = [f.name for f in _SCHEMA if f.name not in table.column_names]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing")
    verdicts: dict[str, Verdict] = {}
    for i, row in enumerate(table.select(_SCHEMA.names).to_pylist()):
        holes = [name for name, value in row.items() if not isinstance(value, str)]
        if holes:
            raise DataError(f"{path}, row {i}, field {holes[0]!r}: expected text; verify again")
        if row["id"] in verdicts:
            raise DataError(f"{path}, row {i}, field 'id': {row['id']!r} occurs twice")
        try:
            verdicts[row["id"]] = Verdict(**row)
        except DataError as error:
            raise DataError(f"{path}, row {i}, field 'reason': {error}") from error
    return verdicts


def count_reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts gave each reason; every reason is there, also with 0."""
    counts = dict.fromkeys(REASONS, 0)
    for verdict in verdicts:
        counts[verdict.reason] += 1
    return counts
