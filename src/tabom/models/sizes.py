"""Sizes of a checkpoint, read from its config.json: no weights are fetched or loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.core.errors import ModelError
from tabom.models.costs import PUBLISHED_SIZES, ModelSizes


@dataclass(frozen=True, kw_only=True)
class ReadSizes:
    """Sizes, and where they were read.

    family: its name; "" if no config was read. block_length: of block-causal attention; None:
        full attention.
    """

    sizes: ModelSizes
    source: str
    family: str = ""
    block_length: int | None = None


def sizes_of(lm: Any) -> ModelSizes:
    """The sizes of a transformers `*ForCausalLM`, on any device; adapters are not counted."""
    config = lm.config
    heads = config.num_attention_heads
    return ModelSizes(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=lm.get_output_embeddings().weight.shape[0],
        num_parameters=sum(p.numel() for n, p in lm.named_parameters() if ".lora_" not in n),
    )


def read_sizes(model_name_or_path: str) -> ReadSizes:
    """The sizes of a model that need not be here.

    The network is built on the meta device, so it takes seconds and no memory. Where the hub does
    not give the config of a well-known model, the sizes that were published with it are taken,
    and `source` says so.
    Raises: ModelError if there is no config, or of a family that is not known, or one that does
        not fit its family.
    """
    import torch

    from tabom.models.families import detect_family
    from tabom.models.loading import make_config, read_config

    try:
        folder = config_folder(model_name_or_path)
    except ModelError:
        if model_name_or_path in PUBLISHED_SIZES:
            return ReadSizes(
                sizes=PUBLISHED_SIZES[model_name_or_path],
                source="as published (config.json could not be fetched)",
            )
        raise
    published = read_config(folder)
    family = detect_family(published, where=str(folder))
    with torch.device("meta"):
        lm = family.lm_class(make_config(family, published, folder=folder))
    return ReadSizes(
        sizes=sizes_of(lm),
        source=str(folder / "config.json"),
        family=family.spec.name,
        block_length=None if family.spec.attention == "full" else int(lm.config.block_size),
    )


def read_tokenizer(model_name_or_path: str) -> Any:
    """The tokenizer of a model whose weights need not be here; None if it has none.

    Raises: ModelError if the folder or its config cannot be had.
    """
    from tabom.models.families import detect_family
    from tabom.models.loading import load_tokenizer, read_config

    folder = config_folder(model_name_or_path)
    family = detect_family(read_config(folder), where=str(folder))
    return load_tokenizer(family, folder, required=False)


def config_folder(name: str) -> Path:
    """The folder of a checkpoint; of a hub id everything but the weights is fetched.

    Raises: ModelError if there is no such folder or the hub does not give it.
    """
    from tabom.models.loading import HUB_FILES, resolve_folder

    looks_like_hub = name.count("/") == 1 and not name.startswith((".", "~", "/"))
    if Path(name).expanduser().is_dir() or not looks_like_hub:
        return resolve_folder(name)
    from huggingface_hub import snapshot_download

    light = [pattern for pattern in HUB_FILES if "safetensors" not in pattern]
    try:
        return Path(snapshot_download(name, allow_patterns=light))
    except Exception as error:  # many kinds: no network, offline mode, no such repo, gated
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{name!r} is no local folder, and the hub did not give its config.json ({reason}); "
            "check the name and the network, or pass a folder with a config.json"
        ) from error
