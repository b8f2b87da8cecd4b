"""What a stage's folder is: begun, complete, or somebody else's.

A stage writes `.started.json` first and `manifest.json` last. The manifest's presence means that
the folder is complete; a folder with the start mark alone is a partial that the same run resumes.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tabom.core import configs, env
from tabom.core.atomic import LOCK, TEMPORARY_SUFFIX, read_json, write_json, write_text
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.place import Place, copy, is_remote, place, remove

MANIFEST = "manifest.json"
STARTED = ".started.json"
_SEAL = "seal"  # its key in a JSON file: no other file holds a hash of these
_MAX_DIFFERENCES = 8
_WAYS_OUT = "take another --output_dir, or pass --overwrite to delete what is there and start again"

Folder = Place
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
    wall time of the stage. generation: the folder in this one that holds the files and their own
    manifest, where an object store was written a second time.
    """

    counts: dict[str, Any]
    files: dict[str, FileFacts]
    versions: dict[str, Any]
    seconds: float
    generation: str = ""


def write_manifest(
    folder: Folder,
    mark: Mark,
    *,
    counts: Mapping[str, Any],
    seconds: float,
    files: Iterable[str] | Mapping[str, FileFacts | None] | None = None,
) -> Manifest:
    """Declare the folder complete. Call it last.

    files: relative paths to list with their hashes (a mapping has those that are known already);
        None: every file in the folder, names that start with a dot left out (at any depth).
    Returns: the manifest as written.
    Raises: DataError if a listed file is missing.
    """
    folder = place(folder)
    if files is None:
        root = folder.as_posix().rstrip("/") + "/"
        inside = (p.as_posix().removeprefix(root) for p in folder.rglob("*") if p.is_file())
        files = {n for n in inside if not any(part[0] == "." for part in n.split("/"))} - {MANIFEST}
    known = files if isinstance(files, Mapping) else {}
    manifest = Manifest(
        **vars(mark),
        counts=dict(counts),
        files={name: known.get(name) or describe_file(folder / name) for name in sorted({*files})},
        versions=env.versions(),
        seconds=round(float(seconds), 3),
    )
    write_sealed(folder / MANIFEST, manifest)
    remove(folder / STARTED)
    return manifest


def switch(folder: Path, generation: str) -> None:
    """Let a folder's manifest be that of a finished generation in it, in place of the one there.

    On an object store nothing is removed: others may read what was there, and go on to.
    """
    made = read_manifest(folder / generation)
    assert made is not None
    card = folder / generation / "README.md"
    if card.is_file():  # it says where the data are
        text = card.read_text("utf-8").replace("path: data/", f"path: {generation}/data/")
        write_text(folder / "README.md", text)
    write_sealed(folder / MANIFEST, replace(made, generation=generation))
    remove(folder / STARTED)


def send(source: Path, target: Path, *, leave: str) -> None:
    """Copy a finished folder of this machine to a URL, its manifest last.

    leave: how names begin that stay here.
    """
    made = read_manifest(source)
    assert made is not None
    files = {name: facts for name, facts in made.files.items() if not name.startswith(leave)}
    for name in files:
        copy(source / name, target / name)
    write_sealed(target / MANIFEST, replace(made, files=files))
    remove(target / STARTED)


def fetch(source: Path, target: Path) -> None:
    """Copy a finished folder at a URL to this machine, its manifest last, unless it is here.

    Raises: DataError if a file is not what the manifest says.
    """
    made = read_manifest(source)
    assert made is not None
    if read_manifest(target) is None:
        for name in made.files:
            copy(source / name, target / name)
        write_sealed(target / MANIFEST, made)
    check_folder(target)


def read_manifest(folder: Folder) -> Manifest | None:
    """The folder's manifest, or None where there is none.

    Raises: DataError, naming the file, if it is not a manifest.
    """
    return _read(place(folder) / MANIFEST, Manifest)


def _read(path: Path, kind: type[M]) -> M | None:
    try:
        return read_sealed(path, partial(configs.build, kind)) if path.is_file() else None
    except DataError:
        if path.is_file():
            raise
        return None  # it went meanwhile, as a mark does when another worker finishes


def write_sealed(path: Path, content: Any) -> None:
    """Write a mapping, or a dataclass, as JSON with the fingerprint of what it says."""
    plain = configs.to_plain(content)
    write_json(path, {**plain, _SEAL: configs.fingerprint(plain)})


