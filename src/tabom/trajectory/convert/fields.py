"""Typed fields of a row, and a trajectory made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.core.plain import canonical_json
from tabom.trajectory.convert.rows import MalformedRowError
from tabom.trajectory.convert.vocabulary import Vocabulary
from tabom.trajectory.record import Trajectory

OnError = Literal["stop", "drop"]
_MAX_ID = 2**31 - 1


class UnfitRowError(Exception):
    """A sound row that the conversion cannot carry over; dropped, and counted by this reason."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion may assume.

    vocabulary: of the model that made the trajectories.
    allow_ltr: take a missing or short decoding order as left to right (one slot a step).
    on_error: "stop" at the first malformed row, or "drop" and count it.
    reference_column: column of a row that holds the gold answer a verifier compares with.
    method: decoding policy of rows that do not name one.
    accepted: ids of the trajectories that are carried over (None: all); the others are counted.
    fingerprint: given to trajectories whose row has none.
    """

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    allow_ltr: bool = False
    on_error: OnError = "stop"
    reference_column: str | None = None
    method: str = ""
    accepted: frozenset[str] | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Item:
    """A trajectory that was read; is_ltr: its order was missing and taken as left to right."""

    trajectory: Trajectory
    is_ltr: bool = False


def text(cells: Mapping[str, Any], name: str, place: str, *, default: str | None = None) -> str:
    """A field that is text. default: for one that is absent or null (None: it must be there)."""
    value = cells.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise MalformedRowError(place, name, f"expected text, found {_show(value)}")
    return value


def integers(value: Any, name: str, place: str, *, least: int = 0) -> list[int]:
    """A list of integers of at least `least`."""
    if not isinstance(value, list):
        raise MalformedRowError(place, name, f"expected a list of integers, found {_show(value)}")
    for i, number in enumerate(value):
        if type(number) is not int or not least <= number <= _MAX_ID:
            raise MalformedRowError(
                place, name, f"value {i} is {_show(number)}; expected an integer >= {least}"
            )
    return value


def token_ids(value: Any, name: str, place: str, *, vocabulary: Vocabulary) -> list[int]:
    """A list of at least one token id, inside the vocabulary where its size is known."""
    ids = integers(value, name, place)
    if not ids:
        raise MalformedRowError(place, name, "it is empty")
    if vocabulary.size is not None and max(ids) >= vocabulary.size:
        raise MalformedRowError(
            place, name, f"token id {max(ids)} is outside the vocabulary of {vocabulary.size}"
        )
    return ids


def steps(
    value: Any, name: str, place: str, *, num_slots: int, ids_name: str, options: ConvertOptions
) -> tuple[list[int], bool]:
    """The step of each slot, and whether it had to be taken as left to right.

    Raises: MalformedRowError for a missing or short one without `allow_ltr`, and for a longer one.
    """
    found = "it is missing" if value is None else ""
    if value is not None:
        value = integers(value, name, place, least=-1)
        if len(value) == num_slots:
            return value, False
        found = f"it has {len(value)} values for {num_slots} {ids_name}"
        if len(value) > num_slots:
            raise MalformedRowError(place, name, found)
    if not options.allow_ltr:
        raise MalformedRowError(
            place,
            name,
            f"{found}: the order is what is learnt from, and it is not guessed; pass --allow_ltr "
            "to take such rows as decoded left to right",
        )
    return list(range(num_slots)), True


def reference_of(cells: Mapping[str, Any], options: ConvertOptions, place: str) -> str | None:
    """The text of `reference_column`, or None if no such column was asked for."""
    name = options.reference_column
    if name is None:
        return None
    if name not in cells:
        raise MalformedRowError(place, name, "no such column (--reference_column)")
    return "" if cells[name] is None else str(cells[name])


def check_mask(ids: Sequence[int], step: Sequence[int], name: str, place: str, mask: int) -> None:
    """Raises: MalformedRowError if a revealed slot still holds the mask token."""
    for slot, (token, at) in enumerate(zip(ids, step, strict=True)):
        if token == mask and at >= 0:
            raise MalformedRowError(
                place, name, f"slot {slot} was revealed at step {at} and holds the mask id {mask}"
            )


def build(place: str, *, names: Mapping[str, str], options: ConvertOptions, **values: Any) -> Any:
    """A trajectory from what a format knows; the rest is filled in.

    names: record field -> the format's field, for the error. Entropy and confidence that are not
    given are NaN (not recorded); num_forwards is the last step + 1; the id is one of the content.
    """
    step = values["step_N"]
    nothing_N = np.full(len(step), np.nan, dtype=np.float32)
    filled: dict[str, Any] = {
        "entropy_N": nothing_N,
        "confidence_N": nothing_N,
        "num_forwards": max(step, default=-1) + 1,
        "fingerprint": options.fingerprint,
        **{k: v for k, v in values.items() if v is not None},
    }
    if "id" not in filled:
        arrays = (filled["prompt_ids"], filled["response_ids_N"], step)
        filled["id"] = keys.content_id(
            filled["prompt"],
            *(np.asarray(a, dtype=np.int64).tobytes() for a in arrays),
            canonical_json(filled.get("row", {})),
        )
    try:
        return Trajectory(**filled)
    except DataError as error:
        why = str(error).partition(": ")[2]  # a record's complaint starts with the field's name
        word = why.partition(" ")[0]
        raise MalformedRowError(place, names.get(word, word), why) from error


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
