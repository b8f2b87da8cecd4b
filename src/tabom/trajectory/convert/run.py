"""One conversion: read, check, write; everything that was left out is counted by reason."""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabom.core import manifest
from tabom.core.errors import ConfigError, DataError
from tabom.core.plain import fingerprint, to_plain
from tabom.trajectory.convert import authors, d3llm, step_map
from tabom.trajectory.convert.fields import ConvertOptions, Item, UnfitRowError
from tabom.trajectory.convert.rows import MalformedRowError, Row, read_rows, writing_rows
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import PARTIAL, STAGE, TrajectoryStore, TrajectoryWriter, finish

NATIVE = "native"
_FLUSH = 256  # trajectories that are made durable together
_NUM_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a file of one kind is read and written.

    read: the trajectory of a row. write: the row of a trajectory. expand: the rows of one
    trajectory each that a row stands for.
    """

    read: Callable[[Row, ConvertOptions], Item]
    write: Callable[[Trajectory, ConvertOptions], dict[str, Any]]
    expand: Callable[[Row], Iterable[Row]] = lambda row: (row,)


# A new file format is one more row.
FORMATS: dict[str, Format] = {
    "tabom_jsonl": Format(read=authors.read, write=authors.write),
    "step_map": Format(read=step_map.read, write=step_map.write, expand=step_map.expand),
    "d3llm": Format(read=d3llm.read, write=d3llm.write),
}
NAMES = (NATIVE, *FORMATS)


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


def convert(
    source: Path,
    destination: Path,
    *,
    source_format: str,
    destination_format: str = NATIVE,
    options: ConvertOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Convert the trajectories of `source` into `destination`.

    source: a file, or for "native" the folder of a collection (or a Parquet file of one).
    destination: a file that is not there yet, or for "native" a folder that becomes a finished
        collection, its rows in the order of the source.
    settings: what else decides the result (the model's identity), for the manifest of a collection.
    overwrite: replace the destination if it is there.
    Returns: the counts.
    Raises: DataError for a malformed row (file, row, field, why) unless `options.on_error` is
        "drop", and if nothing is left to write; ConfigError for an unknown format or an existing
        file or one that is the source; StageError for a folder that is not this conversion's.
    """
    for name in (source_format, destination_format):
        if name not in NAMES:
            raise ConfigError(f"trajectory format {name!r} is not one of {', '.join(NAMES)}")
    if source.resolve() == destination.resolve():
        raise ConfigError(f"{destination} is the source, too; name another destination")
    options = options or ConvertOptions()
    report = Report()
    everything = {
        **(settings or {}),
        "convert": {
            "from": source_format,
            "source": source.name,
            "content": _content(source, source_format),
            "allow_ltr": options.allow_ltr,
            "on_error": options.on_error,
            "reference_column": options.reference_column,
            "method": options.method,
            "accepted": None if options.accepted is None else fingerprint(sorted(options.accepted)),
        },
    }
    options = replace(options, fingerprint=options.fingerprint or fingerprint(everything))
    items = _read(source, source_format, options, report)
    if destination_format == NATIVE:
        _write_store(items, source, destination, everything, report, overwrite)
    else:
        if destination.exists() and not overwrite:
            raise ConfigError(f"{destination} exists; name another file, or pass --overwrite")
        with writing_rows(destination) as write:
            for item in items:
                with _counting_drops(report, options):
                    write(to_plain(FORMATS[destination_format].write(item.trajectory, options)))
                    _count(item, report)
            _require_some(source, report)
    return report


def _read(source: Path, name: str, options: ConvertOptions, report: Report) -> Iterator[Item]:
    if name == NATIVE:
        for trajectory in _store(source):
            report.num_rows += 1
            if _is_kept(trajectory, options, report):
                yield Item(trajectory)
        return
    for row in read_rows(source):
        report.num_rows += 1
        parts: Iterable[Row] = ()
        with _counting_drops(report, options):
            parts = FORMATS[name].expand(row)
        for part in parts:
            item = None
            with _counting_drops(report, options):
                item = FORMATS[name].read(part, options)
            if item is not None and _is_kept(item.trajectory, options, report):
                yield item


def _store(source: Path) -> TrajectoryStore:
    is_file = source.is_file() and source.suffix == ".parquet"
    return TrajectoryStore.from_parquet(source) if is_file else TrajectoryStore(source)


def _is_kept(trajectory: Trajectory, options: ConvertOptions, report: Report) -> bool:
    is_kept = options.accepted is None or trajectory.id in options.accepted
    if not is_kept:
        report.dropped["not accepted by the verifier"] += 1
    return is_kept


@contextmanager
def _counting_drops(report: Report, options: ConvertOptions) -> Iterator[None]:
    try:
        yield
    except UnfitRowError as reason:
        report.dropped[str(reason)] += 1
    except MalformedRowError as error:
        if options.on_error == "stop":
            raise DataError(
                f"{error}; mend or delete the row, or pass --on_error drop to leave such rows out "
                "and count them"
            ) from error
        report.dropped[f"malformed {error.field}".rstrip()] += 1
        if len(report.examples) < _NUM_EXAMPLES:
            report.examples.append(str(error))


def _count(item: Item, report: Report) -> None:
    report.num_written += 1
    report.num_ltr += item.is_ltr
    report.num_slots[item.trajectory.num_slots] += 1


def _require_some(place: Path, report: Report) -> None:
    if report.num_written:
        return
    reasons = ", ".join(f"{n} {why}" for why, n in report.dropped.most_common()) or "it is empty"
    lines = [f"{place}: none of {report.num_rows} rows could be converted ({reasons})"]
    raise DataError("\n  ".join(lines + report.examples))


def _write_store(
    items: Iterator[Item],
    source: Path,
    folder: Path,
    settings: dict[str, Any],
    report: Report,
    overwrite: bool,
) -> None:
    """A finished collection of the items, in their order."""
    started = time.perf_counter()
    digest = fingerprint(settings)
    if overwrite:
        manifest.reset(folder)
    if manifest.begin(folder, stage=STAGE, fingerprint=digest, settings=settings) == "complete":
        report.is_old, report.num_written = True, len(TrajectoryStore(folder))
        return
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # of an attempt that was cut short
    try:
        ids = _append_all(items, folder, report)
        _require_some(source, report)
    except DataError:
        manifest.reset(folder)  # the mended file is another source, so nothing here can go on
        raise
    finish(
        folder,
        fingerprint=digest,
        settings=settings,
        seconds=time.perf_counter() - started,
        ids=ids,
    )


def _append_all(items: Iterator[Item], folder: Path, report: Report) -> list[str]:
    """Write the items to the folder's partial files; their ids in order, each once."""
    seen: dict[str, bytes] = {}
    pending: list[Trajectory] = []
    writer = TrajectoryWriter(folder)
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
        _count(item, report)
        pending.append(t)
        if len(pending) == _FLUSH:
            writer.append(pending)
            pending.clear()
    writer.append(pending)
    return list(seen)


def _content(source: Path, name: str) -> str:
    """A hash of what is read: of the file's bytes, or the fingerprint of a collection."""
    if name == NATIVE and source.is_dir():
        store_manifest = TrajectoryStore(source).manifest
        assert store_manifest is not None
        return store_manifest.fingerprint
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
