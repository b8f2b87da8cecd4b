"""Family "toy": a small Llama backbone that attends both ways, with its own character tokenizer."""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tabom.models.contract import FamilySpec
from tabom.models.family import ConfigDict, Family, RandomSizes, plain_rope_theta

MAX_POSITIONS = 1024


def _detects(config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
    # A bare "llama" is an autoregressive model: only the explicit key makes a toy.
    return config.get("tabom_family") == "toy" and config.get("model_type") == "llama"


def _make_config(published: ConfigDict) -> Any:
    plain_rope_theta(published)
    fields = {k: v for k, v in published.items() if k not in ("auto_map", "model_type")}
    return LlamaConfig(**{**fields, "is_causal": False, "use_cache": False})


def _publish_config(config: Any) -> ConfigDict:
    published: ConfigDict = config.to_dict()
    return {**published, "tabom_family": "toy", "architectures": ["LlamaForCausalLM"]}


def _random_config(sizes: RandomSizes) -> ConfigDict:
    return {
        "tabom_family": "toy",
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "vocab_size": sizes.vocab_size,
        "initializer_range": sizes.initializer_range,
        "rope_theta": 10000.0,
        "max_position_embeddings": MAX_POSITIONS,
        "mask_token_id": sizes.mask_token_id,
        "eos_token_id": sizes.eos_token_id,
        "pad_token_id": sizes.pad_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
        "is_causal": False,
        "use_cache": False,
    }


def _load_tokenizer(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(folder)


FAMILY = Family(
    spec=FamilySpec(name="toy", alignment="identity"),
    lm_class=LlamaForCausalLM,
    detects=_detects,
    make_config=_make_config,
    publish_config=_publish_config,
    random_config=_random_config,
    load_tokenizer=_load_tokenizer,
    tokenizer_files=(("tokenizer.json",),),
)
