"""A folder or a file by path or by URL, with the same methods.

A path is a `pathlib.Path`. A URL (`s3://bucket/run`, `gs://`, `memory://`, what fsspec opens) is a
`UPath`, which has the methods of a path and carries its storage options with it, also into other
processes. This is the one door: whoever is given a name asks `place` for it, and uses the methods.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tabom.core.errors import ConfigError

Place = str | os.PathLike[str]


# What a package brings that opens a URL, where its name is another one.
_EXTRAS = {"gs": "gcs"}


class Entry(NamedTuple):
    """A file in a folder: its name, its bytes, and when it was written (seconds since 1970)."""

    name: str
    size: int
    modified: float


def place(name: Place, options: Mapping[str, Any] | None = None, *, to_write: bool = False) -> Path:
    """The path or the URL of a name; typed as a path, whose methods both have.

    options: of the file system of a URL (fsspec's storage_options), or these by the kind of the URL
        ({"s3": {...}, "gs": {...}}). A name that is a path already has its own.
    to_write: the hub is refused then, which is read alone.
    Raises: ConfigError if the package that opens such a URL is not installed, refuses these or
        cannot reach what it names.
    """
    if isinstance(name, Path) or not isinstance(name, str):
        return name  # type: ignore[return-value]
    if "://" not in name:
        return Path(name).expanduser()
    kind = name.partition("://")[0]
    if kind == "hf" and to_write:
        raise ConfigError(
            f"{name}: the hub is read from, not written to; write to a folder, s3:// or gs://, "
            "and send it with `tabom push`"
        )
    try:
        from fsspec import available_protocols
        from upath import UPath

        given = options or {}
        own = given.get(kind, {}) if {*given} <= {*available_protocols()} else given
        # Others write there, too: what was listed a moment ago says nothing.
        found = UPath(name, **{"use_listings_cache": False, **own})
        _ = found.fs
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{name}: cannot be opened ({error}); pip install 'tabom[{_EXTRAS.get(kind, kind)}]', "
            "and see --storage_options"
        ) from error
    try:
        found.exists()
    except Exception as error:  # each kind of store has errors of its own
        raise ConfigError(
            f"{name}: cannot be reached ({type(error).__name__}: {error}); give the endpoint and "
            "the keys in the environment, or by --storage_options"
        ) from error
    return found  # type: ignore[return-value, no-any-return]


def is_remote(path: Path) -> bool:
    """Whether it is a URL: there are no locks, no renames and no folders there."""
    return not isinstance(path, Path)


def local_folder(folder: Path) -> Path:
    """The folder, or for a URL one of its own on this machine, for files that grow.

    $TABOM_SPOOL says where; else it is among the temporary files.
    """
    if not is_remote(folder):
        return folder
    here = os.environ.get("TABOM_SPOOL") or tempfile.gettempdir()
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(here) / f"tabom-spool-{os.getuid()}" / name


def source(path: Path) -> Any:
    """The file as pyarrow reads it: by its path, or opened at a URL."""
    return path.open("rb") if is_remote(path) else path


def entries(folder: Path) -> list[Entry]:
    """The files directly in a folder, by name; none where there is no folder."""
    try:
        if not is_remote(folder):
            with os.scandir(folder) as found:
                files = [(e.name, e.stat()) for e in found if e.is_file(follow_symlinks=False)]
            return sorted(Entry(name, s.st_size, s.st_mtime) for name, s in files)
        fs: Any = folder.fs  # type: ignore[attr-defined]
        listed = fs.ls(folder.path, detail=True)  # type: ignore[attr-defined]
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = ((one["name"].rstrip("/").rpartition("/")[2], one) for one in listed)
    return sorted(
        Entry(name, one["size"] or 0, _modified(one))
        for name, one in names
        if one["type"] == "file" and name
    )


def subfolders(folder: Path, prefix: str) -> list[str]:
    """The names of the folders directly in a folder that begin so, in order."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(prefix) and p.is_dir())


def copy(source: Path, target: Path) -> None:
    """Copy a file to or from a URL, streaming; a local copy is there whole or not at all."""
    if is_remote(target):
        fs: Any = target.fs  # type: ignore[attr-defined]
        fs.put_file(str(source), target.path)  # type: ignore[attr-defined]
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    fs = source.fs  # type: ignore[attr-defined]
    fs.get_file(source.path, str(temporary))  # type: ignore[attr-defined]
    os.replace(temporary, target)


def _modified(info: Mapping[str, Any]) -> float:
    for key in ("LastModified", "updated", "modified", "created", "mtime"):
        value = info.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if value is not None:
            return value.timestamp() if isinstance(value, datetime) else float(value)
    return 0.0


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; what is not there is no error."""
    if not is_remote(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return
    fs: Any = path.fs  # type: ignore[attr-defined]
    try:
        fs.rm(path.path, recursive=True)  # type: ignore[attr-defined]
    except FileNotFoundError:
        return
