"""The families of checkpoints, found by listing the modules of this folder.

A new family is one module here with a `FAMILY`, an instance of `tabom.models.family.Family`. The
modules import neither torch nor transformers at the top.
"""

import importlib
import pkgutil
from pathlib import Path

from tabom.core.errors import ModelError
from tabom.models.family import Family
from tabom.models.folders import ConfigDict, read_json


def family_names() -> list[str]:
    """The names of all families."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def get_family(name: str) -> Family:
    """The family called `name`. Raises `ModelError` for a name that there is not."""
    if name not in family_names():
        raise ModelError(f"model family {name!r} is not one of {', '.join(family_names())}")
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def detect_family(config: ConfigDict, *, where: str) -> Family:
    """The family of a published config.json.

    config: the parsed file. where: its folder, whose tokenizer_config.json tells apart a masked
        model that has the config of an autoregressive one.
    Raises: `ModelError` if no family claims it; code that comes with a checkpoint is never run.
    """
    tokenizer_config = read_json(Path(where) / "tokenizer_config.json")
    for name in [config["tabom_family"]] if "tabom_family" in config else family_names():
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
        f"{', '.join(family_names())}{hint}. Remote code is never run: take a checkpoint of one "
        "of these families, or add a family as one module of tabom.models.families"
    )
