"""Family "dream": Dream-7B and its relatives (Dream-Coder, DiffuCoder, Open-dCoder).

The published weights are a Qwen2 network, key for key; what differs is that attention runs both
ways and that the logits at position p - 1 predict position p. So transformers' own Qwen2 classes
hold them, with `is_causal=False` in the config (which transformers reads from 5.2 on), and the
published modelling code is not needed.

Open-dCoder is published as a plain Qwen2: what makes it a masked model is its mask token, so only
a folder that names one is taken for it, and that token is the only source of its mask id.
"""

from typing import Any

from tabom.models.family import Family
from tabom.models.folders import ConfigDict


class Dream(Family):
    """Qwen2 with shifted logits."""

    def network(self) -> Any:
        from tabom.models.networks import MaskedQwen2

        return MaskedQwen2

    def detects(self, config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
        if config.get("model_type") == "qwen2":
            has_mask = bool(tokenizer_config.get("mask_token"))
            return has_mask or config.get("mask_token_id") is not None
        # With a block_size it is DreamReasoner, another network under the same model_type.
        return config.get("model_type") == "Dream" and "block_size" not in config

    def mask_id_of(self, config: ConfigDict) -> int | None:
        return None if config.get("model_type") == "qwen2" else self.default_mask_id


FAMILY = Dream(
    name="dream",
    alignment="shift_right",
    official_decoding="dream",
    default_mask_id=151666,
    end_of_turn=("<|im_end|>",),
    # An answer is closed with the EOS, not with <|im_end|>: so does Dream's own fine-tuning.
    tokenizer_class="Qwen2Tokenizer",
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    special_tokens={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    required={"use_sliding_window": False, "hidden_act": "silu"},
    template={
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 131072,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    },
    published_vocab_size=152064,
    adapter_task_type="FEATURE_EXTRACTION",
)
