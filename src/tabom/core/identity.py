"""What identifies settings and data: the one function whose hash is a fingerprint.

A settings class says in the metadata of its fields what decides a result. A `FREE` field (a batch
size, a device) decides nothing and is left out. Where a field names a file or a folder, its content
decides and not the place: the name of the file stands beside a hash.
"""

import dataclasses
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabom.core.errors import DataError
from tabom.core.plain import to_plain

# Metadata of a field that decides no result: it is in no fingerprint and may change freely.
FREE = {"decides": False}
# The same, of a field of a stage that has flags all the same.
FLAGGED = {**FREE, "flags": True}
# Metadata of a field that names a file, or a folder, an embedded model or a name on the hub.
FILE = {"content": "file"}
FOLDER = {"content": "folder"}

_WHOLE = 64 * 2**20  # files up to this size are hashed whole, larger ones at both ends
_LOADED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_OURS = ("manifest.json", "tabom_manifest.json")


def identity(obj: Any) -> Any:
    """What decides a result, in plain values.

    obj: settings (dataclasses, mappings, sequences and scalars, nested). An object with a
        `fingerprint` of its own, such as the output of an earlier stage, stands for itself by it;
        one with a method `decisive` says itself what decides.
    Returns: as `core.plain.to_plain`, without free fields and with contents in place of paths.
    Raises: DataError if a file that decides the result is not there.
    """
    return to_plain(obj, of_settings=_decisive)


def _decisive(settings: Any) -> Any:
    if isinstance(own := getattr(settings, "fingerprint", None), str):
        return own
    # Training has a rule that spans its fields: the global batch counts, not how it is cut.
    return settings.decisive() if hasattr(settings, "decisive") else identity_of_fields(settings)


def identity_of_fields(obj: Any) -> dict[str, Any]:
    """The identity of a dataclass, field by field."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if not field.metadata.get("decides", True):
            continue
        if "content" in field.metadata and value is not None:
            found[field.name] = _content(value, field)
        else:
            found[field.name] = identity(value)
    return found


def _content(name: str, field: dataclasses.Field[Any]) -> Any:
    path = Path(name)
    if field.metadata["content"] == "file":
        if not path.exists():
            raise DataError(f"{field.name}: no file {name}")
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        return {"name": path.name, "content": _hash(inside)}
    embedded = files("tabom") / "assets" / name
    if not path.is_dir() and "/" not in name and embedded.is_dir():
        path = Path(str(embedded))
    if not path.is_dir():
        return name  # a name on the hub
    loaded = {p for pattern in _LOADED for p in path.glob(pattern) if p.name not in _OURS}
    return {"name": path.name, "content": _hash(sorted(loaded))}


def _hash(paths: list[Path]) -> str:
    """A hash of names, sizes and contents.

    Of a file above 64 MiB only the size and the first and last MiB are read: enough to tell two
    checkpoints apart, and instant for one of 16 GB.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size > _WHOLE:
                digest.update(file.read(2**20))
                file.seek(-(2**20), 2)
            digest.update(file.read())
    return digest.hexdigest()[:16]
