from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tabom.core.errors import DataError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import SCHEMA, from_arrow, to_arrow, validate_schema

Make = Callable[..., Trajectory]


def test_round_trip_is_exact(make: Make, says: Callable[..., Any]) -> None:
    originals = [make(i) for i in range(40)]
    assert any(np.isnan(t.entropy_N).any() for t in originals)  # never-revealed slots are in it
    batch = to_arrow(originals)
    validate_schema(batch.schema, "f")
    assert [says(t) for t in from_arrow(batch, source="f")] == [says(t) for t in originals]
    part = from_arrow(batch.slice(7, 5), source="f", first_row=7)
    assert [says(t) for t in part] == [says(t) for t in originals[7:12]]
    assert batch.column("entropy").flatten().null_count == 0  # NaN stays a value


def test_an_empty_batch() -> None:
    assert from_arrow(to_arrow([]), source="f") == []


GOOD: dict[str, Any] = {
    "response_ids_N": [5, 6, 99],
    "step_N": [1, 0, -1],
    "entropy_N": [0.5, 0.25, np.nan],
    "confidence_N": [0.5, 0.75, np.nan],
    "num_forwards": 2,
}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("order", [0, 1, -1], r"it is \[0, 1, -1\], but step and entropy give \[1, 0, -1\]"),
        ("order", [1, 0, 2], r"it is \[1, 0, 2\], but step and entropy give \[1, 0, -1\]"),
        ("order", [1, 0], r"it is \[1, 0\], but step and entropy give"),
        ("step", [1, 0, -2], "-2; the least value is -1"),
        ("step", [2, 0, -1], "step 2 is not below num_forwards 2"),
        ("step", [1, 0, -1, 0], "has 4 values for 3 slots"),
        ("step", [1, None, -1], "it is null, or holds a null"),
        ("entropy", [-0.5, 0.25, 0], "entropy of a revealed slot is negative"),
        ("entropy", [float("nan"), 0.25, 0], "not finite"),
        ("confidence", [1.5, 0.75, 0], "too large"),
        ("response_ids", [], "has no slots"),
        ("response_ids", [5, -6, 99], "negative token id -6"),
        ("prompt_ids", [-1], "negative token id -1"),
        ("prompt_ids", [], "prompt_ids is empty"),
        ("id", "", "id is empty"),
        ("id", None, "it is null"),
        ("num_forwards", None, "it is null"),
        ("row", "{", "it is not JSON"),
        ("row", "[1]", r"expected a JSON object, found \[1\]"),
        ("response", None, "it is null"),
    ],
)
def test_a_malformed_row_names_file_row_field_and_why(
    make: Make, field: str, value: Any, why: str
) -> None:
    rows = to_arrow([make(1), make(2, **GOOD), make(3)])
    index = SCHEMA.get_field_index(field)
    cells = rows.column(index).to_pylist()
    cells[1] = value
    columns = list(rows.columns)
    columns[index] = pa.array(cells, type=SCHEMA.field(index).type)
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    place = rf"^some\.parquet, row 11, field '{field}': .*{why}.*; mend or delete the row$"
    with pytest.raises(DataError, match=place):
        from_arrow(batch, source="some.parquet", first_row=10)
    assert len(from_arrow(batch.slice(2, 1), source="some.parquet")) == 1  # the others are well


@pytest.mark.parametrize("field", ["entropy", "confidence"])
def test_numbers_that_were_not_recorded_are_nan_at_every_slot_or_at_none(
    make: Make, says: Callable[..., Any], field: str
) -> None:
    nothing = {f"{field}_N": [np.nan, np.nan, np.nan]}
    t = make(2, **{**GOOD, **nothing, "step_N": [1, 1, -1]})
    assert t.order_N.tolist() == ([0, 1, -1] if field == "entropy" else [1, 0, -1])
    assert says(from_arrow(to_arrow([t]), source="f")[0]) == says(t)
    half = {f"{field}_N": [np.nan, 0.5, np.nan]}
    with pytest.raises(DataError, match=f"{field} of a revealed slot is"):
        make(2, **{**GOOD, **half})


def test_no_slots_at_all(make: Make) -> None:
    batch = to_arrow([make(2, **GOOD)])
    for name in ("response_ids", "step", "order", "entropy", "confidence"):
        index = SCHEMA.get_field_index(name)
        column = pa.array([[]], type=SCHEMA.field(index).type)
        batch = batch.set_column(index, SCHEMA.field(index), column)
    with pytest.raises(DataError, match="row 0, field 'response_ids': response_ids has no slots"):
        from_arrow(batch, source="f")


def test_schema_errors_name_the_file_and_the_column() -> None:
    with pytest.raises(DataError, match=r"x\.parquet: trajectory schema none"):
        validate_schema(SCHEMA.remove_metadata(), "x.parquet")
    newer = SCHEMA.with_metadata({b"tabom_schema": b"2"})
    with pytest.raises(DataError, match="trajectory schema 2, this tabom reads 1"):
        validate_schema(newer, "x.parquet")
    with pytest.raises(DataError, match="column 'step' is missing"):
        validate_schema(SCHEMA.remove(SCHEMA.get_field_index("step")), "x.parquet")
    index = SCHEMA.get_field_index("step")
    wrong = SCHEMA.set(index, pa.field("step", pa.list_(pa.float64())))
    with pytest.raises(DataError, match=r"column 'step' is list<.*double>, expected list<"):
        validate_schema(wrong, "x.parquet")
    validate_schema(SCHEMA.append(pa.field("mine", pa.int8())), "x.parquet")