def read_sealed(path: Path, make: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """What `write_sealed` wrote, or a JSON mapping without a seal; the seal is left out.

    make: what becomes of the mapping.
    Raises: DataError if the file is damaged, or says something else than what was written.
    """
    content = read_json(path)
    try:
        if not isinstance(content, dict):
            raise ConfigError("expected a mapping")
        said = {key: value for key, value in content.items() if key != _SEAL}
        found = make(said)
    except ConfigError as error:
        raise DataError(f"{path}: tabom did not write this ({error}); was it edited?") from error
    # The seal comes second, for what does not fit is named more closely above.
    if content.get(_SEAL) not in (None, configs.fingerprint(said)):
        raise DataError(f"{path}: changed since it was written; restore it, or run the stage again")
    return found


def check_manifest(folder: Folder, mark: Mark) -> Manifest | None:
    """The manifest of a folder that already holds this very stage.

    mark: of the present run; its settings serve to name what differs.
    Returns: None for a folder that is missing, empty or begun by this same run.
    Raises: StageError if the folder belongs to another stage or another fingerprint.
    """
    folder = place(folder)
    manifest = read_manifest(folder)
    there = manifest or _read(folder / STARTED, Mark)
    state = f"output folder {folder} holds {'results' if manifest else 'an unfinished run'}"
    if there is not None and there.stage != mark.stage:
        raise StageError(f"{state} of stage {there.stage!r}, expected {mark.stage!r}; {_WAYS_OUT}")
    if there is not None and there.fingerprint != mark.fingerprint:
        raise StageError(
            f"{state} of another recipe: stage {mark.stage!r} with fingerprint "
            f"{there.fingerprint}, this run's is {mark.fingerprint}\n"
            f"{_differences(there.settings, mark.settings)}\n{_WAYS_OUT}"
        )
    return manifest


def begin(folder: Folder, mark: Mark) -> Manifest | None:
    """Claim the folder for this run before the first result is written.

    Returns: the manifest if it holds this very stage already (nothing is touched), else None.
    Raises: StageError if it belongs to another run, or holds files that no run of ours left.
    """
    found = check_manifest(folder, mark)
    if found is None and STARTED not in check_ours(folder):
        write_json(place(folder) / STARTED, mark)
    return found


def check_ours(folder: Folder) -> list[str]:
    """The names in a folder that a stage may write into: a new or an empty one, or one it began.

    Returns: the names, without locks and temporary files; [] for a folder that is not there.
    Raises: StageError for a file, and for a folder that holds what tabom did not make. To mark
        that as ours would let a later --overwrite delete what is not ours.
    """
    folder = place(folder)
    if folder.exists() and not folder.is_dir():
        raise StageError(f"{folder} is a file, expected an output folder; take another path")
    # One snapshot: several ranks may begin at the same moment.
    found = [path.name for path in folder.iterdir()] if folder.exists() else []
    names = sorted(n for n in found if n != LOCK and not n.endswith(TEMPORARY_SUFFIX))
    if names and not {MANIFEST, STARTED}.intersection(names):
        raise StageError(
            f"output folder {folder} is not empty and was not made by tabom (it holds "
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), so nothing in it is "
            "deleted; take another --output_dir, or empty it yourself"
        )
    return names


def reset(folder: Folder) -> None:
    """Empty a folder that a stage of ours made; a missing or empty folder is left as it is.

    The lock file stays, since the caller may hold it.
    Raises: StageError if the folder carries neither a manifest nor a start mark.
    """
    folder = place(folder)
    if not check_ours(folder):
        return
    # The marks go last: a reset that is cut short leaves a folder that still is ours.
    for path in sorted(folder.iterdir(), key=lambda path: path.name in (MANIFEST, STARTED)):
        if not is_remote(path) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            remove(path)


_checked: set[tuple[str, int, float, FileFacts]] = set()


def check_file(path: Path, expected: FileFacts, data: bytes | None = None) -> None:
    """Compare a file with what its manifest says, where its bytes are first read.

    data: its bytes, where the caller has them. Else its hash is computed at most once a process
        while it keeps its size and time.
    Raises: DataError if the file is missing or changed.
    """
    key = None
    if data is not None:
        facts = FileFacts(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    else:
        found = path.stat() if path.is_file() else None
        # A study opens one adapter in many stages; reading a large one takes seconds.
        key = found and (str(path.absolute()), found.st_size, found.st_mtime, expected)
        if key in _checked:
            return
        facts = describe_file(path)
    if facts != expected:
        raise DataError(
            f"{path}: changed since the stage wrote it (sha256 {facts.sha256[:12]}..., "
            f"{facts.bytes} bytes; expected {expected.sha256[:12]}..., {expected.bytes} bytes); "
            "copy it again, or run the stage again"
        )
    if key is not None:
        _checked.add(key)


def check_folder(folder: Folder) -> None:
    """`check_file` of the files directly in a folder, if a stage of ours wrote it.

    Those in subfolders (shards, checkpoints) are checked by whoever opens them.
    """
    path = place(folder) / MANIFEST
    content = read_json(path) if path.is_file() else None
    # Other tools have files of that name.
    is_ours = isinstance(content, dict) and "fingerprint" in content
    found = read_manifest(folder) if is_ours else None
    for name, expected in (found.files if found else {}).items():
        # A model card is for people, who may add to it.
        if "/" not in name and not name.endswith(".md"):
            check_file(place(folder) / name, expected)


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


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings that differ, one a line."""
    old, new = ({k: repr(v) for k, v in flatten(s).items()} for s in (there, here))
    lines = [
        f"  {key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    if len(lines) > _MAX_DIFFERENCES:
        lines[_MAX_DIFFERENCES:] = [f"  ... and {len(lines) - _MAX_DIFFERENCES} more"]
    return "\n".join(lines) or "  no setting differs: the model, the data or the code changed"


def describe_file(path: Path) -> FileFacts:
    """The hash and the size of a file. DataError if it is missing."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
            return FileFacts(sha256=digest.hexdigest(), bytes=file.tell())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing, though the manifest lists it; run the stage again"
        ) from error
