"""A random tiny model in a family's published layout: for tests, dry runs and timing."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tabom.core.errors import ModelError
from tabom.core.keys import fold, text_key
from tabom.models.checkpoint import Checkpoint
from tabom.models.config import RandomSizes
from tabom.models.families import get_family
from tabom.models.loading import write_checkpoint

# Of a folder with a tokenizer, what else may lie there.
NO_TOKENIZER = ("config.json", "generation_config.json", "adapter_config.json")


def write_random_checkpoint(
    folder: str | Path,
    *,
    family: str,
    tokenizer_path: str | Path | None = None,
    mask_token_id: int | None = None,
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """Write config.json, random float32 weights and the tokenizer's files to `folder`.

    tokenizer_path: a folder whose tokenizer files are copied and whose ids are used. Without one
        the mask is id vocab_size - 2, and EOS and pad are vocab_size - 3.
    mask_token_id: the mask, where the tokenizer does not name one.
    seed: each tensor is a function of seed and its name. Matrices and biases are normal, norms 1.
    sizes: of `RandomSizes`.
    Returns: the folder.
    Raises: `ModelError` if the folder already holds a model or the sizes do not fit together.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise ModelError(f"{folder} already holds a model; choose another folder or remove it")
    row, asked = get_family(family), RandomSizes(**sizes)
    if asked.hidden_size % asked.num_heads or asked.num_heads % asked.num_kv_heads:
        raise ModelError(
            f"hidden_size {asked.hidden_size} must be a multiple of num_heads "
            f"{asked.num_heads}, and that of num_kv_heads {asked.num_kv_heads}"
        )
    source = None
    if tokenizer_path is not None:
        source = Checkpoint(folder=Path(tokenizer_path), config={}, family=row)
    least = 16 if source is None else len(source.tokenizer())
    vocab_size = asked.vocab_size or row.published_vocab_size or (least if source else 0)
    if vocab_size < least:
        raise ModelError(
            f"vocab_size {vocab_size} is below {least}, the tokens that it must hold (family "
            f"{family} has no vocabulary of its own: pass vocab_size or a tokenizer)"
        )
    mask, eos, pad = mask_token_id or vocab_size - 2, vocab_size - 3, vocab_size - 3
    if source is not None:
        ids = source.ids(mask_token_id=mask_token_id)
        mask, eos, pad = ids.mask, ids.filler, ids.pad
    published = row.random_config(
        {**vars(asked), "vocab_size": vocab_size},
        {"mask_token_id": mask, "eos_token_id": eos, "pad_token_id": pad},
    )
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global generator
        lm = row.network()(row.to_network_config(published))
    for name, parameter in lm.named_parameters():
        high, low = fold(seed, text_key(name))
        generator = torch.Generator().manual_seed(high << 32 | low)
        with torch.no_grad():
            if parameter.dim() == 1 and not name.endswith(".bias"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, asked.initializer_range, generator=generator)
    write_checkpoint(lm, row, folder)
    text = json.dumps({**published, "dtype": "float32"}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n")
    if tokenizer_path is not None:
        for path in Path(tokenizer_path).iterdir():
            if path.suffix in (".json", ".txt", ".jinja") and path.name not in NO_TOKENIZER:
                shutil.copyfile(path, folder / path.name)
    return folder
