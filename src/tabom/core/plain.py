"""Any settings object as plain JSON values, and the fingerprint made of them."""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any


def to_plain(obj: Any, *, of_settings: Callable[[Any], Any] | None = None) -> Any:
    """The object as dicts, lists, strings, numbers, booleans and None.

    obj: dataclasses, mappings, sequences, sets, paths, enums, numpy scalars and arrays, nested.
    of_settings: what is written for a dataclass; None: the mapping of its fields.
    Returns: a JSON-able copy. JSON has no NaN and no infinity: NaN (no value) becomes None,
        infinities become the strings "inf" and "-inf".
    Raises: TypeError for anything else: what it is cannot be written down.
    """
    plain = partial(to_plain, of_settings=of_settings)
    if obj is None or isinstance(obj, bool):
        return obj
    if isinstance(obj, enum.Enum):
        return plain(obj.value)
    if isinstance(obj, str):  # half a character of a response that was cut cannot be written
        return obj.encode("utf-8", "replace").decode()
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        finite = float(obj) if math.isfinite(obj) else str(float(obj))
        return None if math.isnan(obj) else finite
    if isinstance(obj, PurePath):
        return obj.as_posix()
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        if of_settings is not None:
            return of_settings(obj)
        return {f.name: plain(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    if isinstance(obj, (set, frozenset)):
        return sorted((plain(value) for value in obj), key=canonical_json)
    # numpy is known by its name and never imported: settings alone have no need of it.
    if type(obj).__module__.partition(".")[0] == "numpy" and hasattr(obj, "tolist"):
        return plain(obj.tolist())
    raise TypeError(f"{type(obj).__name__} has no plain JSON form: {obj!r}")


def canonical_json(obj: Any) -> str:
    """The one JSON text of the object: sorted keys, no spaces, so that equal settings are equal."""
    return json.dumps(
        to_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(*objs: Any) -> str:
    """16 hex digits (sha256 of the canonical JSON) that stand for the objects.

    objs: whatever `to_plain` takes. The order of keys does not matter, the order of objs does.
    Returns: equal text for equal content, in any process.
    """
    return hashlib.sha256(canonical_json(list(objs)).encode()).hexdigest()[:16]
