"""Family "toy": a small Llama backbone that attends both ways, with its own character tokenizer."""

from typing import Any

from tabom.models.family import Family
from tabom.models.folders import ConfigDict


class Toy(Family):
    """Llama, marked as a masked model by a key of its own."""

    def network(self) -> Any:
        from tabom.models.networks import MaskedLlama

        return MaskedLlama

    def detects(self, config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
        # A bare "llama" is an autoregressive model: only the explicit key makes a toy.
        return config.get("tabom_family") == "toy" and config.get("model_type") == "llama"


FAMILY = Toy(
    name="toy",
    template={
        "tabom_family": "toy",
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 10000.0,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "tie_word_embeddings": False,
        "is_causal": False,
        "use_cache": False,
    },
)
