"""What a verifier said of each trajectory: kept beside the store, keyed by id.

Beside and not inside, so that verifying again never means collecting again.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tabom.core.atomic import replacing
from tabom.core.errors import DataError
from tabom.core.place import Place, place, source

REASONS = ("accepted", "wrong", "no_answer", "truncated", "unverifiable")

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "reason", "detail", "verifier")],
    metadata={b"tabom_verdicts": b"1"},
)


@dataclass(frozen=True)
class Verdict:
    """What was said of one response; whose it is, the table that holds it says.

    reason: one of REASONS. detail: what was found, for a person; half characters, which no file
    can hold, are replaced in it. verifier: the checker's name.
    """

    reason: str
    detail: str = ""
    verifier: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise DataError(f"verdict: reason {self.reason!r} is not one of {', '.join(REASONS)}")
        readable = self.detail.encode("utf-8", "replace").decode()
        object.__setattr__(self, "detail", readable)

    @property
    def is_accepted(self) -> bool:
        return self.reason == "accepted"


class VerdictLog:
    """Verdicts as they come, one line each, so that a run that is stopped keeps what it judged.

    path: a JSON Lines file; the verdicts in it are read when it is opened. A last line that was
    torn is dropped, and its trajectory judged again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.verdicts: dict[str, Verdict] = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab+")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                key = entry.pop("id")
                self.verdicts[key] = Verdict(**entry)
            except (ValueError, TypeError, KeyError, AttributeError, DataError):
                break
            whole += len(line)
        # Whatever follows a damaged line is written again.
        self._file.truncate(whole)

    def append(self, key: str, verdict: Verdict) -> None:
        """Keep one verdict; it is with the operating system when this returns."""
        self._file.write(json.dumps({"id": key, **asdict(verdict)}).encode() + b"\n")
        self._file.flush()
        self.verdicts[key] = verdict

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file. remove: it has been replaced by a table."""
        self._file.close()
        if remove:
            self._path.unlink(missing_ok=True)


def to_json(verdicts: Mapping[str, Verdict]) -> bytes:
    """Verdicts by id as JSON, for a part of a verification that several share."""
    return json.dumps({key: asdict(verdict) for key, verdict in verdicts.items()}).encode()


def from_json(data: bytes) -> dict[str, Verdict]:
    """What `to_json` wrote."""
    return {key: Verdict(**said) for key, said in json.loads(data).items()}


def write_verdicts(path: Place, verdicts: Mapping[str, Verdict]) -> None:
    """Write the verdicts of some trajectories, by id, as one Parquet file: whole or not at all."""
    rows = [{"id": key, **asdict(verdict)} for key, verdict in verdicts.items()]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")


def read_verdicts(path: Place) -> dict[str, Verdict]:
    """The verdicts by id, in the file's order. Raises: as `read_verdict_table`."""
    rows = read_verdict_table(path).to_pylist()
    return {row.pop("id"): Verdict(**row) for row in rows}


def read_verdict_table(path: Place) -> pa.Table:
    """The verdicts as text columns id, reason, detail and verifier, in the file's order.

    Raises: DataError naming the file, and the row where one is at fault.
    """
    path = place(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; verify the trajectories first")
    try:
        with pq.ParquetFile(source(path)) as file:
            table = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    if (table.schema.metadata or {}).get(b"tabom_verdicts") != b"1":
        raise DataError(f"{path}: not a verdict file of tabom (its metadata does not say so)")
    missing = [f.name for f in _SCHEMA if f.name not in table.column_names]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing")
    table = table.select(_SCHEMA.names)
    for name, column in zip(_SCHEMA.names, table.columns, strict=True):
        is_hole = column.is_null() if pa.types.is_string(column.type) else pa.array([True])
        if (row := pc.index(is_hole, True).as_py()) >= 0:
            raise DataError(f"{path}, row {row}, field {name!r}: expected text; verify again")
    is_strange = pc.invert(pc.is_in(table["reason"], value_set=pa.array(REASONS)))
    if (row := pc.index(is_strange, True).as_py()) >= 0:
        try:
            Verdict(table["reason"][row].as_py())
        except DataError as error:
            raise DataError(f"{path}, row {row}, field 'reason': {error}") from error
    if pc.count_distinct(table["id"]).as_py() < len(table):
        first: dict[str, int] = {}
        for row, key in enumerate(table["id"].to_pylist()):
            if first.setdefault(key, row) != row:
                raise DataError(f"{path}, row {row}, field 'id': {key!r} occurs twice")
    return table


def count_reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts gave each reason; every reason is there, also with 0."""
    counts = dict.fromkeys(REASONS, 0)
    for verdict in verdicts:
        counts[verdict.reason] += 1
    return counts
