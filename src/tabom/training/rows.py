"""Training rows as Arrow columns: in memory, or in a file that is mapped and not read.

A row says what a `ResponseExample` says. The file is made once of a store's columns, under a name
that holds its hash, and no row of it is an object before it is asked for: what grows with the
number of rows is a few numbers each.

Legend: N response slots.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tabom.core import keys
from tabom.core.atomic import locked, replacing
from tabom.core.manifest import describe_file
from tabom.trajectory.schema import to_lists

_IDS, _BYTES = pa.list_(pa.int32()), pa.list_(pa.uint8())
_FLOATS = pa.list_(pa.float32())

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),  # for what a model was trained on; no part of an example
        "prompt_key": pa.int64(),  # equal for equal prompts
        "prompt_ids": _IDS,
        "response_ids": _IDS,
        "slot": _BYTES,
        "length": pa.int32(),
        "num_revealed": pa.int32(),
        "step": _IDS,  # null, as are the next two: ground truth has none
        "order": _IDS,
        "entropy": _FLOATS,
        "advantage": pa.float64(),  # NaN: not compared
        "hint_ids": _IDS,  # null: no teacher reads one
    }
)
# Of a store, what training rows are made of.
_TAKEN = ("id", "prompt_ids", "response_ids", "step", "order", "entropy")
COLUMNS = (*_TAKEN, "prompt", "reference", "row")
_SUFFIX = ".arrow"


def prompt_key(prompt_ids: np.ndarray) -> int:
    """The key of a prompt's int32 token ids, 62 bits."""
    return keys.text_key(prompt_ids.tobytes().hex())


def from_trajectories(
    batch: pa.RecordBatch,
    *,
    end_ids: Sequence[int],
    advantages: np.ndarray | None = None,
    questions: Sequence[str] | None = None,
    hints: Sequence[np.ndarray] | None = None,
) -> pa.RecordBatch:
    """Training rows of a store's rows, with the decoder's order.

    batch: with COLUMNS. end_ids: every id that ends a response. advantages: float64, one a row.
    questions, hints (int32 token ids): one a row; None: there are none.
    """
    ids, steps = (batch.column(n).flatten().to_numpy() for n in ("response_ids", "step"))
    starts, lengths = _spans(batch.column("response_ids"))
    # The first end token counts as part of the response: the model has to learn to end.
    slot = np.arange(len(ids)) - np.repeat(starts, lengths)
    ends = np.where(np.isin(ids, list(end_ids)), slot + 1, np.repeat(lengths, lengths))
    offsets = np.append(starts, len(ids)).astype(np.int32)
    prompts = batch.column("prompt_ids")
    prompt_ids = prompts.flatten().to_numpy()
    spans = zip(*_spans(prompts), strict=True)
    number = batch.num_rows
    columns = {
        **{name: batch.column(name) for name in _TAKEN},
        "question": pa.array([""] * number if questions is None else questions, pa.string()),
        "prompt_key": np.array([prompt_key(prompt_ids[i : i + n]) for i, n in spans], np.int64),
        "slot": pa.ListArray.from_arrays(offsets, (steps >= 0).view(np.uint8)),
        "length": np.minimum.reduceat(ends, starts) if number else np.empty(0),
        "num_revealed": np.add.reduceat(steps >= 0, starts, dtype=np.int32) if number else ends,
        "advantage": np.full(number, np.nan) if advantages is None else advantages,
        "hint_ids": pa.nulls(number, _IDS) if hints is None else to_lists(hints, _IDS),
    }
    return _batch(columns)


def from_examples(examples: Sequence[Any]) -> pa.RecordBatch:
    """Training rows of objects with the fields of a `ResponseExample`."""

    def lists(name: str, dtype: Any) -> pa.Array:
        found = [getattr(e, name) for e in examples]
        arrays = [None if a is None else np.asarray(a).astype(dtype, copy=False) for a in found]
        return to_lists(arrays, pa.list_(pa.from_numpy_dtype(dtype)))

    return _batch(
        {
            "id": pa.array([e.id for e in examples], pa.string()),
            "question": pa.array([""] * len(examples), pa.string()),
            "prompt_key": np.array([prompt_key(e.prompt_ids) for e in examples]),
            "prompt_ids": lists("prompt_ids", np.int32),
            "response_ids": lists("response_ids_N", np.int32),
            "slot": lists("slot_N", np.uint8),
            "length": np.array([e.length for e in examples]),
            "num_revealed": np.array([e.slot_N.sum() for e in examples]),
            "step": lists("step_N", np.int32),
            "order": lists("order_N", np.int32),
            "entropy": lists("entropy_N", np.float32),
            "advantage": np.array([e.advantage for e in examples], dtype=np.float64),
            "hint_ids": lists("hint_ids", np.int32),
        }
    )


