"""The "tabom" block of a row: what the format itself cannot hold, so that nothing is lost.

Readers of the other projects ignore a key that they do not know.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tabom.core.plain import to_plain
from tabom.trajectory.convert.fields import ConvertOptions, integers, text
from tabom.trajectory.convert.rows import MalformedRowError
from tabom.trajectory.order import length_to_end
from tabom.trajectory.record import FloatArray, Trajectory

BLOCK = "tabom"
SCHEMA = 1


def write_block(t: Trajectory, options: ConvertOptions, *names: str) -> dict[str, Any]:
    """What the format itself cannot hold. names: further record fields to put in."""
    block: dict[str, Any] = {
        "schema": SCHEMA,
        "id": t.id,
        "prompt_token_ids": t.prompt_ids.tolist(),
        "nfe": int(t.num_forwards),
        "entropy": _numbers_or_null(t.entropy_N),
        "confidence": _numbers_or_null(t.confidence_N),
        "reference": t.reference,
        "fingerprint": t.fingerprint,
    }
    if options.vocabulary.end_ids:
        length = length_to_end(t.response_ids_N, options.vocabulary.end_ids)
        has_end = int(t.response_ids_N[length - 1]) in options.vocabulary.end_ids
        block["first_eos_index"] = length - 1 if has_end else None
    for name in names:
        block[name] = to_plain(getattr(t, name))
    return block


def read_block(cells: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The row's "tabom" block as keyword arguments of a record; {} if it has none."""
    block = cells.get(BLOCK)
    if block is None:
        return {}
    if not isinstance(block, dict) or block.get("schema") != SCHEMA:
        found = block.get("schema") if isinstance(block, dict) else type(block).__name__
        raise MalformedRowError(place, BLOCK, f"expected schema {SCHEMA}, found {found!r}")
    values: dict[str, Any] = {}
    for name in ("id", "reference", "fingerprint", "prompt", "response", "task", "method"):
        if name in block:
            values[name] = text(block, name, f"{place}, block {BLOCK!r}")
    if "prompt_token_ids" in block:
        values["prompt_ids"] = integers(
            block["prompt_token_ids"], f"{BLOCK}.prompt_token_ids", place
        )
    if "nfe" in block:
        values["num_forwards"] = integers([block["nfe"]], f"{BLOCK}.nfe", place)[0]
    for name in ("entropy", "confidence"):
        if block.get(name) is not None:
            values[f"{name}_N"] = _numbers(block[name], f"{BLOCK}.{name}", place)
    if "row" in block:
        if not isinstance(block["row"], dict):
            raise MalformedRowError(place, f"{BLOCK}.row", "expected a JSON object")
        values["row"] = block["row"]
    return values


def _numbers_or_null(values_N: FloatArray) -> list[float | None] | None:
    if np.isnan(values_N).all():
        return None
    return [None if value != value else value for value in values_N.tolist()]


def _numbers(value: Any, name: str, place: str) -> FloatArray:
    is_list = isinstance(value, list)
    if not is_list or any(
        v is not None and (isinstance(v, bool) or not isinstance(v, int | float)) for v in value
    ):
        raise MalformedRowError(place, name, "expected a list of numbers and nulls")
    return np.array([np.nan if v is None else v for v in value], dtype=np.float32)
