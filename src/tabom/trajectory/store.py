"""The store: responses kept batch by batch while a model decodes, then a finished collection.

While work goes on, every append is one Arrow file under `partial/`. The file appears whole, by a
rename, and its name holds a checksum of its bytes, so a reader knows a damaged file and drops it.
Nobody ever writes to a file of somebody else, so any number of processes may append, be killed
and start again. `finish` then orders the rows, writes them as Parquet under `data/`, and declares
the folder complete with a manifest.
"""

import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.core.atomic import locked, replacing, write_bytes, write_text
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
PARTIAL, DATA = "partial", "data"
ROWS_PER_SHARD = 4096  # of one Parquet file, and of what `finish` holds in memory
READ_ROWS = 256  # rows that are objects at one time while streaming
GROUP_ROWS = 1024  # of one Parquet row group
# Only texts are given dictionaries. Token ids and entropies hardly repeat: with a dictionary they
# take four times as long to write, and a third more bytes.
_PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [field.name for field in SCHEMA if pa.types.is_string(field.type)],
}
_NAME = re.compile(r"\d{20}-[0-9a-f]{8}-([0-9a-f]{8})\.arrow")

Folder = str | os.PathLike[str]

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
        """folder: of this one piece of work, made with the first append."""
        self.folder = Path(folder)

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
    try:
        with os.scandir(folder / PARTIAL) as entries:
            ours = [e.path for e in entries if _NAME.fullmatch(e.name) and e.is_file()]
    except FileNotFoundError:
        return []
    return [Path(path) for path in sorted(ours)]


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
    """Make the partial files a finished store: Parquet shards, a card, and the manifest last.

    Memory grows with the number of ids and one shard, not with the trajectories. A crash at any
    point leaves the partial files, and calling it again begins anew. Of several processes that
    call it together one works and the others find it done. A complete folder is left as it is.

    ids: the planned ids: rows are written in this order and all must be there. None: rows are
        sorted by id, so that the folder's content does not depend on who collected what.
    counts: for the manifest, beside num_trajectories, num_shards, num_forwards, num_truncated
        (stopped at the text, with slots undecoded), num_doubled (rows left out because their id
        came twice) and num_torn (files left out because they are damaged).
    Raises: StageError if nothing or not all was collected, or the folder is another run's;
        DataError if one id has two contents.
    """
    folder = Path(folder)
    mark = Mark(stage=STAGE, fingerprint=fingerprint, settings=dict(settings))
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    with locked(folder / PARTIAL / ".finish"):
        manifest = check_manifest(folder, mark)
        if manifest is None:
            found = _Found(folder)
            names = found.plan(ids)
            shutil.rmtree(folder / DATA, ignore_errors=True)  # of a finish that was cut short
            files, written = _write_shards(folder, found, names)
            card = _CARD.format(count=len(names), fingerprint=fingerprint, data=DATA)
            write_text(folder / "README.md", card)
            manifest = write_manifest(
                folder,
                mark,
                counts={**written, **found.counts, **(counts or {})},
                seconds=seconds,
                files=[*files, "README.md"],
            )
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    return manifest


class _Found:
    """Where each id lies: the number of its partial file, and the row in that."""

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


def _write_shards(
    folder: Path, found: _Found, names: Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    """The files' names, and what is in them."""
    num_shards = -(-len(names) // ROWS_PER_SHARD)
    files = []
    num_forwards = num_truncated = 0
    for shard in range(num_shards):
        rows = found.gather(names[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD])
        num_forwards += sum(rows.column("num_forwards").to_pylist())
        # Searched first, for few rows say that they stopped, and parsing them all would be slow.
        said = (text for text in rows.column("row").to_pylist() if TRUNCATED in text)
        num_truncated += sum(bool(json.loads(text).get(TRUNCATED)) for text in said)
        files.append(f"{DATA}/train-{shard:05d}-of-{num_shards:05d}.parquet")
        with replacing(folder / files[-1]) as temporary:
            with pq.ParquetWriter(temporary, SCHEMA, **_PARQUET) as writer:
                writer.write_batch(rows, row_group_size=GROUP_ROWS)
    return files, {
        "num_trajectories": len(names),
        "num_shards": num_shards,
        "num_forwards": num_forwards,
        "num_truncated": num_truncated,
    }


class TrajectoryStore:
    """The trajectories of a finished collection, or of one Parquet file, streamed from disk.

    Iterating holds a bounded number of rows whatever the size of the files. `manifest` is None for
    a file.
    """

    def __init__(self, path: Folder) -> None:
        """path: of a finished collection, or of a Parquet file.

        Opening checks the manifest, the files' sizes and their footers. A file's hash is checked
        when its rows are first read, since Parquet itself reads a flipped bit as another number.
        Raises: StageError if no finished collection is there; DataError if a file that its manifest
            lists is missing, has another size or is not one of trajectories.
        """
        path = Path(path)
        self.manifest = None if path.is_file() else _finished(path)
        self._files: dict[Path, FileFacts | None] = {path: None}
        if self.manifest is not None:
            listed = sorted(self.manifest.files.items())
            self._files = {path / n: facts for n, facts in listed if n.endswith(".parquet")}
        self._num_rows = 0
        for file, facts in self._files.items():
            size = file.stat().st_size if file.is_file() else 0
            if facts is not None and size != facts.bytes:
                raise DataError(
                    f"{file}: {size} bytes, the manifest says {facts.bytes}; copy it again"
                )
            with _parquet(file) as opened:
                validate_schema(opened.schema_arrow, str(file))
                self._num_rows += opened.metadata.num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Trajectory]:
        for path, facts in self._files.items():
            if facts is not None:
                check_file(path, facts)
            first_row = 0
            with _parquet(path) as file:
                for batch in file.iter_batches(batch_size=READ_ROWS, columns=SCHEMA.names):
                    yield from from_arrow(batch, source=str(path), first_row=first_row)
                    first_row += batch.num_rows


def _finished(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise StageError(
            f"{folder}: no finished collection (no manifest.json, "
            f"{len(TrajectoryWriter(folder).done())} trajectories so far); collect into it, a "
            "rerun resumes"
        )
    if manifest.stage != STAGE:
        raise StageError(f"{folder}: holds stage {manifest.stage!r}, expected {STAGE!r}")
    return manifest


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; what goes wrong with it names it."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); copy it again") from error
