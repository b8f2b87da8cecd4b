"""The sizes of a model, which its costs follow from: of one that is loaded, or of a config.json.

No weights are fetched or loaded for it, and torch is imported only to build a network without
numbers.
"""

import re
from dataclasses import dataclass
from typing import Any

from tabom.core.errors import ModelError
from tabom.models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The sizes of a network of the Llama shape, which every family here has.

    intermediate_size: width of the feed-forward part that a token goes through, in the mean over
    the layers: of a mixture of experts, that of the experts that are active. linear_size: the part
    of it that plain matrices hold (all of it but routed experts), where adapters can sit.
    num_parameters: all of them, tied weights once. active_parameters: those that a token uses, of a
    mixture. block_length: of block-causal attention; None: full attention. max_positions: the
    longest prompt plus slots that config.json allows; None: it does not say. family, source: its
    name, and where the sizes were read.
    """

    hidden_size: int
    intermediate_size: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_parameters: int
    linear_size: float | None = None
    active_parameters: int | None = None
    block_length: int | None = None
    max_positions: int | None = None
    family: str = ""
    source: str = ""

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def body_weights(self) -> int:
        """Weights of the layers' matrices that every token is multiplied with once."""
        attention = 2 * self.hidden_size * (self.query_width + self.key_width)
        feed_forward = self.num_layers * self.intermediate_size
        return self.num_layers * attention + round(3 * self.hidden_size * feed_forward)

    @property
    def head_weights(self) -> int:
        return self.vocab_size * self.hidden_size


# So that a run can be planned before anything is fetched; tests count them on the meta device.
PUBLISHED_SIZES = {
    "Dream-org/Dream-v0-Instruct-7B": ModelSizes(
        hidden_size=3584,
        intermediate_size=18944,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        vocab_size=152064,
        num_parameters=7_615_616_512,
        max_positions=131072,
        family="dream",
        source="as published (config.json could not be fetched)",
    ),
    "GSAI-ML/LLaDA-8B-Instruct": ModelSizes(
        hidden_size=4096,
        intermediate_size=12288,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        vocab_size=126464,
        num_parameters=8_015_581_184,
        max_positions=4096,
        family="llada",
        source="as published (config.json could not be fetched)",
    ),
    "inclusionAI/LLaDA2.0-mini": ModelSizes(
        hidden_size=2048,
        intermediate_size=4633.6,  # 8 of 256 experts and a shared one of 512; 5,120 in layer 0
        linear_size=742.4,
        num_layers=20,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        vocab_size=157184,
        num_parameters=16_255_638_528,
        active_parameters=1_432_968_192,
        block_length=32,
        max_positions=32768,
        family="llada2",
        source="as published (config.json could not be fetched)",
    ),
}


def sizes_of(lm: Any, *, family: str = "", source: str = "") -> ModelSizes:
    """The sizes of a transformers `*ForCausalLM`, on any device; adapters are not counted."""
    config = lm.config
    heads = config.num_attention_heads
    weights = {n: p for n, p in lm.named_parameters() if ".lora_" not in n}
    num_parameters = sum(num_values(weight) for weight in weights.values())
    # Stacked experts are the only three-dimensional weights: [experts, out, in].
    stacked = [weight for weight in weights.values() if weight.dim() == 3]
    is_active = config.num_experts_per_tok / stacked[0].shape[0] if stacked else 1.0
    routed = sum(weight.numel() for weight in stacked)
    plain = sum(num_values(w) for n, w in weights.items() if PLAIN_MLP.search(n) and w.dim() == 2)
    linear_size = plain / (3 * config.hidden_size * config.num_hidden_layers)
    active_size = routed * is_active / (3 * config.hidden_size * config.num_hidden_layers)
    return ModelSizes(
        hidden_size=config.hidden_size,
        intermediate_size=linear_size + active_size if stacked else config.intermediate_size,
        linear_size=linear_size if stacked else None,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=lm.get_output_embeddings().weight.shape[0],
        num_parameters=num_parameters,
        active_parameters=round(num_parameters - routed * (1 - is_active)) if stacked else None,
        block_length=getattr(config, "block_size", None),
        max_positions=getattr(config, "max_position_embeddings", None),
        family=family,
        source=source,
    )


def num_values(parameter: Any) -> int:
    """Values of a parameter: of a packed one, those that it stands for."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


PLAIN_MLP = re.compile(r"\.mlp\..*(gate|up|down)_proj\.(base_layer\.)?weight$")


def read_sizes(model_name_or_path: str) -> ModelSizes:
    """The sizes of a model that need not be here.

    The network is built on the meta device, so it takes seconds and no memory. Where the hub does
    not give the config of a well-known model, the sizes that were published with it are taken,
    and `source` says so.
    Raises: ModelError if there is no config, or of a family that is not known, or one that does
        not fit its family.
    """
    try:
        checkpoint = Checkpoint.find(model_name_or_path, weights=False)
    except ModelError:
        if model_name_or_path in PUBLISHED_SIZES:
            return PUBLISHED_SIZES[model_name_or_path]
        raise
    import torch

    with torch.device("meta"):
        lm = checkpoint.family.network()(checkpoint.network_config())
    source = str(checkpoint.folder / "config.json")
    return sizes_of(lm, family=checkpoint.family.name, source=source)


def context_problem(
    max_positions: int | None, *, prompt_tokens: int, max_new_tokens: int
) -> str | None:
    """Why a prompt and its slots do not fit into what a model was published for; None if they do.

    max_positions: of `ModelSizes` or of the loaded model; None: its config does not say.
    """
    length = prompt_tokens + max_new_tokens
    if max_positions is None or length <= max_positions:
        return None
    return (
        f"{prompt_tokens} prompt tokens and {max_new_tokens} slots are {length} positions, and the "
        f"model's config.json allows {max_positions}: positions beyond it were never trained"
    )
