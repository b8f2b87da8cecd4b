"""A finished collection: Parquet shards that stream, made from the writers' partial files."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tabom.core.atomic import replacing, write_text
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import (
    Manifest,
    check_file,
    check_manifest,
    read_manifest,
    write_manifest,
)
from tabom.trajectory.partial import (
    PARTIAL,
    Line,
    Torn,
    TrajectoryWriter,
    decode_line,
    parse_row,
    read_lines,
    scan_partial,
)
from tabom.trajectory.record import TRUNCATED, Trajectory
from tabom.trajectory.schema import SCHEMA, from_arrow, to_arrow, validate_schema

__all__ = ["STAGE", "TrajectoryStore", "TrajectoryWriter", "finalize", "scan_partial"]

STAGE = "collect"
DATA = "data"
READ_ROWS = 256  # rows that are objects at one time while streaming

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
revealed and the entropy and confidence it had then. {origin}.
Settings, versions and hashes are in `manifest.json` (fingerprint `{fingerprint}`).

Per row: `response_ids`, `step` (0-based model call that revealed the slot, -1 never), `order`
(0-based total order: step, then entropy, then slot), `entropy` (nats), `confidence`.

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```
"""


@dataclass(frozen=True)
class _Entry:
    """What the first pass keeps of a trajectory: where it is, not what it says."""

    path: Path
    number: int
    offset: int
    num_bytes: int
    digest: bytes


def finalize(
    folder: str | os.PathLike[str],
    *,
    fingerprint: str,
    settings: Mapping[str, Any],
    seconds: float,
    rows_per_shard: int = 4096,
    ids: Iterable[str] | None = None,
    origin: str = "Collected by tabom",
    more_counts: Mapping[str, int | float] | None = None,
) -> Manifest:
    """Compact the partial files into Parquet shards, write the manifest, remove the partials.

    Two passes: the first keeps where each id lies, the second reads row by row, so memory grows
    with the number of ids and not with the trajectories. A crash at any point leaves the partials;
    calling it again begins anew. A folder that is complete already is left as it is.

    ids: the planned ids: rows are written in this order and all must be there. None: rows are
        sorted by id, so that the folder's content does not depend on who collected what.
    rows_per_shard: rows of one file. origin: where the trajectories come from, for the card.
    more_counts: for the manifest, beside its own.
    Returns: the manifest; counts are num_trajectories, num_shards, num_forwards, num_truncated
        (stopped at the text, with slots undecoded), num_doubled and num_torn (lines dropped because
        an id came twice, or because a crash cut them).
    Raises: StageError if nothing or not all was collected, or the folder is another run's;
        DataError if one id has two contents.
    """
    folder = Path(folder)
    state = check_manifest(folder, stage=STAGE, fingerprint=fingerprint, settings=settings)
    if state == "absent":
        torn = Torn()
        entries, num_doubled = _index(folder, torn)
        names = _plan(folder, entries, ids)
        if (folder / DATA).exists():  # left by a finalize that was cut short
            shutil.rmtree(folder / DATA)
        files, num_forwards, num_truncated = _write_shards(
            folder, [entries[n] for n in names], rows_per_shard
        )
        card = _CARD.format(count=len(names), fingerprint=fingerprint, data=DATA, origin=origin)
        write_text(folder / "README.md", card)
        write_manifest(
            folder,
            stage=STAGE,
            fingerprint=fingerprint,
            counts={
                "num_trajectories": len(names),
                "num_shards": len(files),
                "num_forwards": num_forwards,
                "num_truncated": num_truncated,
                "num_doubled": num_doubled,
                "num_torn": torn.count,
                **(more_counts or {}),
            },
            settings=settings,
            seconds=seconds,
            files=[*files, "README.md"],
        )
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def _index(folder: Path, torn: Torn) -> tuple[dict[str, _Entry], int]:
    entries: dict[str, _Entry] = {}
    num_doubled = 0
    for line in read_lines(folder, torn):
        digest = hashlib.blake2b(line.payload, digest_size=16).digest()
        entry = _Entry(line.path, line.number, line.offset, line.num_bytes, digest)
        first = entries.setdefault(line.id, entry)
        if first is entry:
            continue
        num_doubled += 1
        if first.digest != digest:
            raise DataError(_two_contents(line, first))
    return entries, num_doubled


def _two_contents(line: Line, first: _Entry) -> str:
    return (
        f"{line.place}: trajectory {line.id!r} differs from the one in {first.path}, line "
        f"{first.number}; one id has one content. Were two settings collected into one folder? "
        "Delete the file you do not trust and run the collection again"
    )


def _plan(folder: Path, entries: Mapping[str, _Entry], ids: Iterable[str] | None) -> list[str]:
    names = sorted(entries) if ids is None else list(dict.fromkeys(ids))
    if not entries:
        raise StageError(f"{folder}: nothing was collected; run the collection first")
    missing = [name for name in names if name not in entries]
    if missing:
        raise StageError(
            f"{folder}: {len(missing)} of {len(names)} trajectories are missing (first: "
            f"{missing[0]!r}); run the collection again, it resumes"
        )
    if len(entries) > len(names):
        extra = min(set(entries).difference(names))
        raise StageError(
            f"{folder}: holds {len(entries) - len(names)} trajectories that were not asked for "
            f"(first: {extra!r}); were the prompts changed? Collect into another folder"
        )
    return names