def _batch(columns: dict[str, Any]) -> pa.RecordBatch:
    arrays = []
    for field in SCHEMA:
        column = columns[field.name]
        if isinstance(column, np.ndarray):
            column = pa.array(column.astype(field.type.to_pandas_dtype(), copy=False))
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _spans(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each list begins among the flattened values, and how long it is."""
    offsets = column.offsets.to_numpy()
    return offsets[:-1] - offsets[0], np.diff(offsets)


class Rows:
    """Some batches of training rows, and what is known of every row without looking at its tokens.

    Each array has one entry a row: prompt_tokens, num_slots, num_revealed (int32), prompt_key
    (int64), advantage (float64), has_order, has_hint (bool).
    """

    def __init__(
        self, batches: Iterable[pa.RecordBatch], *, fingerprint: str | None = None
    ) -> None:
        """fingerprint: of the content, where it is known."""
        self.batches = [batch for batch in batches if batch.num_rows]
        self._ends = np.cumsum([batch.num_rows for batch in self.batches])
        self._fingerprint = fingerprint
        self._views: dict[int, dict[str, Any]] = {}
        self.prompt_tokens = self._each(lambda b: _spans(b.column("prompt_ids"))[1], np.int32)
        self.num_slots = self._each(lambda b: _spans(b.column("response_ids"))[1], np.int32)
        self.num_revealed = self._each(lambda b: b.column("num_revealed"), np.int32)
        self.prompt_key = self._each(lambda b: b.column("prompt_key"), np.int64)
        self.advantage = self._each(lambda b: b.column("advantage"), np.float64)
        self.has_order = self._each(lambda b: b.column("order").is_valid(), bool)
        self.has_hint = self._each(lambda b: b.column("hint_ids").is_valid(), bool)

    @classmethod
    def of_file(cls, path: Path, *, fingerprint: str | None = None) -> "Rows":
        """Those of an Arrow file, which is mapped."""
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
        return cls(batches, fingerprint=fingerprint)

    @classmethod
    def of(cls, examples: Iterable[Any]) -> "Rows":
        """Those of objects with the fields of a `ResponseExample`, in memory."""
        listed = list(examples)
        return cls([from_examples(listed)] if listed else [])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.batches else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The columns of one row; lists are views of the file, a null is None."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[number]) + self.batches[number].num_rows
        if number not in self._views:
            batch = self.batches[number]
            self._views[number] = {f.name: _view(batch.column(f.name)) for f in SCHEMA}
        return {name: view(row) for name, view in self._views[number].items()}

    def questions(self, rows: np.ndarray) -> Iterator[pa.Array]:
        """The questions of some rows (increasing), in parts."""
        start = 0
        for batch, end in zip(self.batches, self._ends, strict=True):
            first, last = np.searchsorted(rows, (start, end))
            yield batch.column("question").take(pa.array(rows[first:last] - start))
            start = end

    @property
    def fingerprint(self) -> str:
        """Of all columns."""
        if self._fingerprint is None:
            self._fingerprint = keys.content_id(*(bytes(b.serialize()) for b in self.batches))
        return self._fingerprint

    def _each(self, of: Callable[[pa.RecordBatch], Any], dtype: Any) -> np.ndarray:
        parts = [np.asarray(of(batch), dtype=dtype) for batch in self.batches]
        return np.concatenate(parts) if parts else np.empty(0, dtype)


def _view(column: pa.Array) -> Callable[[int], Any]:
    """The value of a row of a column."""
    if not pa.types.is_list(column.type):
        return lambda row: column[row].as_py()
    starts, lengths = _spans(column)
    values, is_valid = column.flatten().to_numpy(), np.asarray(column.is_valid())
    return lambda row: values[starts[row] : starts[row] + lengths[row]] if is_valid[row] else None


def mapped(path: Path, make: Callable[[], Iterable[pa.RecordBatch]]) -> Rows:
    """The rows of a file beside `path`, mapped; made if it is not there whole.

    Any number of processes may ask together: the first one makes the file, the others wait for it.
    path: in a folder, the beginning of a name, which goes on with the hash of the file.
    make: gives the batches.
    """
    if (rows := _whole(path)) is None:
        with locked(path.parent / f"{path.name}.lock"):
            if (rows := _whole(path)) is None:
                rows = _made(path, make())
                pa.default_memory_pool().release_unused()
    return rows


def _whole(path: Path) -> Rows | None:
    for found in path.parent.glob(f"{path.name}-*{_SUFFIX}"):
        fingerprint = found.stem.rpartition("-")[2]
        # Before it is opened, for a damaged file that is mapped can end the process.
        if describe_file(found).sha256 == fingerprint:
            return Rows.of_file(found, fingerprint=fingerprint)
    return None


def _made(path: Path, batches: Iterable[pa.RecordBatch]) -> Rows:
    new = path.with_name(f"{path.name}.new")
    with replacing(new) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, SCHEMA) as file:
            for batch in batches:
                if batch.num_rows:
                    file.write_batch(batch)
    fingerprint = describe_file(new).sha256
    whole = path.with_name(f"{path.name}-{fingerprint}{_SUFFIX}")
    new.replace(whole)
    return Rows.of_file(whole, fingerprint=fingerprint)
