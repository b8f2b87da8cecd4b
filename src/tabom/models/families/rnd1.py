"""Family "rnd1": RND1, a Qwen3 mixture of experts that attends both ways and shifts its logits.

The published weights are transformers' Qwen3 mixture, key for key. The published config class puts
the sizes of the 30B model over those of config.json; here config.json is taken at its word.
"""

from typing import Any

from tabom.models.family import Family, require_experts
from tabom.models.folders import ConfigDict


class Rnd1(Family):
    """Qwen3's mixture of experts, with shifted logits."""

    def network(self) -> Any:
        from tabom.models.networks_moe import MaskedQwen3Moe

        return MaskedQwen3Moe

    def to_network_config(self, published: ConfigDict) -> Any:
        require_experts(published)
        # As published, false stands for none.
        none = {k: None for k in ("rope_scaling", "sliding_window") if published.get(k) is False}
        config = super().to_network_config({**published, **none})
        config.published = {k: v for k, v in published.items() if k != "auto_map"}
        return config


FAMILY = Rnd1(
    name="rnd1",
    alignment="shift_right",
    official_decoding="rnd1",
    default_mask_id=151669,
    default_eos_id=151645,
    end_of_turn=("<|im_end|>",),
    tokenizer_class="Qwen2Tokenizer",
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    special_tokens={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    required={"use_sliding_window": False, "attention_bias": False, "hidden_act": "silu"},
    template={
        "model_type": "rnd1",
        "architectures": ["RND1LM"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": False,
        "sliding_window": False,
        "max_position_embeddings": 40960,
        "head_dim": None,
        "moe_intermediate_size": None,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    },
    published_vocab_size=151936,
    has_experts=True,
    adapter_task_type="CAUSAL_LM",
)