def _write_shards(
    folder: Path, entries: list[_Entry], rows_per_shard: int
) -> tuple[list[str], int, int]:
    """Names of the files, model calls, and responses that stopped at the text."""
    count = -(-len(entries) // rows_per_shard)
    files: list[str] = []
    num_forwards = num_truncated = 0
    for shard in range(count):
        name = f"{DATA}/train-{shard:05d}-of-{count:05d}.parquet"
        rows = entries[shard * rows_per_shard : (shard + 1) * rows_per_shard]
        with replacing(folder / name) as temporary:
            with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
                for start in range(0, len(rows), READ_ROWS):
                    chunk = [_load(entry) for entry in rows[start : start + READ_ROWS]]
                    num_forwards += sum(t.num_forwards for t in chunk)
                    num_truncated += sum(bool(t.row.get(TRUNCATED)) for t in chunk)
                    writer.write_batch(to_arrow(chunk))
        files.append(name)
    return files, num_forwards, num_truncated


def _load(entry: _Entry) -> Trajectory:
    place = f"{entry.path}, line {entry.number}"
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        payload = decode_line(file.read(entry.num_bytes))
    if payload is None:
        raise DataError(f"{place}: changed while it was read; is a writer still running?")
    return parse_row(payload, place=place)


class TrajectoryStore:
    """The trajectories of a finished collection, streamed from disk.

    Iterating holds a bounded number of rows whatever the size of the files. `manifest` is None for
    bare Parquet files.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """folder: of a finished collection.

        Raises: StageError if it is not finished, DataError if it does not exist or a file that
            its manifest lists is missing or has changed.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; collect trajectories into it first")
        self.manifest = read_manifest(self.folder)
        if self.manifest is None:
            raise StageError(
                f"{folder}: the collection is not finished (no manifest.json, "
                f"{len(scan_partial(self.folder))} trajectories so far); run it again, it resumes"
            )
        if self.manifest.stage != STAGE:
            raise StageError(
                f"{folder}: holds stage {self.manifest.stage!r}, expected {STAGE!r}; "
                "give the folder of a collection"
            )
        names = [name for name in self.manifest.files if name.endswith(".parquet")]
        if not names:
            raise DataError(f"{folder}: its manifest lists no Parquet file; was it edited?")
        for name in names:
            path, expected = self.folder / name, self.manifest.files[name]
            if not path.is_file():
                raise DataError(f"{path}: missing, though the manifest lists it; copy it again")
            if path.stat().st_size != expected["bytes"]:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes, the manifest says {expected['bytes']}; "
                    "copy it again"
                )
            check_file(path, expected)  # Parquet itself reads a flipped bit as another number
        self._open([self.folder / name for name in sorted(names)])

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str]) -> "TrajectoryStore":
        """A store over one Parquet file, or over every one below a folder, without a manifest.

        Raises: DataError if there is none, or one is not a trajectory file.
        """
        path = Path(path)
        paths = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        if not paths:
            raise DataError(f"{path}: no Parquet file there")
        store = cls.__new__(cls)
        store.folder, store.manifest = path, None
        store._open(paths)
        return store

    def _open(self, paths: list[Path]) -> None:
        self._paths = paths
        self._num_rows = 0
        for path in paths:
            with _parquet(path) as file:
                validate_schema(file.schema_arrow, str(path))
                self._num_rows += file.metadata.num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Trajectory]:
        for path in self._paths:
            first_row = 0
            for batch in _read(path, SCHEMA.names):
                yield from from_arrow(batch, source=str(path), first_row=first_row)
                first_row += batch.num_rows

    def batches(self, size: int) -> Iterator[list[Trajectory]]:
        """Lists of `size` trajectories in the stored order; the last one may be shorter."""
        rows = iter(self)
        while batch := list(itertools.islice(rows, size)):
            yield batch

    def head(self, n: int) -> list[Trajectory]:
        """The first n trajectories."""
        return list(itertools.islice(self, n))

    def ids(self) -> list[str]:
        """All ids in the stored order; only that column is read.

        Raises: DataError, naming the file, if an id occurs twice.
        """
        ids: dict[str, None] = {}
        for path in self._paths:
            for batch in _read(path, ["id"]):
                for name in batch.column(0).to_pylist():
                    if name in ids:
                        raise DataError(f"{path}: id {name!r} occurs twice; keep one row of it")
                    ids[name] = None
        return list(ids)


def _parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _read(path: Path, columns: list[str]) -> Iterator[Any]:
    with _parquet(path) as file:
        batches = file.iter_batches(batch_size=READ_ROWS, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: damaged ({error}); copy or collect it again") from error
            if batch is None:
                return
            yield batch
