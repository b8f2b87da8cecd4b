"""The families of checkpoints, found by listing the modules of this folder.

A new family is one module here with a `FAMILY`, an instance of `tabom.models.family.Family`. The
modules import neither torch nor transformers at the top.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

from tabom.core.errors import ModelError
from tabom.models.family import Family
from tabom.models.folders import ConfigDict, read_json

# Published models that look near and are not: how each is told by its config.json, why it is not
# taken, and what it would need.
REFUSED: tuple[tuple[str, Callable[[ConfigDict], bool], str], ...] = (
    (
        "DreamReasoner",
        lambda c: c.get("model_type") == "Dream" and "block_size" in c,
        "it is block-causal Qwen3 under Dream's model_type, and its modelling file is not "
        "published, so key names, alignment and norms are unknown; missing: that file",
    ),
    (
        "Nemotron-Labs-Diffusion",
        lambda c: _says(c, "nemotron_labs_diffusion", "nemotronlabsdiffusion"),
        "its prompt attends token-causally and the first slot of a block is drawn by the causal "
        "head, so contexts are not block-causal; missing: an attention of a causal prefix with one "
        "full block, and its cache rule",
    ),
    (
        "DiffusionGemma",
        lambda c: _says(c, "diffusion_gemma", "diffusiongemma"),
        "it starts from random tokens, has no mask token and judges every slot anew at each step, "
        "so a response has no reveal order to train on; missing: an order",
    ),
    (
        "WeDLM",
        lambda c: _says(c, "wedlm", "wedlm"),
        "it is a causal model over reordered tokens (known ones first), which neither full nor "
        "block-causal attention gives; missing: permuted inputs",
    ),
)


def _says(config: ConfigDict, model_type: str, architecture: str) -> bool:
    """Whether config.json says it is this model, by its type or the names of its classes."""
    names = [*(config.get("architectures") or []), *dict(config.get("auto_map") or {}).values()]
    said = [str(name).lower() for name in names]
    return config.get("model_type") == model_type or any(architecture in name for name in said)


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
    for name, is_one, why in REFUSED:
        if is_one(config):
            raise ModelError(f"{where} is {name}, which is not taken: {why} (docs/models.md)")
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
