"""Configs of the true size on the meta device: names and shapes as the published index has them."""

from typing import Any

import pytest
import torch

from tabom.models.families import detect_family

DREAM_7B: dict[str, Any] = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "mask_token_id": 151666,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
}
LLADA_8B: dict[str, Any] = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
ILLADA_8B = {
    **LLADA_8B,
    "embedding_size": 155136,
    "vocab_size": 155136,
    "n_kv_heads": 8,
    "mlp_hidden_size": 14336,
    "max_sequence_length": 8192,
    "weight_tying": True,
}
SDAR_8B: dict[str, Any] = {
    "model_type": "sdar",
    "architectures": ["SDARForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "block_size": 4,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "attention_bias": False,
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "eos_token_id": 151643,
}


def dream_index() -> dict[str, tuple[int, ...]]:
    d, ff, kv, vocab = 3584, 18944, 4 * 128, 152064
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (vocab, d),
    }
    for n in range(28):
        layer = {
            "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,),
            "self_attn.q_proj.weight": (d, d),
            "self_attn.q_proj.bias": (d,),
            "self_attn.k_proj.weight": (kv, d),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (d, d),
            "mlp.gate_proj.weight": (ff, d),
            "mlp.up_proj.weight": (ff, d),
            "mlp.down_proj.weight": (d, ff),
        }
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def llada_index(*, ff: int, kv: int, vocab: int, tied: bool) -> dict[str, tuple[int, ...]]:
    d = 4096
    shapes: dict[str, tuple[int, ...]] = {
        "model.transformer.wte.weight": (vocab, d),
        "model.transformer.ln_f.weight": (d,),
    }
    if not tied:
        shapes["model.transformer.ff_out.weight"] = (vocab, d)
    for n in range(32):
        block = {
            "attn_norm.weight": (d,),
            "ff_norm.weight": (d,),
            "q_proj.weight": (d, d),
            "k_proj.weight": (kv, d),
            "v_proj.weight": (kv, d),
            "attn_out.weight": (d, d),
            "ff_proj.weight": (ff, d),
            "up_proj.weight": (ff, d),
            "ff_out.weight": (d, ff),
        }
        shapes |= {f"model.transformer.blocks.{n}.{name}": s for name, s in block.items()}
    return shapes


def built(config: dict[str, Any]) -> Any:
    family = detect_family(config, where="nowhere")
    with torch.device("meta"):
        return family, family.network()(family.to_network_config(config))


@pytest.mark.parametrize(
    "config, index, count, gigabytes",
    [
        (DREAM_7B, dream_index(), 339, 15.23),
        (LLADA_8B, llada_index(ff=12288, kv=4096, vocab=126464, tied=False), 291, 16.03),
        (ILLADA_8B, llada_index(ff=14336, kv=1024, vocab=155136, tied=True), 290, None),
    ],
    ids=["Dream-7B", "LLaDA-8B", "iLLaDA-8B"],
)
def test_names_and_shapes(
    config: dict[str, Any], index: dict[str, tuple[int, ...]], count: int, gigabytes: float | None
) -> None:
    assert len(index) == count
    if gigabytes is not None:  # bfloat16, as published
        size = sum(2 * torch.Size(shape).numel() for shape in index.values())
        assert size / 1e9 == pytest.approx(gigabytes, abs=0.005)
    family, lm = built(config)
    ours = {name: tuple(p.shape) for name, p in lm.named_parameters()}  # tied ones once
    assert {family.rename(name): shape for name, shape in index.items()} == ours
    assert lm.config.is_causal is False
    assert lm.config.use_cache is False


def test_sdar_has_the_tensors_of_qwen3() -> None:
    _, lm = built(SDAR_8B)
    names = set(dict(lm.named_parameters()))
    assert len(names) == 399
    layer = {n.removeprefix("model.layers.35.") for n in names if n.startswith("model.layers.35.")}
    assert layer == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{n}_proj.weight" for n in "qkvo"),
        *(f"self_attn.{n}_norm.weight" for n in "qk"),
        *(f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")),
    }
