"""Files that are there whole or not at all, also after a power cut; by path or by URL."""

import fcntl
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tabom.core.errors import DataError, StageError
from tabom.core.place import Place, is_remote, place
from tabom.core.plain import to_plain

TEMPORARY_SUFFIX = ".tmp"
LOCK = ".lock"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the place of `path`.

    path: the file to be. Its folder is made if need be.
    Yields: a path in the same folder (a rename is atomic only inside one file system), whose name
        starts with a dot so that no manifest lists it. On an exception it is removed and `path`
        keeps what it had. For a URL it is a local file, which is sent at the end.
    """
    path = place(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / path.name)
            path.write_bytes(temporary.read_bytes())
        return
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
    if is_remote(path := place(path)):
        path.write_bytes(bytes(data))
        return
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def create(path: Place, data: bytes) -> bool:
    """Write the bytes unless the file is there; of several who do this together one succeeds.

    A local file gets its name by a hard link, so that it is whole when it appears; an object store
    is asked to create and not to replace.
    Returns: whether the file is the one written here.
    """
    path = place(path)
    if is_remote(path):
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            # A request that was answered by an error, and sent again, may have been heard before.
            return bool(path.read_bytes() == data)
        return True
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        os.link(temporary, path)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


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
        return json.loads(place(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
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
    return locked(place(folder) / LOCK, is_shared=is_shared, is_waiting=False)


@contextmanager
def locked(
    path: str | os.PathLike[str], *, is_shared: bool = False, is_waiting: bool = True
) -> Iterator[None]:
    """Hold a lock file, made if need be; the lock ends with the process, however that ends.

    is_shared: several may hold it together, but none beside one who holds it alone.
    Raises: StageError if it is held by others and `is_waiting` is False.
    """
    path = place(path)
    if is_remote(path):  # there are no locks; no result rests on one
        yield
        return
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
