"""The table of families. A new family is one module with a `FAMILY` and one row here."""

import importlib
import json
from pathlib import Path

from tabom.core.errors import ModelError
from tabom.models.family import ConfigDict, Family

MODULES = {
    "dream": "tabom.models.dream",
    "llada": "tabom.models.llada",
    "sdar": "tabom.models.sdar",
    "toy": "tabom.models.toy",
}


def get_family(name: str) -> Family:
    """The family called `name`. Raises `ModelError` for a name that is not in the table."""
    if name not in MODULES:
        raise ModelError(f"model family {name!r} is not one of {', '.join(sorted(MODULES))}")
    family: Family = importlib.import_module(MODULES[name]).FAMILY
    return family


def detect_family(config: ConfigDict, *, where: str) -> Family:
    """The family of a published config.json.

    config: the parsed file. where: its folder, whose tokenizer_config.json tells apart a masked
        model that has the config of an autoregressive one.
    Raises: `ModelError` if no family claims it; code that comes with a checkpoint is never run.
    """
    tokenizer_config = _tokenizer_config(Path(where))
    for name in [config["tabom_family"]] if "tabom_family" in config else list(MODULES):
        family = get_family(name)
        if family.detects(config, tokenizer_config):
            return family
    code = " (its auto_map points at code of its own)" if "auto_map" in config else ""
    hint = ""
    if config.get("model_type") == "qwen2":
        hint = (
            ". A Qwen2 is taken for a masked model (Open-dCoder) only if tokenizer_config.json has "
            "a mask_token or config.json a mask_token_id"
        )
    raise ModelError(
        f"{where}: model_type {config.get('model_type')!r}, architectures "
        f"{config.get('architectures')!r}{code} belong to none of the families "
        f"{', '.join(sorted(MODULES))}{hint}. Remote code is never run: take a checkpoint of one "
        "of these families, or add a family as one module of tabom.models"
    )


def _tokenizer_config(folder: Path) -> ConfigDict:
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    return config if isinstance(config, dict) else {}
