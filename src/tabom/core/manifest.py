"""What a stage's folder is: begun, complete, or somebody else's.

A stage writes `.started.json` first and `manifest.json` last. The manifest's presence means that
the folder is complete; a folder with the start mark alone is a partial that the same run resumes.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from tabom.core import env
from tabom.core.atomic import LOCK, TEMPORARY_SUFFIX, read_json, write_json
from tabom.core.configs import build
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.plain import to_plain

MANIFEST = "manifest.json"
STARTED = ".started.json"
_MAX_DIFFERENCES = 8
_WAYS_OUT = "take another --output_dir, or pass --overwrite to delete what is there and start again"

Folder = str | os.PathLike[str]
M = TypeVar("M")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What a manifest says of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a folder was begun for.

    stage: which stage. fingerprint: of everything its content depends on. settings: that, in plain
    values. created: UTC, ISO 8601.
    """

    stage: str
    fingerprint: str
    settings: dict[str, Any]
    created: str = field(default_factory=_now)


@dataclass(frozen=True, kw_only=True)
class Manifest(Mark):
    """The record of one complete stage.

    counts: what is in it (`num_*`). files: by relative path. versions: of the packages. seconds:
    wall time of the stage.
    """

    counts: dict[str, Any]
    files: dict[str, FileFacts]
    versions: dict[str, Any]
    seconds: float


def write_manifest(
    folder: Folder,
    *,
    stage: str,
    fingerprint: str,
    counts: Mapping[str, int | float],
    settings: Mapping[str, Any],
    seconds: float,
    files: Iterable[str] | None = None,
) -> Manifest:
    """Declare the folder complete. Call it last.

    files: relative paths to list with their hashes; None: every file in the folder, names that
        start with a dot left out (at any depth).
    Returns: the manifest as written.
    Raises: DataError if a listed file is missing.
    """
    folder = Path(folder)
    names = sorted(_all_files(folder) if files is None else set(files))
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint,
        counts=dict(counts),
        files={name: describe_file(folder / name) for name in names},
        settings=to_plain(settings),
        versions=env.versions(),
        seconds=round(float(seconds), 3),
    )
    write_json(folder / MANIFEST, manifest)
    (folder / STARTED).unlink(missing_ok=True)
    return manifest


def read_manifest(folder: Folder) -> Manifest | None:
    """The folder's manifest, or None where there is none.

    Raises: DataError, naming the file, if it is not a manifest.
    """
    return _read(Path(folder) / MANIFEST, Manifest)


def _read(path: Path, kind: type[M]) -> M | None:
    if not path.is_file():
        return None
    try:
        return build(kind, read_json(path))
    except ConfigError as error:
        raise DataError(f"{path}: tabom did not write this ({error}); was it edited?") from error


def check_manifest(
    folder: Folder, *, stage: str, fingerprint: str, settings: Mapping[str, Any] | None = None
) -> Literal["complete", "absent"]:
    """Whether the folder already holds this very stage.

    settings: of the present run, to name what differs in the error.
    Returns: "complete", or "absent" for a folder that is missing, empty or begun by this same run.
    Raises: StageError if the folder belongs to another stage or another fingerprint.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    there = manifest or _read(folder / STARTED, Mark)
    if there is None:
        return "absent"
    state = "an unfinished run" if manifest is None else "results"
    if there.stage != stage:
        raise StageError(
            f"output folder {folder} holds {state} of stage {there.stage!r}, expected {stage!r}; "
            f"{_WAYS_OUT}"
        )
    if there.fingerprint != fingerprint:
        raise StageError(
            f"output folder from another recipe: {folder} holds {state} of stage {stage!r} with "
            f"fingerprint {there.fingerprint}, this run's is {fingerprint}\n"
            f"{_differences(there.settings, settings)}\n{_WAYS_OUT}"
        )
    return "absent" if manifest is None else "complete"


def begin(
    folder: Folder, *, stage: str, fingerprint: str, settings: Mapping[str, Any]
) -> Literal["complete", "started"]:
    """Claim the folder for this stage before the first result is written.

    Returns: "complete" if it holds this very stage already (nothing is touched), else "started".
    Raises: StageError if it belongs to another run, or holds files that no run of ours left.
    """
    folder = Path(folder)
    if check_manifest(folder, stage=stage, fingerprint=fingerprint, settings=settings) != "absent":
        return "complete"
    names = check_ours(folder)
    if STARTED in names:
        return "started"
    folder.mkdir(parents=True, exist_ok=True)
    mark(folder, stage, fingerprint, settings)
    return "started"


def mark(folder: Path, stage: str, fingerprint: str, settings: Mapping[str, Any]) -> None:
    """Say what a folder is begun for."""
    if not (folder / STARTED).is_file() and not (folder / MANIFEST).is_file():
        found = Mark(stage=stage, fingerprint=fingerprint, settings=dict(settings))
        write_json(folder / STARTED, found)


def check_ours(folder: Folder) -> list[str]:
    """The names in a folder that a stage may write into: a new or an empty one, or one it began.

    Returns: the names, without locks and temporary files; [] for a folder that is not there.
    Raises: StageError for a file, and for a folder that holds what tabom did not make. To mark
        that as ours would let a later --overwrite delete what is not ours.
    """
    names = _names(Path(folder))
    if names and not {MANIFEST, STARTED}.intersection(names):
        raise StageError(
            f"output folder {folder} is not empty and was not made by tabom (it holds "
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}); "
            "take another --output_dir, or empty it yourself"
        )
    return names


def holds_results(folder: Folder) -> bool:
    """Whether there is more in a stage's folder than the mark of its start."""
    return bool(set(_names(Path(folder))) - {STARTED})


