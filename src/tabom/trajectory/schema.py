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
from tabom.trajectory.record import Trajectory

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
_AS_THEY_ARE = (
    *("id", "prompt", "prompt_ids", "response", "num_forwards"),
    *("method", "task", "reference", "fingerprint"),
)
_PER_SLOT = ("step", "order", "entropy", "confidence")


def to_columns(trajectory: Trajectory) -> dict[str, Any]:
    """One row of the table as numpy arrays, strings and an int, `row` as JSON text."""
    return {
        "id": trajectory.id,
        "prompt": trajectory.prompt,
        "prompt_ids": trajectory.prompt_ids,
        "response": trajectory.response,
        "response_ids": trajectory.response_ids_N,
        "step": trajectory.step_N,
        "order": trajectory.order_N,
        "entropy": trajectory.entropy_N,
        "confidence": trajectory.confidence_N,
        "num_forwards": trajectory.num_forwards,
        "method": trajectory.method,
        "task": trajectory.task,
        "reference": trajectory.reference,
        "row": json.dumps(to_plain(trajectory.row), sort_keys=True, ensure_ascii=False),
        "fingerprint": trajectory.fingerprint,
    }


def to_arrow(trajectories: Sequence[Trajectory]) -> pa.RecordBatch:
    """The trajectories as one record batch of `SCHEMA`."""
    rows = [to_columns(t) for t in trajectories]
    arrays = [pa.array([row[f.name] for row in rows], type=f.type) for f in SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


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
    columns = {field.name: _unpack(batch.column(field.name), field.type) for field in SCHEMA}
    return [
        _row(
            {name: values[i] for name, values in columns.items()}, f"{source}, row {first_row + i}"
        )
        for i in range(batch.num_rows)
    ]


def _unpack(column: pa.Array, kind: pa.DataType) -> list[Any]:
    """Python values of a column, lists as numpy views; None stands for any null."""
    if not pa.types.is_list(kind):
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
    num_slots = len(cells["response_ids"])
    for name in _PER_SLOT:
        if len(cells[name]) != num_slots:
            raise _bad(place, name, f"it has {len(cells[name])} values for {num_slots} slots")
    for name in ("prompt_ids", "response_ids"):
        if len(cells[name]) and int(cells[name].min()) < 0:
            raise _bad(place, name, f"token id {int(cells[name].min())} is negative")
    try:
        row = json.loads(cells["row"])
    except ValueError as error:
        raise _bad(place, "row", f"it is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _bad(place, "row", f"expected a JSON object, found {cells['row'][:40]}")
    per_slot = {f"{name}_N": cells[name] for name in ("step", "entropy", "confidence")}
    try:
        trajectory = Trajectory(
            response_ids_N=cells["response_ids"],
            row=row,
            **per_slot,
            **{name: cells[name] for name in _AS_THEY_ARE},
        )
    except DataError as error:
        why = str(error).partition(": ")[2]  # a record's complaint starts with the field's name
        raise _bad(place, why.partition(" ")[0], why) from error
    order_N = trajectory.order_N
    if not np.array_equal(order_N, cells["order"]):
        slot = int((order_N != cells["order"]).argmax())
        raise _bad(
            place,
            "order",
            f"slot {slot} has {int(cells['order'][slot])}, but its step and entropy give "
            f"{int(order_N[slot])}",
        )
    return trajectory


def _bad(place: str, field: str, why: str) -> DataError:
    return DataError(f"{place}, field {field!r}: {why}; mend or delete the row")
