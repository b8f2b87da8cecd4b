"""The cells of a row of others, each asked for by name and type, and a trajectory made of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabom.core import keys
from tabom.core.errors import DataError
from tabom.core.plain import canonical_json
from tabom.core.rows import MalformedRowError
from tabom.trajectory.record import FloatArray, Trajectory

_MAX_ID = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that made the trajectories, and what may be assumed of a file.

    tokenizer: as transformers', with a chat template. mask_id: hides a slot. end_ids: every id
    that ends a response. vocab_size: rows of the embedding.
    allow_ltr: take a missing or short decoding order as left to right (one slot a step).
    reference_column: column of a row that holds the gold answer a verifier compares with.
    method: decoding policy of rows that do not name one.
    fingerprint: given to trajectories whose row has none.
    """

    tokenizer: Any
    mask_id: int
    end_ids: tuple[int, ...]
    vocab_size: int
    allow_ltr: bool = False
    reference_column: str | None = None
    method: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of one row.

    place: of the row, for errors. prefix: of the names, where the cells stand inside another.
    Every method raises MalformedRowError, naming place and field, for a cell that is not so.
    """

    values: Mapping[str, Any]
    place: str
    source: Source
    prefix: str = ""

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
        # As a whole first, and one by one only to tell which it is.
        are_integers = set(map(type, value)) <= {int}
        if are_integers and (not value or (min(value) >= least and max(value) <= _MAX_ID)):
            return value
        for i, number in enumerate(value):
            # A bool is an int to Python, and no token id.
            if type(number) is not int or not least <= number <= _MAX_ID:
                why = f"value {i} is {_show(number)}; expected an integer >= {least}"
                raise self.fail(name, why)
        return value

    def token_ids(self, name: str, *, value: Any = None) -> list[int]:
        """At least one token id, inside the vocabulary."""
        ids, size = self.integers(name, value=value), self.source.vocab_size
        if not ids:
            raise self.fail(name, "it is empty")
        if max(ids) >= size:
            raise self.fail(name, f"token id {max(ids)} is outside the vocabulary of {size}")
        return ids

    def numbers(self, name: str) -> FloatArray | None:
        """A list of numbers, a null for NaN; None where there is no list."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or {type(v) for v in value} - {int, float, type(None)}:
            raise self.fail(name, "expected a list of numbers and nulls")
        try:
            with np.errstate(over="ignore"):  # too large for float32 is infinite: refused later
                return np.array([np.nan if v is None else v for v in value], dtype=np.float32)
        except OverflowError as error:
            raise self.fail(name, f"a number is too large ({error})") from error

    def steps(self, name: str, ids: Sequence[int]) -> list[int]:
        """The step of each slot.

        A missing or short list is malformed without `allow_ltr`; a longer one always is, and so is
        a slot that was revealed and holds the mask token. ids: of the slots.
        """
        steps = self.integers(name, least=-1) if self.has(name) else []
        if len(steps) < len(ids) and self.source.allow_ltr:
            steps = list(range(len(ids)))
        if len(steps) != len(ids):
            raise self.fail(
                name,
                f"it has {len(steps)} values for {len(ids)} tokens: the order is what is learnt "
                "from, and it is not guessed; with --allow_ltr a row without a whole one counts as "
                "decoded left to right",
            )
        # A mask that counts as revealed would be learnt as an answer.
        shown = enumerate(zip(ids, steps, strict=True)) if self.source.mask_id in ids else ()
        for slot, (token, step) in shown:
            if token == self.source.mask_id and step >= 0:
                why = f"slot {slot} was revealed at step {step} and holds the mask id {token}"
                raise self.fail(name, why)
        return steps

    def reference(self, default: Any) -> str:
        """The text of `reference_column`, or `default` if no such column was asked for."""
        name = self.source.reference_column
        if name is not None and name not in self.values:
            raise self.fail(name, "no such column (--reference_column)")
        value = default if name is None else self.values[name]
        return "" if value is None else str(value)

    def tokens(self, text: str, *, is_prompt: bool = False) -> list[int]:
        """Ids of text that carries its special tokens as text; none are added.

        is_prompt: it is what a user says, and goes into the chat template first.
        """
        tokenizer = self.source.tokenizer
        try:
            if is_prompt:
                messages = [{"role": "user", "content": text}]
                text = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            ids = _encode(tokenizer, text)
        except Exception as error:  # templates raise what they like, tokenizers bare ones
            raise self.fail("", f"its text has no tokens ({error})") from error
        return [int(i) for i in ids]

    def response(self, ids: Sequence[int]) -> str:
        """Text up to the first end token, special tokens left out."""
        ends = (i for i, token in enumerate(ids) if token in self.source.end_ids)
        shown = list(ids[: next(ends, len(ids))])
        return str(self.source.tokenizer.decode(shown, skip_special_tokens=True))

    def rest(self, *used: str | None) -> dict[str, Any]:
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
        # Files of others have no entropies, and none are made up for them.
        nothing_N = np.full(len(values["step_N"]), np.nan, dtype=np.float32)
        filled: dict[str, Any] = {
            "entropy_N": nothing_N,
            "confidence_N": nothing_N,
            "num_forwards": max(values["step_N"]) + 1,
            "fingerprint": self.source.fingerprint,
            **{name: value for name, value in values.items() if value is not None},
        }
        # Equal rows get an equal id in any file, so that one read twice is one trajectory.
        if "id" not in filled:
            arrays = (filled["prompt_ids"], filled["response_ids_N"], filled["step_N"])
            filled["id"] = keys.content_id(
                filled["prompt"],
                *(np.asarray(a, dtype=np.int64).tobytes() for a in arrays),
                canonical_json(filled["row"]),
            )
        try:
            return Trajectory(**filled)
        except DataError as error:
            why = str(error).partition(": ")[2]  # a record's complaint starts with the column
            word = why.partition(" ")[0]
            raise self.fail(names.get(word, word), why) from error


def _encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text. A fast tokenizer is asked without offsets, for half the time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    ask = getattr(backend, "encode_batch_fast", None)
    if ask is None or backend.truncation is not None or backend.padding is not None:  # type: ignore[union-attr]
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
    return list(ask([text], add_special_tokens=False)[0].ids)


def _show(value: Any) -> str:
    shown = "nothing" if value is None else repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
