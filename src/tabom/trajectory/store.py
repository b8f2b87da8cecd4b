"""The store: responses kept batch by batch while a model decodes, chunk objects, a manifest.

While work goes on, every append is one Arrow file under `partial/`. The file appears whole, by a
rename, and its name holds a checksum of its bytes, so a reader knows a damaged file and drops it.
Nobody ever writes to a file of somebody else, so any number of processes may append, be killed
and start again. What is whole becomes a Parquet object `data/chunk-00017.parquet`, and a manifest
that lists the objects declares the folder complete.
"""

import json
import re
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import locked, write_bytes, write_text
from tabom.core.chunks import DATA, cut, facts_of
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import (
    FileFacts,
    Manifest,
    Mark,
    check_file,
    check_manifest,
    read_manifest,
    write_manifest,
)
from tabom.core.place import Place, entries, is_remote, place, remove
from tabom.trajectory.record import TRUNCATED, FloatArray, Trajectory
from tabom.trajectory.schema import (
    FIELD,
    SCHEMA,
    from_arrow,
    from_column,
    to_arrow,
    to_lists,
    validate_schema,
)

STAGE = "collect"
PARTIAL = "partial"
ROWS_PER_FILE = 4096  # of one Parquet file, and of what `finish` holds in memory
READ_ROWS = 256  # rows that are objects at one time while streaming
_READERS = 16  # footers read at one time
GROUP_ROWS = 1024  # of one Parquet row group
# Only texts are given dictionaries. Token ids and entropies hardly repeat: with a dictionary they
# take four times as long to write, and a third more bytes.
_PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [field.name for field in SCHEMA if pa.types.is_string(field.type)],
}
_NAME = re.compile(r"\d{20}-[0-9a-f]{8}-([0-9a-f]{8})\.arrow")

Folder = Place

_CARD = """\
---
configs: [{{config_name: default, data_files: [{{split: train, path: {data}/*.parquet}}]}}]
tags: [tabom, diffusion-language-model, decoding-trajectories]
---

# Decoding trajectories

{count} responses of a masked diffusion language model, each with the step at which every slot was
revealed and the entropy and confidence it had then (NaN: not recorded). Settings, versions and
hashes are in `manifest.json` (fingerprint `{fingerprint}`).

Columns, lists having one entry per response slot: `id`, `prompt`, `prompt_ids`, `response`,
`response_ids`, `step` (0-based model call, -1 never revealed), `order` (0-based total order: step,
then entropy, then slot), `entropy` (nats), `confidence`. `edits` has four numbers for each token
that was replaced after its reveal: slot, step, old token, new token.

    from datasets import load_dataset
    rows = load_dataset("path/to/this/folder", split="train")
"""


class Kept(NamedTuple):
    """A response that an unfinished store holds.

    field_KN: float32 nats, the entropies of every step, K steps by N slots; None where they were
        not kept.
    """

    trajectory: Trajectory
    field_KN: FloatArray | None


class TrajectoryWriter:
    """Keeps responses under `folder/partial/` as they come; what is there need not be done again.

    Nothing stays open between two calls, so there is nothing to close.
    """

    def __init__(self, folder: Folder) -> None:
        """folder: of this one piece of work, or its URL; made with the first append."""
        self.folder = place(folder)

    def append(
        self,
        trajectories: Sequence[Trajectory],
        fields: Sequence[FloatArray | None] | None = None,
    ) -> None:
        """Keep a batch as one file. When this returns, the batch survives a crash.

        fields: for each trajectory the entropies of every step, float32 `[K, N]` in nats, or None.
            A finished store has no place for them; they are for a resumed evaluation.
        Raises: OSError if the disk refuses; nothing of the batch is kept then.
        """
        if not trajectories:
            return
        batch = to_arrow(trajectories)
        if fields is not None:
            flat = [None if f is None else np.asarray(f, dtype=np.float32).ravel() for f in fields]
            column = to_lists(flat, FIELD.type)
            schema = SCHEMA.append(FIELD)
            batch = pa.RecordBatch.from_arrays([*batch.columns, column], schema=schema)
        # In memory first: the name must hold the checksum before the file has its name.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        content = sink.getvalue()
        # The time comes first in the name, so that sorted names are in the order of the writes.
        checksum = zlib.crc32(content)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}-{checksum:08x}.arrow"
        try:
            write_bytes(self.folder / PARTIAL / name, memoryview(content))
        except FileNotFoundError:
            # Whoever finishes the store removes `partial/`, perhaps in the middle of this write.
            if read_manifest(self.folder) is None:
                raise

    def done(self) -> set[str]:
        """The ids that are safely on disk."""
        batches = map(_load, _partial_files(self.folder))
        return {name for b in batches if b is not None for name in b.column("id").to_pylist()}

    def kept(self) -> Iterator[Kept]:
        """What is on disk, in the order it was written."""
        for path in _partial_files(self.folder):
            batch = _load(path)
            if batch is None:
                continue
            trajectories = from_arrow(batch, source=str(path))
            fields: list[FloatArray | None] = [None] * len(trajectories)
            if FIELD.name in batch.schema.names:
                fields = from_column(batch.column(FIELD.name))
            for trajectory, field in zip(trajectories, fields, strict=True):
                yield Kept(
                    trajectory, None if field is None else field.reshape(-1, trajectory.num_slots)
                )


