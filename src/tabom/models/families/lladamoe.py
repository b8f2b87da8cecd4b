"""Family "lladamoe": LLaDA-MoE-7B-A1B, a mixture of experts that attends both ways.

The published weights are a Qwen3 mixture, key for key. Its config.json says model_type "llada",
like the dense LLaDA's, and calls some sizes otherwise; copies of it say "lladamoe".
"""

from typing import Any

from tabom.core.errors import ModelError
from tabom.models.family import Family, plain_rope_theta, require_experts, require_values
from tabom.models.folders import ConfigDict

# Config fields that the network knows under the same name.
SAME = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "rms_norm_eps", "max_position_embeddings", "vocab_size", "tie_word_embeddings", "num_experts",
    "num_experts_per_tok", "attention_dropout", "initializer_range", "mask_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


class LladaMoe(Family):
    """Qwen3's mixture of experts, its weights not renormed."""

    def network(self) -> Any:
        from tabom.models.networks_moe import MaskedQwen3Moe

        return MaskedQwen3Moe

    def detects(self, config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
        return config.get("model_type") in ("llada", "lladamoe") and "num_experts" in config

    def to_network_config(self, published: ConfigDict) -> Any:
        require_values(published, self.required)
        require_experts(published)
        if published.get("partial_rotary_factor") not in (None, 1, -1):
            require_values(published, {"partial_rotary_factor": 1})
        num_layers = published["num_hidden_layers"]
        has_experts = published.get("moe_layer_freq", [1] * num_layers)
        if isinstance(has_experts, int):
            has_experts = [int(i % has_experts == 0) for i in range(num_layers)]
        if len(has_experts) != num_layers or set(has_experts) - {0, 1}:
            raise ModelError(
                f"config.json has moe_layer_freq = {has_experts!r}, expected 0 or 1 for each of "
                f"the {num_layers} layers"
            )
        return self.network().config_class(
            **{name: published[name] for name in SAME if name in published},
            head_dim=published["hidden_size"] // published["num_attention_heads"],
            intermediate_size=published["dense_intermediate_size"],
            moe_intermediate_size=published["expert_intermediate_size"],
            mlp_only_layers=[i for i, has in enumerate(has_experts) if not has],
            decoder_sparse_step=1,
            # The published module reads the field and takes False whatever it says.
            norm_topk_prob=False,
            rope_parameters={"rope_type": "default", "rope_theta": plain_rope_theta(published)},
            is_causal=False,
            use_cache=False,
            published={k: v for k, v in published.items() if k != "auto_map"},
        )


FAMILY = LladaMoe(
    name="lladamoe",
    positions="from_first_pad",
    official_decoding="llada",
    default_mask_id=156895,
    default_eos_id=156892,
    end_of_turn=("<|role_end|>",),
    answer_end="<|role_end|>",
    special_tokens={
        "mask_token": "<|mask|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    },
    required={
        "moe_router_score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "attention_bias": False,
        "clip_qkv": None,
        "shared_expert_intermediate_size": None,
        "qk_layernorm": True,
        "router_num_group": None,
        "router_topk_group": None,
        "routed_scaling_factor": 1,
        "hidden_act": "silu",
    },
    template={
        "model_type": "llada",
        "architectures": ["LLaDAMoEModelLM"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "rope_scaling": None,
        "max_position_embeddings": 8192,
        "expert_intermediate_size": None,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "qk_layernorm": True,
        "moe_router_score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "shared_expert_intermediate_size": None,
        "partial_rotary_factor": 1,
        "tie_word_embeddings": False,
        "use_cache": False,
    },
    size_names={
        "intermediate_size": "dense_intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "expert_size": "expert_intermediate_size",
    },
    published_vocab_size=157184,
    has_experts=True,
    adapter_task_type="CAUSAL_LM",
)  # fmt: skip
