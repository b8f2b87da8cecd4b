"""Family "llada2": LLaDA2.0 and 2.1 (mini and flash), mixtures of experts decoded in blocks.

The published network computes what transformers' GLM-4 mixture does: q and k normed per head,
rotation of half a head, sigmoid routing in float32 within the best groups, and a shared expert. Its
files name tensors otherwise, hold queries, keys and values in one matrix and each expert in
matrices of its own. 2.0 and 2.1 share config and weights; only their decoding differs.

A position sees its own block of 32, both ways, and all blocks before it.
"""

from typing import Any

from tabom.models.family import Family, plain_rope_theta, require_experts, require_values
from tabom.models.folders import ConfigDict

BLOCK_SIZE = 32  # of the published training; config.json does not say it
LAYER = "model.layers.N"
# Config fields that the network knows under the same name.
SAME = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "max_position_embeddings",
    "vocab_size", "tie_word_embeddings", "moe_intermediate_size", "num_experts_per_tok", "n_group",
    "topk_group", "first_k_dense_replace", "norm_topk_prob", "routed_scaling_factor",
    "attention_dropout", "initializer_range", "mask_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


class Llada2(Family):
    """GLM-4's mixture of experts under other names, block-causal."""

    def network(self) -> Any:
        from tabom.models.networks_moe import MaskedGlm4Moe

        return MaskedGlm4Moe

    def block_length_of(self, published: ConfigDict) -> int:
        return BLOCK_SIZE

    def to_network_config(self, published: ConfigDict) -> Any:
        require_values(published, self.required)
        require_experts(published, shared=published["num_shared_experts"])
        rotated = published.get("partial_rotary_factor", 1.0)
        require_values(published, {"rotary_dim": int(published["head_dim"] * rotated)})
        return self.network().config_class(
            **{name: published[name] for name in SAME if name in published},
            n_routed_experts=published["num_experts"],
            n_shared_experts=published["num_shared_experts"],
            attention_bias=False,
            use_qk_norm=True,
            num_mtp_layers=0,
            block_size=BLOCK_SIZE,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": plain_rope_theta(published),
                "partial_rotary_factor": rotated,
            },
            is_causal=False,
            use_cache=False,
            published={k: v for k, v in published.items() if k != "auto_map"},
        )


FAMILY = Llada2(
    name="llada2",
    attention="block_causal",
    official_decoding="llada2",
    default_mask_id=156895,
    default_eos_id=156892,
    end_of_turn=("<|role_end|>",),
    answer_end="<|role_end|>",  # the published template closes the assistant's turn with it
    special_tokens={
        "mask_token": "<|mask|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    },
    required={
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_qk_norm": True,
        "use_rmsnorm": True,
        "using_split_qkv_in_self_attention": False,
        "norm_head": False,
        "norm_softmax": False,
        "use_sliding_window": False,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "hidden_act": "silu",
        "block_size": BLOCK_SIZE,
    },
    template={
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 600000.0,
        "rope_scaling": None,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 32768,
        "first_k_dense_replace": 1,
        "head_dim": None,
        "moe_intermediate_size": None,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "router_dtype": "fp32",
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_bias": False,
        "norm_head": False,
        "norm_softmax": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    },
    published_vocab_size=157184,
    tensor_names={
        "model.word_embeddings": "model.embed_tokens",
        f"{LAYER}.attention.dense": f"{LAYER}.self_attn.o_proj",
        f"{LAYER}.attention.query_layernorm": f"{LAYER}.self_attn.q_norm",
        f"{LAYER}.attention.key_layernorm": f"{LAYER}.self_attn.k_norm",
        f"{LAYER}.mlp.gate.expert_bias": f"{LAYER}.mlp.gate.e_score_correction_bias",
    },
    fused={
        f"{LAYER}.attention.query_key_value": (
            f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.k_proj", f"{LAYER}.self_attn.v_proj",
        ),
    },
    has_experts=True,
    adapter_task_type="CAUSAL_LM",
)  # fmt: skip
