"""Family "sdar": SDAR and TraDo, which decode block after block.

The published weights are a Qwen3 network, key for key. A position sees its own block, both ways,
and all blocks before it; blocks are counted from the first token of the prompt. What lies behind a
finished block can therefore be cached exactly.
"""

from pathlib import Path
from typing import Any

from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from tabom.core.errors import ModelError
from tabom.models.contract import FamilySpec
from tabom.models.family import (
    ConfigDict,
    Family,
    RandomSizes,
    plain_rope_theta,
    require_full_attention,
    require_values,
)

PUBLISHED_VOCAB_SIZE = 151936
BLOCK_SIZE = 4  # of the published SDAR checkpoints, and of random ones


class SdarConfig(Qwen3Config):
    """Qwen3's config under the name that the published folders carry."""

    model_type = "sdar"


def _detects(config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
    return config.get("model_type") == "sdar"


def _make_config(published: ConfigDict) -> Any:
    block_size = published.get("block_size")
    if not isinstance(block_size, int) or block_size < 1:
        raise ModelError(
            f"config.json of family sdar has block_size = {block_size!r}, expected the number of "
            f'tokens of a block; add the one it was trained with, e.g. "block_size": {BLOCK_SIZE}'
        )
    require_values(
        published, {"use_sliding_window": False, "attention_bias": False, "hidden_act": "silu"}
    )
    plain_rope_theta(published)
    require_full_attention(published)
    fields = {k: v for k, v in published.items() if k not in ("auto_map", "model_type")}
    return SdarConfig(**{**fields, "is_causal": False, "use_cache": False})


def _publish_config(config: Any) -> ConfigDict:
    published: ConfigDict = config.to_dict()
    rope = published.get("rope_parameters") or {}
    return {
        "architectures": ["SDARForCausalLM"],
        **published,
        "model_type": "sdar",
        "rope_theta": rope.get("rope_theta", 1000000.0),  # where the published code looks for it
    }


def _random_config(sizes: RandomSizes) -> ConfigDict:
    return {
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.hidden_size // sizes.num_heads,
        "vocab_size": sizes.vocab_size,
        "initializer_range": sizes.initializer_range,
        "mask_token_id": sizes.mask_token_id,
        "eos_token_id": sizes.eos_token_id,
        "pad_token_id": sizes.pad_token_id,
        "bos_token_id": sizes.eos_token_id,
        "block_size": BLOCK_SIZE,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "max_window_layers": sizes.num_layers,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    }


def _load_tokenizer(folder: Path) -> Any:
    # The published class is Qwen2's in all but name; AutoTokenizer would ask for code.
    return Qwen2Tokenizer.from_pretrained(folder)


FAMILY = Family(
    spec=FamilySpec(
        name="sdar", alignment="identity", attention="block_causal", default_mask_id=151669
    ),
    lm_class=Qwen3ForCausalLM,
    detects=_detects,
    make_config=_make_config,
    publish_config=_publish_config,
    random_config=_random_config,
    load_tokenizer=_load_tokenizer,
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    end_of_turn=("<|im_end|>",),
    adapter_task_type="CAUSAL_LM",
    published_vocab_size=PUBLISHED_VOCAB_SIZE,
)