def _partial_files(folder: Path) -> list[Path]:
    """Our files under `partial/`. What else lies there is not opened: it might be a pipe."""
    found = entries(folder / PARTIAL)
    return [folder / PARTIAL / e.name for e in found if _NAME.fullmatch(e.name)]


def _load(path: Path) -> pa.RecordBatch | None:
    """The batch of a partial file; None if it is damaged, or was removed by who finished the store.

    The file is read and not mapped: one that shrinks while it is mapped would kill the process.
    """
    match = _NAME.fullmatch(path.name)
    assert match is not None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if zlib.crc32(content) != int(match[1], 16):
        return None
    try:
        with pa.ipc.open_file(pa.py_buffer(content)) as file:
            batch = file.get_batch(0)
    except (pa.ArrowException, ValueError):  # whole, and yet no file of ours
        return None
    return batch if set(SCHEMA.names) <= set(batch.schema.names) else None


def finish(
    folder: Folder,
    *,
    fingerprint: str,
    settings: Mapping[str, Any],
    seconds: float,
    ids: Iterable[str] | None = None,
    counts: Mapping[str, int | float] | None = None,
) -> Manifest:
    """Make the partial files of a folder a finished store: chunk objects, and the manifest last.

    Memory grows with the number of ids and one object, not with the trajectories. A crash at any
    point leaves the partial files, and calling it again begins anew. Of several processes that
    call it together one works and the others find it done. A complete folder is left as it is.

    ids: the planned ids: rows are written in this order and all must be there. None: rows are
        sorted by id, so that the folder's content does not depend on who collected what.
    counts: for the manifest, beside those of `complete`, num_doubled (rows left out because their
        id came twice) and num_torn (files left out because they are damaged).
    Raises: StageError if nothing or not all was collected, or the folder is another run's;
        DataError if one id has two contents.
    """
    folder = Path(folder)
    mark = Mark(stage=STAGE, fingerprint=fingerprint, settings=dict(settings))
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    with locked(folder / PARTIAL / ".finish"):
        manifest = check_manifest(folder, mark)
        if manifest is None:
            found = Spool(folder)
            names = found.plan(ids)
            remove(folder / DATA)  # of a finish that was cut short
            chunks = {}
            for number, start in enumerate(range(0, len(names), ROWS_PER_FILE)):
                data, facts = to_object(found.gather(names[start : start + ROWS_PER_FILE]))
                name = f"{DATA}/chunk-{number:05d}.parquet"
                write_bytes(folder / name, data)
                chunks[name] = FileFacts(**facts_of(data)), facts
            manifest = complete(
                folder, mark, chunks, counts={**found.counts, **(counts or {})}, seconds=seconds
            )
        remove(folder / PARTIAL)
    return manifest


def complete(
    folder: Folder,
    mark: Mark,
    chunks: Mapping[str, tuple[FileFacts, Mapping[str, int]]],
    *,
    counts: Mapping[str, Any],
    seconds: float,
    others: Iterable[str] = (),
) -> Manifest:
    """Declare a store of chunk objects complete: a card, and the manifest last.

    chunks: the objects in their order, by path in the folder, each with what `to_object` counted.
    counts: for the manifest, beside the sums of those and num_chunks. others: files to list, too.
    """
    sums = Counter(num_chunks=len(chunks))
    for _, found in chunks.values():
        sums.update(found)
    data = next(iter(chunks)).rpartition("/")[0]
    card = _CARD.format(count=sums["num_trajectories"], fingerprint=mark.fingerprint, data=data)
    write_text(place(folder) / "README.md", card)
    return write_manifest(
        folder,
        mark,
        counts={**sums, **counts},
        seconds=seconds,
        files={**{n: facts for n, (facts, _) in chunks.items()}, "README.md": None}
        | dict.fromkeys(others),
    )


