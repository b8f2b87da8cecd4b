"""What identifies a base model, an adapter and a data source, taken without loading any of them."""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabom.collect.prompts import PromptSource, source_identity
from tabom.core import configs
from tabom.pipeline.recipe import ModelConfig

_WHOLE = 64 * 2**20  # files up to this size are hashed whole, larger ones at both ends
_NAMES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


def folder_identity(folder: Path) -> str:
    """A hash of a checkpoint or adapter folder: names, sizes and contents of what is loaded.

    Of weight files above 64 MiB only the size and the first and last MiB are read: enough to tell
    two checkpoints apart, and instant for one of 16 GB.
    """
    digest = hashlib.sha256()
    paths = sorted({p for pattern in _NAMES for p in folder.glob(pattern)})
    for path in paths:
        if path.name in ("manifest.json", "tabom_manifest.json"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
            else:
                digest.update(file.read(2**20))
                file.seek(-(2**20), 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """The settings and contents that decide what a base model computes."""
    identity: dict[str, Any] = {
        k: v for k, v in configs.to_plain(model).items() if k != "device" and v is not None
    }
    folder = Path(model.model_name_or_path)
    embedded = files("tabom") / "assets" / model.model_name_or_path
    if folder.is_dir():
        identity["model_name_or_path"] = folder.name
        identity["content"] = folder_identity(folder)
    elif "/" not in model.model_name_or_path and embedded.is_dir():
        identity["content"] = folder_identity(Path(str(embedded)))
    if model.adapter is not None and Path(model.adapter).is_dir():
        identity["adapter"] = folder_identity(Path(model.adapter))
    return identity


def prompts_identity(source: PromptSource) -> dict[str, Any]:
    """The settings and contents that decide which prompts a source gives."""
    return source_identity(source)
