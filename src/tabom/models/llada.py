"""Family "llada": LLaDA-8B, LLaDA-1.5, iLLaDA and the models that share their code.

The published network is Llama under other tensor names, attending both ways, with the rotary
embedding in float32 whatever the dtype of the weights. So transformers' Llama classes hold it:
names are mapped while loading (and back while saving), and rotation alone is done differently.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from tabom.core.errors import ModelError
from tabom.models.contract import FamilySpec
from tabom.models.family import ConfigDict, Family, RandomSizes, plain_rope_theta

# The switches of the published config.json that these classes implement; any other is refused.
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
BLOCK = r"model\.transformer\.blocks\.(\d+)\."
LAYER = r"model.layers.\1."
# One rule a name: transformers substitutes only the first group.
LAYER_KEYS = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
NORM_KEYS = {"attn_norm": "input_layernorm", "ff_norm": "post_attention_layernorm"}
KEY_MAPPING = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    **{rf"^{BLOCK}{a}\.": f"{LAYER}{b}." for a, b in {**LAYER_KEYS, **NORM_KEYS}.items()},
}
PUBLISH_MAPPING = {
    r"^model\.embed_tokens\.": "model.transformer.wte.",
    r"^model\.norm\.": "model.transformer.ln_f.",
    r"^lm_head\.": "model.transformer.ff_out.",
    **{
        rf"^model\.layers\.(\d+)\.{re.escape(b)}\.": rf"model.transformer.blocks.\1.{a}."
        for a, b in {**LAYER_KEYS, **NORM_KEYS}.items()
    },
}
ADAPTER_KEY_MAPPING = {
    rf"^base_model\.model\.{BLOCK}{a}\.": rf"base_model.model.{LAYER}{b}."
    for a, b in LAYER_KEYS.items()
}
ADAPTER_PUBLISH_MAPPING = {
    rf"^base_model\.model\.model\.layers\.(\d+)\.{re.escape(b)}\.": (
        rf"base_model.model.model.transformer.blocks.\1.{a}."
    )
    for a, b in LAYER_KEYS.items()
}
# Neither config.json nor the tokenizer need name the mask; the rows of the embedding tell which of
# the published checkpoints it is (LLaDA-8B and 1.5; iLLaDA).
MASK_IDS = {126464: 126336, 155136: 5}


class LladaConfig(LlamaConfig):
    """Llama's config; `published` keeps the original fields, so that saving can write them."""

    model_type = "llada"


class LladaRotaryEmbedding(LlamaRotaryEmbedding):
    """Cosines and sines in float32; Llama's would round them to the dtype of the weights."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = super().forward(x.float(), position_ids)
        return cos, sin


class LladaAttention(LlamaAttention):
    """Llama's attention with queries and keys rotated in float32, then cast back."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        rotated_query, rotated_key = apply_rotary_pos_emb(query, key, *position_embeddings)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        rotated_key = rotated_key.to(key.dtype)
        if past_key_values is not None:
            rotated_key, value = past_key_values.update(rotated_key, value, self.layer_idx)
        output, weights = attend(
            self,
            rotated_query.to(query.dtype),
            rotated_key,
            value,
            attention_mask,
            dropout=0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.flatten(-2).contiguous()), weights


class LladaForMaskedDiffusion(LlamaForCausalLM):
    """`LlamaForCausalLM` with LLaDA's rotation."""

    config_class = LladaConfig

    def __init__(self, config: LladaConfig) -> None:
        super().__init__(config)
        self.model.rotary_emb = LladaRotaryEmbedding(config=config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = LladaAttention(config, index)


def _detects(config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
    return config.get("model_type") == "llada"


def _mask_id_of(config: ConfigDict) -> int | None:
    return MASK_IDS.get(config.get("embedding_size") or config.get("vocab_size") or 0)


def _make_config(published: ConfigDict) -> Any:
    for name, value in IMPLEMENTED.items():
        if published.get(name) != value:
            raise ModelError(
                f"config.json of family llada has {name} = {published.get(name)!r}, and only "
                f"{value!r} is implemented; this checkpoint is not one of LLaDA-8B's layout"
            )
    width, heads = published["d_model"], published["n_heads"]
    kept = {k: v for k, v in published.items() if k != "auto_map"}
    return LladaConfig(
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
        mask_token_id=published.get("mask_token_id"),
        eos_token_id=published.get("eos_token_id"),
        pad_token_id=published.get("pad_token_id"),
        bos_token_id=published.get("bos_token_id"),
        is_causal=False,
        use_cache=False,
        published=kept,
    )


def _publish_config(config: Any) -> ConfigDict:
    published: ConfigDict = dict(config.published)
    return published


def _random_config(sizes: RandomSizes) -> ConfigDict:
    return {
        **IMPLEMENTED,
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "d_model": sizes.hidden_size,
        "mlp_hidden_size": sizes.intermediate_size,
        "mlp_ratio": 4,
        "n_layers": sizes.num_layers,
        "n_heads": sizes.num_heads,
        "n_kv_heads": sizes.num_kv_heads,
        "vocab_size": sizes.vocab_size,
        "embedding_size": sizes.vocab_size,
        "init_std": sizes.initializer_range,
        "mask_token_id": sizes.mask_token_id,
        "eos_token_id": sizes.eos_token_id,
        "pad_token_id": sizes.pad_token_id,
        "max_sequence_length": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "multi_query_attention": None,
        "weight_tying": False,
        "use_cache": False,
    }


def _load_tokenizer(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder)


FAMILY = Family(
    spec=FamilySpec(
        name="llada",
        alignment="identity",
        default_mask_id=126336,
        positions="from_first_pad",
        official_decoding="llada",
    ),
    lm_class=LladaForMaskedDiffusion,
    detects=_detects,
    make_config=_make_config,
    publish_config=_publish_config,
    random_config=_random_config,
    load_tokenizer=_load_tokenizer,
    tokenizer_files=(("tokenizer.json",),),
    end_of_turn=("<|eot_id|>",),
    key_mapping=KEY_MAPPING,
    publish_mapping=PUBLISH_MAPPING,
    layer_names=LAYER_KEYS,
    adapter_key_mapping=ADAPTER_KEY_MAPPING,
    adapter_publish_mapping=ADAPTER_PUBLISH_MAPPING,
    adapter_task_type="CAUSAL_LM",
    mask_id_of=_mask_id_of,
    published_vocab_size=126464,
)
