"""Files that are there whole or not at all, also after a power cut."""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tabom.core.errors import DataError, StageError
from tabom.core.plain import to_plain

TEMPORARY_SUFFIX = ".tmp"
LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the place of `path`.

    path: the file to be. Its folder is made if need be.
    Yields: a path in the same folder (a rename is atomic only inside one file system), whose name
        starts with a dot so that no manifest lists it. On an exception it is removed and `path`
        keeps what it had.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        yield temporary
        # The content first, then the name, then the entry of the name in the folder: a power cut
        # between any two of them leaves the old file or the new one.
        _sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk is told by what writes, which does not know the name.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write the bytes: temporary file, fsync, rename, fsync of the folder."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write the text as UTF-8, the way `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write the object as indented JSON that every parser takes (NaN becomes null).

    obj: whatever `core.plain.to_plain` takes.
    """
    text = json.dumps(to_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises: DataError, naming the file, if it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); restore it or delete it") from error


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames and new names in the folder durable."""
    _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def only_one(
    folder: str | os.PathLike[str], *, is_shared: bool = False
) -> AbstractContextManager[None]:
    """Hold a folder for this process, without waiting for others; see `locked`."""
    return locked(Path(folder) / LOCK, is_shared=is_shared, is_waiting=False)


@contextmanager
def locked(
    path: str | os.PathLike[str], *, is_shared: bool = False, is_waiting: bool = True
) -> Iterator[None]:
    """Hold a lock file, made if need be; the lock ends with the process, however that ends.

    is_shared: several may hold it together, but none beside one who holds it alone.
    Raises: StageError if it is held by others and `is_waiting` is False.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays behind: were it removed, two processes could lock two files of one name.
    with path.open("w") as file:
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        try:
            fcntl.flock(file, kind if is_waiting else kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError(
                f"{path.parent}: another run is writing here; wait for it, or take another "
                "--output_dir"
            ) from error
        yield
