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

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("prompt_ids", _IDS),
        ("response", pa.string()),
        ("response_ids", _IDS),
        ("step", _IDS),
        ("order", _IDS),
        ("entropy", _FLOATS),
        ("confidence", _FLOATS),
        ("num_forwards", pa.int32()),
        ("method", pa.string()),
        ("task", pa.string()),
        ("reference", pa.string()),
        ("row", pa.string()),
        ("fingerprint", pa.string()),
    ],
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
    columns["order"] = [t.order_N for t in trajectories]
    columns["row"] = [
        json.dumps(to_plain(t.row), sort_keys=True, ensure_ascii=False) for t in trajectories
    ]
    arrays = [_to_column(columns[field.name], field.type) for field in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def to_lists(arrays: Sequence[FloatArray | IntArray | None], kind: pa.ListType) -> pa.ListArray:
    """One list a row, from flat arrays that are joined once; None becomes a null."""
    present = [array for array in arrays if array is not None]
    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    dtype = kind.value_type.to_pandas_dtype()
    values = np.concatenate(present) if present else np.empty(0)
    is_null = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(
        offsets, values.astype(dtype, copy=False), type=kind, mask=is_null
    )


def _to_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return to_lists(values, kind) if pa.types.is_list(kind) else pa.array(values, type=kind)


def validate_schema(schema: pa.Schema, source: str) -> None:
    """Refuse a file that does not have the columns of this version.

    schema: of the file; further columns are allowed. source: the file's name for the message.
    Raises: DataError naming the file, what is missing or of another type, and the way out.
    """
    version = (schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise DataError(
            f"{source}: not a trajectory file of tabom (no {_VERSION_KEY.decode()} in its "
            "metadata); write it with tabom, or convert it"
        )
    if version != str(VERSION).encode():
        raise DataError(
            f"{source}: trajectory schema {version.decode(errors='replace')}, this tabom reads "
            f"{VERSION}; use the version that wrote it"
        )
    for field in SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise DataError(f"{source}: column {field.name!r} is missing ({field.type})")
        if schema.field(index).type != field.type:
            raise DataError(
                f"{source}: column {field.name!r} has type {schema.field(index).type}, "
                f"expected {field.type}"
            )


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
    expected, found = trajectory.order_N.tolist(), cells["order"].tolist()
    if len(found) != len(expected):
        raise _bad(place, "order", f"it has {len(found)} values for {len(expected)} slots")
    if found != expected:
        slot = next(
            i for i, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1
        )
        why = f"slot {slot} has {found[slot]}, but its step and entropy give {expected[slot]}"
        raise _bad(place, "order", why)
    return trajectory


def _bad(place: str, field: str, why: str) -> DataError:
    return DataError(f"{place}, field {field!r}: {why}; mend or delete the row")
