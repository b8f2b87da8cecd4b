"""Typed fields of a row, and a trajectory made of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.core.plain import canonical_json
from tabom.core.rows import MalformedRowError, Row
from tabom.trajectory.convert.vocabulary import Vocabulary
from tabom.trajectory.record import FloatArray, Trajectory

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
    on_error: Literal["stop", "drop"] = "stop"
    reference_column: str | None = None
    method: str = ""
    accepted: frozenset[str] | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Item:
    """A trajectory that was read; is_ltr: its order was missing and taken as left to right."""

    trajectory: Trajectory
    is_ltr: bool = False


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a row that is being read, each asked for by name and type.

    place: of the row, for errors. prefix: of the names, where the cells stand inside another.
    Every method raises MalformedRowError, naming place and field, for a cell that is not so.
    """

    values: Mapping[str, Any]
    place: str
    options: ConvertOptions
    prefix: str = ""

    @classmethod
    def of(cls, row: Row, options: ConvertOptions) -> "Cells":
        """The cells of a row as it was read from its file."""
        return cls(values=row.cells(), place=row.place, options=options)

    def fail(self, name: str, why: str) -> MalformedRowError:
        """The error for a field, to be raised."""
        return MalformedRowError(self.place, f"{self.prefix}{name}", why)

    def has(self, name: str) -> bool:
        """Whether there is a value."""
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A text; `default` for one that is absent or null (None: it must be there)."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, f"expected text, found {_show(value)}")
        return value

    def integer(self, name: str) -> int:
        """An integer of at least 0."""
        return self.integers(name, value=[self.values.get(name)])[0]

    def integers(self, name: str, *, least: int = 0, value: Any = None) -> list[int]:
        """A list of integers of at least `least`. value: the list itself, if it is not a cell."""
        value = self.values.get(name) if value is None else value
        if not isinstance(value, list):
            raise self.fail(name, f"expected a list of integers, found {_show(value)}")
        for i, number in enumerate(value):
            if type(number) is not int or not least <= number <= _MAX_ID:
                why = f"value {i} is {_show(number)}; expected an integer >= {least}"
                raise self.fail(name, why)
        return value

    def token_ids(self, name: str, *, value: Any = None) -> list[int]:
        """At least one token id, inside the vocabulary where its size is known."""
        ids, size = self.integers(name, value=value), self.options.vocabulary.size
        if not ids:
            raise self.fail(name, "it is empty")
        if size is not None and max(ids) >= size:
            raise self.fail(name, f"token id {max(ids)} is outside the vocabulary of {size}")
        return ids

    def numbers(self, name: str) -> FloatArray | None:
        """A list of numbers, a null for NaN; None where there is no list."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(
            v is not None and (isinstance(v, bool) or not isinstance(v, int | float)) for v in value
        ):
            raise self.fail(name, "expected a list of numbers and nulls")
        try:
            with np.errstate(over="ignore"):  # too large for float32 is infinite: refused later
                return np.array([np.nan if v is None else v for v in value], dtype=np.float32)
        except OverflowError as error:
            raise self.fail(name, f"a number is too large ({error})") from error

    def steps(self, name: str, *, num_slots: int) -> tuple[list[int], bool]:
        """The step of each slot, and whether it had to be taken as left to right.

        A missing or short list is malformed without `allow_ltr`, and a longer one always.
        """
        found = "it is missing"
        if self.has(name):
            value = self.integers(name, least=-1)
            if len(value) == num_slots:
                return value, False
            found = f"it has {len(value)} values for {num_slots} tokens"
            if len(value) > num_slots:
                raise self.fail(name, found)
        if not self.options.allow_ltr:
            raise self.fail(
                name,
                f"{found}: the order is what is learnt from, and it is not guessed; pass "
                "--allow_ltr to take such rows as decoded left to right",
            )
        return list(range(num_slots)), True

    def check_mask(self, ids: Sequence[int], step: Sequence[int], name: str) -> None:
        """Refuse a revealed slot that still holds the mask token, where that is known."""
        mask = self.options.vocabulary.mask_id
        for slot, (token, at) in enumerate(zip(ids, step, strict=True)):
            if token == mask and at >= 0:
                why = f"slot {slot} was revealed at step {at} and holds the mask id {mask}"
                raise self.fail(name, why)

    def reference(self, default: Any) -> str:
        """The text of `reference_column`, or `default` if no such column was asked for."""
        name = self.options.reference_column
        if name is not None and name not in self.values:
            raise self.fail(name, "no such column (--reference_column)")
        value = default if name is None else self.values[name]
        return "" if value is None else str(value)

    def rest(self, *used: str) -> dict[str, Any]:
        """The other cells, for a trajectory's `row`; what JSON cannot hold becomes text."""
        others = {k: v for k, v in self.values.items() if k not in used}
        kept: dict[str, Any] = json.loads(json.dumps(others, default=str))
        return kept

    def trajectory(self, names: Mapping[str, str], **values: Any) -> Trajectory:
        """A trajectory from what the format knows; the rest is filled in.

        names: column of a trajectory -> the format's field, for errors. Entropy and confidence
            that are not given are NaN (not recorded), num_forwards is the last step + 1, and the
            id is one of the content.
        """
        nothing_N = np.full(len(values["step_N"]), np.nan, dtype=np.float32)
        filled: dict[str, Any] = {
            "entropy_N": nothing_N,
            "confidence_N": nothing_N,
            "num_forwards": max(values["step_N"], default=-1) + 1,
            "fingerprint": self.options.fingerprint,
            **{name: value for name, value in values.items() if value is not None},
        }
        if "id" not in filled:
            arrays = (filled["prompt_ids"], filled["response_ids_N"], filled["step_N"])
            filled["id"] = keys.content_id(
                filled["prompt"],
                *(np.asarray(a, dtype=np.int64).tobytes() for a in arrays),
                canonical_json(filled.get("row", {})),
            )
        try:
            return Trajectory(**filled)
        except DataError as error:
            why = str(error).partition(": ")[2]  # a record's complaint starts with the column
            word = why.partition(" ")[0]
            raise self.fail(names.get(word, word), why) from error


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
