"""The folder of a checkpoint and its JSON files. No torch: whoever needs ids alone starts fast."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from tabom.core.errors import ModelError

ConfigDict = dict[str, Any]  # a config.json as published

PACKAGED = {
    name: f"assets/{name}" for name in ("toy-base", "toy-hasty", "toy-saturated", "toy-addition")
}
WITHOUT_WEIGHTS = ["*.json", "*.txt", "*.jinja", "*.model"]  # data only, no code
HUB_FILES = [*WITHOUT_WEIGHTS, "*.safetensors"]


def resolve_folder(name: str, *, weights: bool = True) -> Path:
    """The local folder of a packaged name, a path or a hub id.

    weights: whether they are fetched too, where the hub is asked. Code is never fetched.
    Raises: `ModelError` if there is no such folder and the hub does not give it.
    """
    if name in PACKAGED:
        return Path(str(files("tabom"))) / PACKAGED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model folder {name!r} does not exist; pass a folder with config.json, a hub id "
            f"(owner/name), or one of {', '.join(PACKAGED)}"
        )
    from huggingface_hub import snapshot_download

    patterns = HUB_FILES if weights else WITHOUT_WEIGHTS
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # many kinds: no network, offline mode, no such repo, gated
        raise ModelError(
            f"{name!r} is no local folder, and the hub did not give it ({one_line(error)}); check "
            "the name and the network, or download it elsewhere and pass the folder"
        ) from error


def one_line(error: BaseException) -> str:
    """What an error of a library says, without its line breaks and cut short."""
    return " ".join(str(error).split())[:400]


def read_config(folder: Path) -> ConfigDict:
    """The published config.json. Raises `ModelError` if it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(
            f"{folder} has no config.json; pass the folder of a checkpoint"
            + (" (this is an adapter: pass its base, and it as the adapter)" if is_adapter else "")
        )
    return read_json(path)


def read_json(path: Path) -> ConfigDict:
    """A JSON object of a file; empty if there is none. Raises `ModelError` for anything else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # not to be read, not UTF-8, or not JSON
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object; pass the folder of a checkpoint")
    return found
