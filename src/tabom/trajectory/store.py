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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tabom.core.atomic import locked, replacing, write_bytes, write_text
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import (
    FileFacts,
    Manifest,
    check_manifest,
    check_once,
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
configs:
- config_name: default
  data_files:
  - split: train
    path: {data}/*.parquet
tags:
- tabom
- diffusion-language-model
- decoding-trajectories
---

# Decoding trajectories

{count} responses of a masked diffusion language model, each with the step at which every slot was
revealed and the entropy and confidence it had then (NaN: not recorded). Settings, versions and
hashes are in `manifest.json` (fingerprint `{fingerprint}`).

Per row: `response_ids`, `step` (0-based model call that revealed the slot, -1 never), `order`
(0-based total order: step, then entropy, then slot), `entropy` (nats), `confidence`.

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
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
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        content = sink.getvalue()
        # The time comes first in the name, so that sorted names are in the order of the writes.
        checksum = zlib.crc32(content)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}-{checksum:08x}.arrow"
        write_bytes(self.folder / PARTIAL / name, memoryview(content))

    def done(self) -> set[str]:
        """The ids that are safely on disk."""
        ids: set[str] = set()
        for path in _partial_files(self.folder):
            batch = _load(path)
            if batch is not None:
                ids.update(batch.column("id").to_pylist())
        return ids

    def kept(self) -> Iterator[Kept]:
        """What is on disk, in the order it was written.

        Raises: DataError if a file is whole and yet holds no trajectories of this version.
        """
        for path in _partial_files(self.folder):
            batch = _load(path)
            if batch is None:
                continue
            trajectories = from_arrow(batch, source=str(path))
            fields: list[FloatArray | None] = [None] * len(trajectories)
            if FIELD.name in batch.schema.names:
                fields = from_column(batch.column(FIELD.name))
            for trajectory, field in zip(trajectories, fields, strict=True):
                shaped = None if field is None else field.reshape(-1, trajectory.num_slots)
                yield Kept(trajectory=trajectory, field_KN=shaped)


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
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an Arrow file of tabom ({error}); delete it") from error
    validate_schema(batch.schema, str(path))
    return batch


def finish(
    folder: Folder,
    *,
    fingerprint: str,
    settings: Mapping[str, Any],
    seconds: float,
    ids: Iterable[str] | None = None,
    stage: str = STAGE,
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
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    with locked(folder / PARTIAL / ".finish"):
        state = check_manifest(folder, stage=stage, fingerprint=fingerprint, settings=settings)
        if state == "absent":
            found = _Found.read(folder)
            names = found.plan(folder, ids)
            shutil.rmtree(folder / DATA, ignore_errors=True)  # of a finish that was cut short
            files, shard_counts = _write_shards(folder, found, names)
            card = _CARD.format(count=len(names), fingerprint=fingerprint, data=DATA)
            write_text(folder / "README.md", card)
            write_manifest(
                folder,
                stage=stage,
                fingerprint=fingerprint,
                counts={
                    "num_trajectories": len(names),
                    "num_shards": len(files),
                    **shard_counts,
                    "num_doubled": found.num_doubled,
                    "num_torn": found.num_torn,
                    **(counts or {}),
                },
                settings=settings,
                seconds=seconds,
                files=[*files, "README.md"],
            )
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


class _Found:
    """Where each id lies: the number of its partial file, and the row in that."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.place_of: dict[str, tuple[int, int]] = {}
        self.num_doubled = 0
        self.num_torn = 0

    @classmethod
    def read(cls, folder: Path) -> "_Found":
        """Look into every partial file.

        Raises: DataError if two rows of one id differ in their tokens or steps. Entropies may
            differ in their last bits: they depend on what else was in the batch.
        """
        found = cls()
        for path in _partial_files(folder):
            batch = _load(path)
            if batch is None:
                found.num_torn += 1
                continue
            for row, name in enumerate(batch.column("id").to_pylist()):
                place = found.place_of.setdefault(name, (len(found.paths), row))
                if place == (len(found.paths), row):
                    continue
                found.num_doubled += 1
                first = found.paths[place[0]] if place[0] < len(found.paths) else path
                if _answer(first, place[1]) != _answer(path, row):
                    raise DataError(
                        f"{path}, row {row}: trajectory {name!r} has other tokens or steps than "
                        f"in {first}, row {place[1]}; one id has one content. Were two settings "
                        "collected into one folder? Delete the file you do not trust and run the "
                        "collection again"
                    )
            found.paths.append(path)
        return found

    def plan(self, folder: Path, ids: Iterable[str] | None) -> list[str]:
        """The ids in the order of the finished store. Raises: StageError, see `finish`."""
        names = sorted(self.place_of) if ids is None else list(dict.fromkeys(ids))
        if not self.place_of:
            raise StageError(f"{folder}: nothing was collected; run the collection first")
        missing = [name for name in names if name not in self.place_of]
        if missing:
            raise StageError(
                f"{folder}: {len(missing)} of {len(names)} trajectories are missing (first: "
                f"{missing[0]!r}); run the collection again, it resumes"
            )
        if len(self.place_of) > len(names):
            extra = min(set(self.place_of).difference(names))
            raise StageError(
                f"{folder}: holds {len(self.place_of) - len(names)} trajectories that were not "
                f"asked for (first: {extra!r}); were the prompts changed? Collect into another "
                "folder"
            )
        return names

    def gather(self, names: Sequence[str]) -> pa.RecordBatch:
        """The rows of these ids, in this order; each file they lie in is read once."""
        rows_of: dict[int, list[tuple[int, int]]] = {}  # file -> (row there, place in the result)
        for target, name in enumerate(names):
            number, row = self.place_of[name]
            rows_of.setdefault(number, []).append((row, target))
        parts, targets = [], []
        for number, rows in rows_of.items():
            batch = _load(self.paths[number])
            if batch is None:
                raise DataError(f"{self.paths[number]}: changed while it was read; run it again")
            parts.append(batch.select(SCHEMA.names).take(pa.array([row for row, _ in rows])))
            targets += [target for _, target in rows]
        rows = pa.concat_batches(parts)
        return rows if targets == sorted(targets) else rows.take(pa.array(np.argsort(targets)))


def _answer(path: Path, row: int) -> list[Any]:
    batch = _load(path)
    names = ("prompt_ids", "response_ids", "step")
    return [] if batch is None else [batch.column(name)[row].as_py() for name in names]


def _write_shards(
    folder: Path, found: _Found, names: Sequence[str]
) -> tuple[list[str], dict[str, int]]:
    """The files' names, and the counts of model calls and of responses that stopped at the text."""
    num_shards = -(-len(names) // ROWS_PER_SHARD)
    files = []
    num_forwards = num_truncated = 0
    for shard in range(num_shards):
        rows = found.gather(names[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD])
        num_forwards += pc.sum(rows.column("num_forwards")).as_py()
        # Text is searched first, for few rows say that they stopped and parsing them all is slow.
        said = rows.filter(pc.match_substring(rows.column("row"), f'"{TRUNCATED}": true'))
        texts = said.column("row").to_pylist()
        num_truncated += sum(bool(json.loads(text).get(TRUNCATED)) for text in texts)
        files.append(f"{DATA}/train-{shard:05d}-of-{num_shards:05d}.parquet")
        with replacing(folder / files[-1]) as temporary:
            with pq.ParquetWriter(temporary, SCHEMA, **_PARQUET) as writer:
                writer.write_batch(rows, row_group_size=GROUP_ROWS)
    return files, {"num_forwards": num_forwards, "num_truncated": num_truncated}


class TrajectoryStore:
    """The trajectories of a finished collection, streamed from disk.

    Iterating holds a bounded number of rows whatever the size of the files. `manifest` is None for
    bare Parquet files.
    """

    def __init__(self, folder: Folder) -> None:
        """folder: of a finished collection.

        Opening checks the manifest, the files' sizes and their footers. A file's hash is checked
        when its rows are first read, since Parquet itself reads a flipped bit as another number.
        Raises: StageError if it is not finished, DataError if it does not exist or a file that
            its manifest lists is missing or has another size.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; collect trajectories into it first")
        self.manifest = read_manifest(self.folder)
        if self.manifest is None:
            num_done = len(TrajectoryWriter(folder).done())
            raise StageError(
                f"{folder}: the collection is not finished (no manifest.json, "
                f"{num_done} trajectories so far); run it again, it resumes"
            )
        if self.manifest.stage != STAGE:
            raise StageError(
                f"{folder}: holds stage {self.manifest.stage!r}, expected {STAGE!r}; "
                "give the folder of a collection"
            )
        listed = {
            self.folder / name: entry
            for name, entry in sorted(self.manifest.files.items())
            if name.endswith(".parquet")
        }
        if not listed:
            raise DataError(f"{folder}: its manifest lists no Parquet file; was it edited?")
        for path, entry in listed.items():
            if not path.is_file():
                raise DataError(f"{path}: missing, though the manifest lists it; copy it again")
            if path.stat().st_size != entry.bytes:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes, the manifest says {entry.bytes}; "
                    "copy it again"
                )
        self._open(listed)

    @classmethod
    def from_parquet(cls, path: Folder) -> "TrajectoryStore":
        """A store over one Parquet file, or over every one below a folder, without a manifest.

        Raises: DataError if there is none, or one is not a trajectory file.
        """
        path = Path(path)
        paths = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        if not paths:
            raise DataError(f"{path}: no Parquet file there")
        store = cls.__new__(cls)
        store.folder, store.manifest = path, None
        store._open(dict.fromkeys(paths))
        return store

    def _open(self, files: Mapping[Path, FileFacts | None]) -> None:
        self._files = files  # with what the manifest says of each
        self._num_rows = 0
        for path in files:
            with _parquet(path) as file:
                validate_schema(file.schema_arrow, str(path))
                self._num_rows += file.metadata.num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Trajectory]:
        for path in self._files:
            first_row = 0
            for batch in self._read(path, SCHEMA.names):
                yield from from_arrow(batch, source=str(path), first_row=first_row)
                first_row += batch.num_rows

    def _read(self, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
        expected = self._files[path]
        if expected is not None:
            check_once(path, expected)
        with _parquet(path) as file:
            batches = file.iter_batches(batch_size=READ_ROWS, columns=columns)
            while True:
                try:
                    batch = next(batches, None)
                except (OSError, ValueError) as error:
                    raise DataError(
                        f"{path}: damaged ({error}); copy or collect it again"
                    ) from error
                if batch is None:
                    return
                yield batch


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
