"""A folder or a file by path or by URL, with the same methods.

A path is a `pathlib.Path`. A URL (`s3://bucket/run`, `gs://`, `memory://`, what fsspec opens) is a
`UPath`, which has the methods of a path. The store and its chunks know both (tried on `memory://`);
stages take folders of this machine alone, so far.
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


class Entry(NamedTuple):
    """A file in a folder: its name, its bytes, and when it was written (seconds since 1970)."""

    name: str
    size: int
    modified: float


def place(name: Place) -> Path:
    """The path or the URL of a name; typed as a path, whose methods both have.

    Raises: ConfigError if the package that opens such a URL is not installed.
    """
    if isinstance(name, Path) or not isinstance(name, str):
        return name  # type: ignore[return-value]
    if "://" not in name:
        return Path(name).expanduser()
    try:
        from upath import UPath

        found = UPath(name)
        _ = found.fs
    except (ImportError, ValueError) as error:
        kind = name.partition(":")[0]
        raise ConfigError(f"{name}: cannot be opened ({error}); pip install 'tabom[{kind}]'") from (
            error
        )
    return found  # type: ignore[return-value]


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


def entries(folder: Path) -> list[Entry]:
    """The files directly in a folder, by name; none where there is no folder."""
    try:
        if not is_remote(folder):
            with os.scandir(folder) as found:
                files = [(e.name, e.stat()) for e in found if e.is_file(follow_symlinks=False)]
            return sorted(Entry(name, s.st_size, s.st_mtime) for name, s in files)
        fs: Any = folder.fs  # type: ignore[attr-defined]
        fs.invalidate_cache()  # others write there, too
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
    fs.invalidate_cache()
    try:
        fs.rm(path.path, recursive=True)  # type: ignore[attr-defined]
    except FileNotFoundError:
        return