def _names(folder: Path) -> list[str]:
    if folder.exists() and not folder.is_dir():
        raise StageError(f"{folder} is a file, expected an output folder; take another path")
    # One snapshot: several ranks may begin at the same moment.
    names = os.listdir(folder) if folder.exists() else []
    return sorted(n for n in names if n != LOCK and not n.endswith(TEMPORARY_SUFFIX))


def reset(folder: Folder) -> None:
    """Empty a folder that a stage of ours made; a missing or empty folder is left as it is.

    The lock file stays, since the caller may hold it.
    Raises: StageError if the folder carries neither a manifest nor a start mark.
    """
    folder = Path(folder)
    if not _names(folder):
        return
    names = [n for n in os.listdir(folder) if n != LOCK]
    marks = [n for n in (MANIFEST, STARTED) if n in names]
    if not marks:
        raise StageError(
            f"{folder} carries neither {MANIFEST} nor {STARTED}, so tabom did not make it and "
            "--overwrite will not delete it; remove it yourself if you mean to"
        )
    # The marks go last: a reset that is cut short leaves a folder that still is ours.
    for name in [n for n in names if n not in marks] + marks:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_file(path: Path, expected: FileFacts) -> None:
    """Recompute the hash of one file. expected: what its manifest says.

    Raises: DataError if the file is missing or changed.
    """
    found = describe_file(path)
    if found != expected:
        raise DataError(
            f"{path}: changed since the stage wrote it (sha256 {found.sha256[:12]}..., "
            f"{found.bytes} bytes; expected {expected.sha256[:12]}..., {expected.bytes} bytes); "
            "copy it again, or run the stage again"
        )


_checked: set[tuple[str, int, int, str]] = set()


def check_once(path: Path, expected: FileFacts) -> None:
    """`check_file`, at most once a process for a file that keeps its size and time.

    Call it where a file's bytes are first read. Raises: DataError, see `check_file`.
    """
    if not path.is_file():
        check_file(path, expected)
    stat = path.stat()
    # A study opens one adapter in many stages; reading a large one takes seconds.
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, expected.sha256)
    if key not in _checked:
        check_file(path, expected)
        _checked.add(key)


def check_folder(folder: Folder) -> None:
    """`check_once` of the files directly in a folder, if a stage of ours wrote it.

    Those in subfolders (shards, checkpoints) are checked by whoever opens them.
    """
    found = read_manifest(folder) if _is_ours(Path(folder)) else None
    for name, expected in (found.files if found else {}).items():
        # A model card is for people, who may add to it.
        if "/" not in name and not name.endswith(".md"):
            check_once(Path(folder) / name, expected)


def _is_ours(folder: Path) -> bool:
    """Whether the manifest.json of a folder is of tabom; other tools have files of that name."""
    content = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    return isinstance(content, dict) and "fingerprint" in content


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `{"decoding.policy": "entropy", ...}`; lists of scalars stay one value."""
    if isinstance(settings, Mapping):
        items = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list) and any(isinstance(v, (Mapping, list)) for v in settings):
        items = [(str(i), value) for i, value in enumerate(settings)]
    else:
        return {prefix: settings}
    flat: dict[str, Any] = {} if items or not prefix else {prefix: settings}
    for key, value in items:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat


def _differences(there: Mapping[str, Any], here: Mapping[str, Any] | None) -> str:
    if here is None:
        return "  (its settings are in its manifest)"
    old, new = flatten(there), flatten(to_plain(here))
    keys = [k for k in {**old, **new} if (k in old) != (k in new) or old[k] != new[k]]
    if not keys:
        return "  no setting differs: the model, the data or the code changed"

    def show(flat: Mapping[str, Any], key: str) -> str:
        return repr(flat[key]) if key in flat else "absent"

    lines = [f"  {k}: {show(old, k)} there, {show(new, k)} here" for k in keys[:_MAX_DIFFERENCES]]
    if len(keys) > _MAX_DIFFERENCES:
        lines.append(f"  ... and {len(keys) - _MAX_DIFFERENCES} more")
    return "\n".join(lines)


def _all_files(folder: Path) -> list[str]:
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        r.as_posix()
        for r in relative
        if r.as_posix() != MANIFEST and not any(part.startswith(".") for part in r.parts)
    ]


def describe_file(path: Path) -> FileFacts:
    """The hash and the size of a file. DataError if it is missing."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, though the manifest lists it; run the stage again"
        ) from error
    return FileFacts(sha256=digest.hexdigest(), bytes=size)
