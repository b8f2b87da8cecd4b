"""The sizes of a model, which its costs follow from: of one that is loaded, or of a config.json.

No weights are fetched or loaded for it, and torch is imported only to build a network without
numbers.
"""

from dataclasses import dataclass
from typing import Any

from tabom.core.errors import ModelError
from tabom.models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The sizes of a network of the Llama shape, which every family here has.

    num_parameters: all of them, tied weights once. block_length: of block-causal attention; None:
    full attention. max_positions: the longest prompt plus slots that config.json allows; None: it
    does not say. family, source: its name, and where the sizes were read.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_parameters: int
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
        """Weights of the layers' matrices: every token is multiplied with each of them once."""
        attention = 2 * self.hidden_size * (self.query_width + self.key_width)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

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
}


def sizes_of(lm: Any, *, family: str = "", source: str = "") -> ModelSizes:
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
        block_length=getattr(config, "block_size", None),
        max_positions=getattr(config, "max_position_embeddings", None),
        family=family,
        source=source,
    )


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