def to_object(rows: pa.RecordBatch) -> tuple[bytes, dict[str, int]]:
    """Rows as the bytes of a chunk object, and what is counted of them.

    The counts are num_trajectories, num_forwards, and num_truncated (stopped at the text, with
    slots undecoded).
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema, **_PARQUET) as writer:
        writer.write_batch(rows, row_group_size=GROUP_ROWS)
    # Searched first, for few rows say that they stopped, and parsing them all would be slow.
    said = (text for text in rows.column("row").to_pylist() if TRUNCATED in text)
    return sink.getvalue().to_pybytes(), {
        "num_trajectories": rows.num_rows,
        "num_forwards": sum(rows.column("num_forwards").to_pylist()),
        "num_truncated": sum(bool(json.loads(text).get(TRUNCATED)) for text in said),
    }


def read_object(data: bytes, path: Path, *, fingerprint: str | None = None) -> pa.RecordBatch:
    """The rows of a chunk object.

    Raises: DataError if it is none, or a row has another fingerprint than the one expected.
    """
    with _parquet(path, data) as file:
        validate_schema(file.schema_arrow, str(path))
        rows = file.read().combine_chunks()
    batch = pa.RecordBatch.from_arrays(
        [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in rows.columns],
        schema=rows.schema,
    )
    strange = {*batch.column("fingerprint").to_pylist()} - {fingerprint}
    if fingerprint is not None and strange:
        raise DataError(
            f"{path}: its rows have the fingerprint {min(strange)}, this run's is {fingerprint}; "
            "delete the file, or take another --output_dir"
        )
    return batch


class Spool:
    """The partial files of a folder: where each id lies, as the number of its file and the row."""

    def __init__(self, folder: Path) -> None:
        """Look into every partial file.

        Raises: DataError if two rows of one id differ in their tokens or steps. Entropies may
            differ in their last bits: they depend on what else was in the batch.
        """
        self.folder = folder
        self.paths = _partial_files(folder)
        self.place_of: dict[str, tuple[int, int]] = {}
        self.counts = {"num_doubled": 0, "num_torn": 0}
        for number, path in enumerate(self.paths):
            batch = _load(path)
            self.counts["num_torn"] += batch is None
            for row, name in enumerate([] if batch is None else batch.column("id").to_pylist()):
                first = self.place_of.setdefault(name, (number, row))
                if first == (number, row):
                    continue
                # Two workers decoded the same prompt; the row that was written first is kept.
                self.counts["num_doubled"] += 1
                if self._answer(*first) != self._answer(number, row):
                    raise DataError(
                        f"{path}, row {row}: trajectory {name!r} has other tokens or steps than in "
                        f"{self.paths[first[0]]}, row {first[1]}; one id has one content. Delete "
                        "the file you do not trust and run the collection again"
                    )

    def _answer(self, number: int, row: int) -> list[Any]:
        batch = self._load(number)
        return [batch.column(n)[row].as_py() for n in ("prompt_ids", "response_ids", "step")]

    def _load(self, number: int) -> pa.RecordBatch:
        batch = _load(self.paths[number])
        if batch is None:
            raise DataError(f"{self.paths[number]}: changed while it was read; run it again")
        return batch

    def plan(self, ids: Iterable[str] | None) -> list[str]:
        """The ids in the order of the finished store. Raises: StageError, see `finish`."""
        names = sorted(self.place_of) if ids is None else list(dict.fromkeys(ids))
        missing = [name for name in names if name not in self.place_of]
        extra = sorted(set(self.place_of).difference(names))
        if missing or extra or not names:
            raise StageError(
                f"{self.folder}: {len(missing)} of {len(names)} trajectories are missing "
                f"{missing[:1]}, {len(extra)} were not asked for {extra[:1]}; run the collection "
                "again, it resumes, or collect into another folder if the prompts were changed"
            )
        return names

    def gather(self, names: Sequence[str]) -> pa.RecordBatch:
        """The rows of these ids, in this order; each file they lie in is read once."""
        rows_of: dict[int, list[tuple[int, int]]] = {}  # file -> (row there, place in the result)
        for target, name in enumerate(names):
            number, row = self.place_of[name]
            rows_of.setdefault(number, []).append((row, target))
        parts = [
            self._load(number).select(SCHEMA.names).take(pa.array([row for row, _ in rows]))
            for number, rows in rows_of.items()
        ]
        targets = [target for rows in rows_of.values() for _, target in rows]
        # Collectors write in about the order of the plan, so that rows are seldom moved.
        rows = pa.concat_batches(parts)
        return rows if targets == sorted(targets) else rows.take(pa.array(np.argsort(targets)))


class TrajectoryStore:
    """The trajectories of a finished collection, or of one Parquet file, streamed from disk.

    Iterating holds a bounded number of rows whatever the size of the files. `manifest` is None for
    a file.
    """

    def __init__(self, path: Folder) -> None:
        """path: of a finished collection, or of a Parquet file; or the URL of one.

        Opening reads the manifest and lists the files with their sizes. A file is compared with its
        hash when its rows are first read, since Parquet itself reads a flipped bit as another
        number.
        Raises: StageError if no finished collection is there; DataError if a file that its manifest
            lists is missing or has another size, or a single file is not one of trajectories.
        """
        path = place(path)
        self.manifest = None if path.is_file() else _finished(path)
        self._files: dict[str, tuple[Path, FileFacts | None]] = {"": (path, None)}
        if self.manifest is None:
            with _parquet(path) as opened:
                validate_schema(opened.schema_arrow, str(path))
                self._num_rows: int = opened.metadata.num_rows
            return
        path = path / self.manifest.generation if self.manifest.generation else path
        # By number: from a hundred thousand on, names are longer.
        listed = sorted(
            self.manifest.files.items(), key=lambda item: (len(item[0].partition(".")[0]), item[0])
        )
        chunks = {name: facts for name, facts in listed if f"{DATA}/" in name}
        folders = {name.rpartition("/")[0] for name in chunks}
        sizes = {f"{f}/{e.name}": e.size for f in folders for e in entries(path / f)}
        for name, facts in chunks.items():
            if (size := sizes.get(name, 0)) != facts.bytes:
                raise DataError(
                    f"{path / name}: {size} bytes, the manifest says {facts.bytes}; copy it again"
                )
        self._files = {name: (path / name, facts) for name, facts in chunks.items()}
        self._num_rows = int(self.manifest.counts["num_trajectories"])

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Trajectory]:
        for name in self._files:
            yield from self._read(name)

    def __repr__(self) -> str:
        made_by = "" if self.manifest is None else f", fingerprint {self.manifest.fingerprint!r}"
        return f"TrajectoryStore({len(self)} trajectories in {len(self._files)} files{made_by})"

    def __getitem__(self, index: int) -> Trajectory:
        """One trajectory, for a look: its file is read up to it."""
        left = index + len(self) if index < 0 else index
        if 0 <= left < len(self):
            for name, (path, _) in self._files.items():
                with _parquet(path) as file:
                    count = int(file.metadata.num_rows)
                if left < count:
                    return next(self.rows(name, left, left + 1))
                left -= count
        raise IndexError(f"trajectory {index} of {len(self)}")

    def ranges(self, size: int) -> dict[str, list[tuple[int, int]]]:
        """The rows of each file cut into ranges of `size` at most. Reads the footers."""

        def count(name: str) -> int:
            with _parquet(self._files[name][0]) as file:
                return int(file.metadata.num_rows)

        with ThreadPoolExecutor(_READERS) as pool:
            counts = list(pool.map(count, self._files))
        return {n: cut(num, size) for n, num in zip(self._files, counts, strict=True)}

    def rows(self, name: str, start: int, end: int) -> Iterator[Trajectory]:
        """The trajectories of a range of one file, by the name that `ranges` has for it."""
        return islice(self._read(name), start, end)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows by some columns, as the files hold them; these are compared with their hashes.

        Rows were checked when they were written, and are not checked again.
        """
        for name in self._files:
            yield from self._columns(name, columns, GROUP_ROWS)

    def _read(self, name: str) -> Iterator[Trajectory]:
        first_row = 0
        for batch in self._columns(name, SCHEMA.names, READ_ROWS):
            source = str(self._files[name][0])
            yield from from_arrow(batch, source=source, first_row=first_row)
            first_row += batch.num_rows

    def _columns(self, name: str, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        (path, facts), data = self._files[name], None
        if is_remote(path):  # a chunk is a few MB: one request, and no second one for its hash
            data = path.read_bytes()
        if facts is not None:
            check_file(path, facts, data)
        with _parquet(path, data) as file:
            validate_schema(file.schema_arrow, str(path))
            yield from file.iter_batches(batch_size=size, columns=list(columns))


def _finished(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise StageError(
            f"{folder}: no finished collection (no manifest.json); collect into it, a rerun "
            f"resumes (`tabom status {folder}` tells how far it is)"
        )
    if manifest.stage != STAGE:
        raise StageError(f"{folder}: holds stage {manifest.stage!r}, expected {STAGE!r}")
    return manifest


@contextmanager
def _parquet(path: Path, data: bytes | None = None) -> Iterator[pq.ParquetFile]:
    """An open Parquet file, by its bytes where these are read; what goes wrong with it names it."""
    try:
        if data is None and is_remote(path):
            data = path.read_bytes()
        with pq.ParquetFile(path if data is None else pa.BufferReader(data)) as file:
            yield file
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); copy it again") from error
