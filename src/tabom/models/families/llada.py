"""Family "llada": LLaDA-8B, LLaDA-1.5, iLLaDA and the models that share their code.

The published network is Llama under other tensor names, attending both ways, with the rotary
embedding in float32 whatever the dtype of the weights. So transformers' Llama classes hold it:
names are mapped while loading (and back while saving), and rotation alone is done differently
(`tabom.models.networks.MaskedLlada`).
"""

from typing import Any

from tabom.models.family import Family, plain_rope_theta, require_values
from tabom.models.folders import ConfigDict

# The switches of the published config.json that the network implements; any other is refused.
IMPLEMENTED: ConfigDict = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "rope": True,
    "rope_full_precision": True,
    "alibi": False,
    "scale_logits": False,
    "block_group_size": 1,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "residual_dropout": 0.0,
}
BLOCK, LAYER = "model.transformer.blocks.N", "model.layers.N"
# Neither config.json nor the tokenizer need name the mask; the rows of the embedding tell which of
# the published checkpoints it is (LLaDA-8B and 1.5; iLLaDA).
MASK_IDS = {126464: 126336, 155136: 5}


class Llada(Family):
    """Llama under the names of OLMo, rotated in float32."""

    def network(self) -> Any:
        from tabom.models.networks import MaskedLlada

        return MaskedLlada

    def detects(self, config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
        # LLaDA-MoE is published under the same model_type.
        return super().detects(config, tokenizer_config) and "num_experts" not in config

    def mask_id_of(self, config: ConfigDict) -> int | None:
        return MASK_IDS.get(config.get("embedding_size") or config.get("vocab_size") or 0)

    def to_network_config(self, published: ConfigDict) -> Any:
        require_values(published, self.required, is_strict=True)
        width, heads = published["d_model"], published["n_heads"]
        special_ids = {
            name: published.get(name)
            for name in ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
        }
        return self.network().config_class(
            hidden_size=width,
            intermediate_size=published.get("mlp_hidden_size") or published["mlp_ratio"] * width,
            num_hidden_layers=published["n_layers"],
            num_attention_heads=heads,
            num_key_value_heads=published.get("n_kv_heads") or heads,
            hidden_act="silu",
            rms_norm_eps=published.get("rms_norm_eps", 1e-5),
            rope_parameters={"rope_type": "default", "rope_theta": plain_rope_theta(published)},
            max_position_embeddings=published["max_sequence_length"],
            vocab_size=published.get("embedding_size") or published["vocab_size"],
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=published.get("weight_tying", False),
            is_causal=False,
            use_cache=False,
            published={k: v for k, v in published.items() if k != "auto_map"},
            **special_ids,
        )


FAMILY = Llada(
    name="llada",
    positions="from_first_pad",
    official_decoding="llada",
    end_of_turn=("<|eot_id|>",),
    # An answer is closed with the EOS, not with <|eot_id|>: so say the guidelines for fine-tuning.
    required=IMPLEMENTED,
    template={
        **IMPLEMENTED,
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "mlp_ratio": 4,
        "max_sequence_length": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "multi_query_attention": None,
        "weight_tying": False,
        "use_cache": False,
    },
    size_names={
        "hidden_size": "d_model",
        "intermediate_size": "mlp_hidden_size",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "num_kv_heads": "n_kv_heads",
        "initializer_range": "init_std",
    },
    published_vocab_size=126464,
    tensor_names={
        "model.transformer.wte": "model.embed_tokens",
        "model.transformer.ln_f": "model.norm",
        "model.transformer.ff_out": "lm_head",
        f"{BLOCK}.attn_norm": f"{LAYER}.input_layernorm",
        f"{BLOCK}.ff_norm": f"{LAYER}.post_attention_layernorm",
        f"{BLOCK}.q_proj": f"{LAYER}.self_attn.q_proj",
        f"{BLOCK}.k_proj": f"{LAYER}.self_attn.k_proj",
        f"{BLOCK}.v_proj": f"{LAYER}.self_attn.v_proj",
        f"{BLOCK}.attn_out": f"{LAYER}.self_attn.o_proj",
        f"{BLOCK}.ff_proj": f"{LAYER}.mlp.gate_proj",
        f"{BLOCK}.up_proj": f"{LAYER}.mlp.up_proj",
        f"{BLOCK}.ff_out": f"{LAYER}.mlp.down_proj",
    },
    adapter_task_type="CAUSAL_LM",
)
