"""Family "dream": Dream-7B and its relatives (Dream-Coder, DiffuCoder, Open-dCoder).

The published weights are a Qwen2 network, key for key; what differs is that attention runs both
ways and that the logits at position p - 1 predict position p. So transformers' own Qwen2 classes
hold them, with `is_causal=False` in the config (which transformers reads from 5.2 on), and the
published modelling code is not needed.

Open-dCoder is published as a plain Qwen2: what makes it a masked model is its mask token, so only
a folder that names one is taken for it, and that token is the only source of its mask id.
"""

from pathlib import Path
from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from tabom.models.contract import FamilySpec
from tabom.models.family import (
    ConfigDict,
    Family,
    RandomSizes,
    plain_rope_theta,
    require_full_attention,
    require_values,
)

PUBLISHED_VOCAB_SIZE = 152064
MASK_ID = 151666


class DreamConfig(Qwen2Config):
    """Qwen2's config under the name that the published folders carry."""

    model_type = "Dream"


def _detects(config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
    if config.get("model_type") == "qwen2":
        return bool(tokenizer_config.get("mask_token")) or config.get("mask_token_id") is not None
    return config.get("model_type") == "Dream"


def _mask_id_of(config: ConfigDict) -> int | None:
    return None if config.get("model_type") == "qwen2" else MASK_ID


def _make_config(published: ConfigDict) -> Any:
    # Left in, auto_map would be saved, and a later load that trusts remote code run the repo's.
    fields = {k: v for k, v in published.items() if k not in ("auto_map", "model_type")}
    require_values(published, {"use_sliding_window": False, "hidden_act": "silu"})
    plain_rope_theta(published)
    require_full_attention(published)
    identity = {k: published[k] for k in ("model_type", "architectures") if k in published}
    return DreamConfig(
        **{**fields, "is_causal": False, "use_cache": False, "published_as": identity}
    )


def _publish_config(config: Any) -> ConfigDict:
    published: ConfigDict = config.to_dict()
    rope = published.get("rope_parameters") or {}
    identity = published.pop("published_as", {})
    return {
        **published,
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        **identity,
        "rope_theta": rope.get("rope_theta", 1000000.0),  # where the published code looks for it
    }


def _random_config(sizes: RandomSizes) -> ConfigDict:
    return {
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "vocab_size": sizes.vocab_size,
        "initializer_range": sizes.initializer_range,
        "mask_token_id": sizes.mask_token_id,
        "eos_token_id": sizes.eos_token_id,
        "pad_token_id": sizes.pad_token_id,
        "bos_token_id": sizes.eos_token_id,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 131072,
        "max_window_layers": sizes.num_layers,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    }


def _load_tokenizer(folder: Path) -> Any:
    # The published tokenizer class is Qwen2's in all but name; AutoTokenizer would ask for code.
    return Qwen2Tokenizer.from_pretrained(folder)


FAMILY = Family(
    spec=FamilySpec(
        name="dream",
        alignment="shift_right",
        default_mask_id=MASK_ID,
        official_decoding="dream",
    ),
    lm_class=Qwen2ForCausalLM,
    detects=_detects,
    make_config=_make_config,
    publish_config=_publish_config,
    random_config=_random_config,
    load_tokenizer=_load_tokenizer,
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    end_of_turn=("<|im_end|>",),
    adapter_task_type="FEATURE_EXTRACTION",
    mask_id_of=_mask_id_of,
    published_vocab_size=PUBLISHED_VOCAB_SIZE,
)
