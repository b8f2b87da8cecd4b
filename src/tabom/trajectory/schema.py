"""The columns of a trajectory file, and the checks a row must pass to come in.

Legend: N response slots.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.trajectory.record import FloatArray, IntArray, Trajectory

VERSION = 1
_VERSION_KEY = b"tabom_schema"

_IDS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())

_KINDS = {
    **dict.fromkeys(("prompt_ids", "response_ids", "step", "order", "edits"), _IDS),
    **dict.fromkeys(("entropy", "confidence"), _FLOATS),
    "num_forwards": pa.int32(),
}
_NAMES = (
    *("id", "prompt", "prompt_ids", "response", "response_ids", "step", "order", "entropy"),
    *("confidence", "num_forwards", "edits", "method", "task", "reference", "row", "fingerprint"),
)
SCHEMA = pa.schema(
    [(name, _KINDS.get(name, pa.string())) for name in _NAMES],
    metadata={_VERSION_KEY: str(VERSION).encode()},
)
# Partial files alone: the entropies of every step of a response, K x N of them in one list.
FIELD = pa.field("field", _FLOATS)

# Column -> attribute of a trajectory. `order` follows from the others, `row` travels as JSON.
_PER_SLOT = ("response_ids", "step", "entropy", "confidence")
_ATTRIBUTES = {
    name: f"{name}_N" if name in _PER_SLOT else name
    for name in SCHEMA.names
    if name not in ("order", "row")
}


def to_arrow(trajectories: Sequence[Trajectory]) -> pa.RecordBatch:
    """The trajectories as one record batch of `SCHEMA`."""
    columns: dict[str, Sequence[Any]] = {
        name: [getattr(t, attribute) for t in trajectories]
        for name, attribute in _ATTRIBUTES.items()
    }
    columns["edits"] = [t.edits.ravel() for t in trajectories]
    columns["order"] = [t.order_N for t in trajectories]
    rows = (to_plain(t.row) for t in trajectories)
    columns["row"] = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    arrays = [
        to_lists(columns[name], kind) if pa.types.is_list(kind) else pa.array(columns[name], kind)
        for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def to_lists(arrays: Sequence[FloatArray | IntArray | None], kind: pa.ListType) -> pa.ListArray:
    """One list a row, from flat arrays that are joined once; None becomes a null."""
    present = [array for array in arrays if array is not None]
    offsets = np.zeros(len(arrays) + 1, dtype=np.int32)
    np.cumsum([0 if array is None else len(array) for array in arrays], out=offsets[1:])
    values = np.concatenate(present) if present else np.empty(0)
    values = values.astype(kind.value_type.to_pandas_dtype(), copy=False)
    # A null is a list that is not there; NaN inside one stays a value, since it means something.
    is_null = pa.array([array is None for array in arrays]) if len(present) < len(arrays) else None
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=is_null)


def validate_schema(schema: pa.Schema, source: str) -> None:
    """Refuse a file that does not have the columns of this version.

    schema: of the file; further columns are allowed. source: the file's name for the message.
    Raises: DataError naming the file, what is missing or of another type, and the way out.
    """
    version = (schema.metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(VERSION):
        raise DataError(
            f"{source}: trajectory schema {version}, this tabom reads {VERSION}; write it "
            "with this tabom, or convert it"
        )
    for field in SCHEMA:
        found = schema.field(field.name).type if field.name in schema.names else "missing"
        if found != field.type:
            raise DataError(f"{source}: column {field.name!r} is {found}, expected {field.type}")


def from_arrow(batch: pa.RecordBatch, *, source: str, first_row: int = 0) -> list[Trajectory]:
    """The trajectories of a record batch, every row checked.

    batch: with the columns of `SCHEMA`. source: the file. first_row: number of the batch's first
        row in that file, counted from 0.
    Raises: DataError naming file, row, field and why: a null, lengths that differ, a broken
        invariant of the record, an order that is not the one its steps and entropies give.
    """
    columns = [from_column(batch.column(name)) for name in SCHEMA.names]
    return [
        _row(dict(zip(SCHEMA.names, cells, strict=True)), f"{source}, row {first_row + i}")
        for i, cells in enumerate(zip(*columns, strict=True))
    ]


def from_column(column: pa.Array) -> list[Any]:
    """Python values of a column, lists as numpy views; None stands for any null."""
    if not pa.types.is_list(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    holes = column.flatten().null_count > 0  # a null among the values: find whose it is
    values = column.values.to_numpy(zero_copy_only=False)
    offsets, is_null = column.offsets.to_numpy(), column.is_null().to_numpy(zero_copy_only=False)
    return [
        None
        if is_null[i] or (holes and column[i].values.null_count)
        else values[offsets[i] : offsets[i + 1]]
        for i in range(len(column))
    ]


def _row(cells: dict[str, Any], place: str) -> Trajectory:
    for name, cell in cells.items():
        if cell is None:
            raise _bad(place, name, "it is null, or holds a null")
    try:
        row = json.loads(cells["row"])
    except ValueError as error:
        raise _bad(place, "row", f"it is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _bad(place, "row", f"expected a JSON object, found {cells['row'][:40]}")
    values = {attribute: cells[name] for name, attribute in _ATTRIBUTES.items()}
    try:
        trajectory = Trajectory(row=row, **values)
    except DataError as error:
        why = str(error).partition(": ")[2]  # a record's complaint starts with the field's name
        raise _bad(place, why.partition(" ")[0], why) from error
    # The order is derived, and kept for readers of the files; it must say what the others say.
    order_N = trajectory.order_N
    if not np.array_equal(order_N, cells["order"]):
        found, expected = cells["order"].tolist(), order_N.tolist()
        raise _bad(place, "order", f"it is {found}, but step and entropy give {expected}")
    return trajectory


def _bad(place: str, field: str, why: str) -> DataError:
    return DataError(f"{place}, field {field!r}: {why}; mend or delete the row")
