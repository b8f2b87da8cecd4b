"""One conversion: read, check, write; everything that was left out is counted by reason."""

import gzip
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabom.core import manifest
from tabom.core.atomic import replacing
from tabom.core.errors import ConfigError, DataError
from tabom.core.plain import fingerprint
from tabom.core.rows import MalformedRowError, Row, read_rows
from tabom.trajectory.convert import authors, d3llm, step_map
from tabom.trajectory.convert.fields import ConvertOptions, Item, UnfitRowError
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import PARTIAL, STAGE, TrajectoryStore, TrajectoryWriter, finish

_FLUSH = 256  # trajectories that are made durable together
_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a file of one kind is read.

    read: the trajectory of a row. expand: the rows of one trajectory each that a row stands for.
    """

    read: Callable[[Row, ConvertOptions], Item]
    expand: Callable[[Row], Iterable[Row]] = lambda row: (row,)


# A new file format is one more row.
FORMATS: dict[str, Format] = {
    "tabom_jsonl": Format(read=authors.read),
    "step_map": Format(read=step_map.read, expand=step_map.expand),
    "d3llm": Format(read=d3llm.read),
}


@dataclass(kw_only=True)
class Report:
    """What a conversion did.

    num_rows: rows read. num_written: trajectories written. num_ltr: those among them whose order
    was missing and taken as left to right. dropped: reason -> number of rows or trajectories.
    num_slots: response slots -> number of trajectories. examples: the first malformed rows' errors.
    is_old: the destination held this very conversion already, and nothing was done.
    """

    num_rows: int = 0
    num_written: int = 0
    num_ltr: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    num_slots: Counter[int] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    is_old: bool = False

    def add(self, item: Item) -> None:
        """Count a trajectory that is written."""
        self.num_written += 1
        self.num_ltr += item.is_ltr
        self.num_slots[item.trajectory.num_slots] += 1

    @contextmanager
    def counting_drops(self, options: ConvertOptions) -> Iterator[None]:
        """Count a row that fails inside, or stop at it, as the options say."""
        try:
            yield
        except UnfitRowError as reason:
            self.dropped[str(reason)] += 1
        except MalformedRowError as error:
            if options.on_error == "stop":
                raise DataError(
                    f"{error}; mend or delete the row, or pass --on_error drop to leave such rows "
                    "out and count them"
                ) from error
            self.dropped[f"malformed {error.field}".rstrip()] += 1
            if len(self.examples) < _NUM_EXAMPLES:
                self.examples.append(str(error))

    def require_some(self, place: Path) -> None:
        """Raises: DataError, with what was dropped, if nothing was written."""
        if self.num_written:
            return
        reasons = ", ".join(f"{n} {why}" for why, n in self.dropped.most_common()) or "it is empty"
        lines = [f"{place}: none of {self.num_rows} rows could be converted ({reasons})"]
        raise DataError("\n  ".join(lines + self.examples))


def import_file(
    source: Path,
    folder: Path,
    *,
    source_format: str,
    options: ConvertOptions,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> Report:
    """Make a finished collection of a file of others, its rows in their order.

    folder: one that is not there yet, or that an equal conversion left unfinished.
    settings: what else decides the result (the model's identity), for the manifest.
    overwrite: replace the folder if a stage of ours made it.
    Raises: DataError for a malformed row (file, row, field, why) unless `options.on_error` is
        "drop", if one id has two contents, and if nothing is left to write; StageError for a
        folder that is not this conversion's.
    """
    started, report = time.perf_counter(), Report()
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    everything = {
        **settings,
        "convert": {
            "from": source_format,
            "source": source.name,
            "content": manifest.describe_file(source)["sha256"],
            "allow_ltr": options.allow_ltr,
            "on_error": options.on_error,
            "reference_column": options.reference_column,
            "method": options.method,
        },
    }
    digest = fingerprint(everything)
    if overwrite:
        manifest.reset(folder)
    if manifest.begin(folder, stage=STAGE, fingerprint=digest, settings=everything) == "complete":
        report.is_old, report.num_written = True, len(TrajectoryStore(folder))
        return report
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # of an attempt that was cut short
    items = _read(source, FORMATS[source_format], replace(options, fingerprint=digest), report)
    try:
        ids = _append_all(items, TrajectoryWriter(folder), report)
        report.require_some(source)
    except DataError:
        manifest.reset(folder)  # the mended file is another source, so nothing here can go on
        raise
    seconds = time.perf_counter() - started
    finish(folder, fingerprint=digest, settings=everything, seconds=seconds, ids=ids)
    return report


def export(source: Path, path: Path, *, options: ConvertOptions, overwrite: bool = False) -> Report:
    """Write a collection (or a Parquet file of one) as the authors' JSON Lines.

    path: a .jsonl or .jsonl.gz file. Raises: ConfigError if it exists or is named otherwise.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; name another file, or pass --overwrite")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{path}: name the file .jsonl or .jsonl.gz")
    is_file = source.is_file() and source.suffix == ".parquet"
    store = TrajectoryStore.from_parquet(source) if is_file else TrajectoryStore(source)
    report = Report(num_rows=len(store))
    with replacing(path) as temporary, temporary.open("wb") as raw:
        # No name and no time in the gzip header: equal rows give equal files.
        is_packed = path.suffix == ".gz"
        file: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if is_packed else raw
        for trajectory in store:
            if options.accepted is not None and trajectory.id not in options.accepted:
                report.dropped["not accepted by the verifier"] += 1
                continue
            cells = authors.write(trajectory, options.vocabulary)
            text = json.dumps(cells, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            file.write(text.encode() + b"\n")
            report.add(Item(trajectory))
        if is_packed:
            file.close()
        report.require_some(source)
    return report


def _read(source: Path, how: Format, options: ConvertOptions, report: Report) -> Iterator[Item]:
    for row in read_rows(source):
        report.num_rows += 1
        parts: Iterable[Row] = ()
        with report.counting_drops(options):
            parts = how.expand(row)
        for part in parts:
            item = None
            with report.counting_drops(options):
                item = how.read(part, options)
            if item is not None:
                yield item


def _append_all(items: Iterator[Item], writer: TrajectoryWriter, report: Report) -> list[str]:
    """Keep the items in the folder's partial files; their ids in order, each once."""
    seen: dict[str, bytes] = {}
    pending: list[Trajectory] = []
    for item in items:
        t = item.trajectory
        answer = (t.prompt_ids, t.response_ids_N, t.step_N)
        content = hashlib.blake2b(b"|".join(part.tobytes() for part in answer)).digest()
        first = seen.setdefault(t.id, content)
        if first != content:
            raise DataError(
                f"two trajectories have the id {t.id!r} and differ; one id has one content: "
                "give each row an id of its own, or delete one of them"
            )
        if first is not content:
            report.dropped["the same row again"] += 1
            continue
        report.add(item)
        pending.append(t)
        if len(pending) == _FLUSH:
            writer.append(pending)
            pending.clear()
    writer.append(pending)
    return list(seen)
