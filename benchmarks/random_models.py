"""Networks with random weights, built where they will run and never written to disk."""

import torch

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.families import get_family
from tabom.models.ids import resolve_ids
from tabom.models.sizes import PUBLISHED_SIZES, ModelSizes

DREAM, LLADA, *_ = PUBLISHED_SIZES  # the names of the published models, in this order

SMALL_BODY = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": 152064,
    # Standard deviation of the logits 3.2: peaked and distinct, as a trained model's.
    "initializer_range": 0.2,
}


def build_model(
    family: str,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    vocab_size: int,
    initializer_range: float = 0.02,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str = "sdpa",
) -> MaskedDiffusionModel:
    """A model of a family in eval mode, without a tokenizer.

    The mask token's row of the head is zero: like a trained model's, the mask is then never the
    answer and has next to no probability, so that decoders with and without it agree.
    """
    row = get_family(family)
    sizes = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "vocab_size": vocab_size,
        "initializer_range": initializer_range,
    }
    mask, end = vocab_size - 2, vocab_size - 3
    special_ids = {"mask_token_id": mask, "eos_token_id": end, "pad_token_id": end}
    published = row.random_config(sizes, special_ids)
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
        lm = row.network()._from_config(
            row.to_network_config(published), dtype=dtype, attn_implementation=attn_implementation
        )
    generator = torch.Generator(device=place).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if parameter.dim() == 1 and not name.endswith(".bias"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, initializer_range, generator=generator)
        lm.get_output_embeddings().weight[vocab_size - 2] = 0
    lm.config.is_causal = False
    ids = resolve_ids(published, family=row, tokenizer=None)
    model = MaskedDiffusionModel(
        lm, family=row, ids=ids, tokenizer=None, name_or_path=f"random {family}"
    )
    return model.eval().requires_grad_(False)


def sizes_arguments(sizes: ModelSizes) -> dict[str, int]:
    """The arguments of `build_model` that make a network of these sizes."""
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_layers": sizes.num_layers,
        "num_heads": sizes.num_heads,
        "num_kv_heads": sizes.num_kv_heads,
        "vocab_size": sizes.vocab_size,
    }
