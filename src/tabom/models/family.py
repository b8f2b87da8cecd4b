"""What one family module says about itself: the single place that knows its published layout."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.core.errors import ModelError
from tabom.models.contract import FamilySpec

ConfigDict = dict[str, Any]  # a config.json as published


@dataclass(frozen=True, kw_only=True)
class RandomSizes:
    """Sizes and ids of a random checkpoint (`write_random_checkpoint`)."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    initializer_range: float
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family: facts, a transformers class, and the way between its files and that class.

    spec: the facts the rest of the house needs.
    lm_class: the transformers `*ForCausalLM` (or a subclass) that holds the weights. It is called
        explicitly and never registered, so no auto class and no remote code is involved.
    detects: whether a published config.json (with the folder's tokenizer_config.json, empty if
        there is none) is of this family.
    make_config: published config.json -> transformers config with `is_causal=False`; raises
        `ModelError` on a switch that the class does not implement.
    publish_config: transformers config -> config.json as the family publishes it.
    random_config: sizes -> config.json of a random checkpoint.
    load_tokenizer: folder -> tokenizer, through an explicit class.
    tokenizer_files: groups of file names; one complete group means that a tokenizer is there.
    end_of_turn: token texts that end a response besides EOS, looked up in the tokenizer.
    key_mapping, publish_mapping: regular expressions, published tensor names -> names of
        `lm_class`, and back (None: equal).
    layer_names: names of the linear modules of a layer, published -> `lm_class`, where they differ.
    adapter_key_mapping, adapter_publish_mapping: regular expressions for the tensors of adapters,
        from the published code's names to ours and back (None: equal).
    adapter_task_type: PEFT task type under which the published code loads adapters.
    mask_id_of: mask id known from the published config.json alone, where neither it nor the
        tokenizer names one (None: `spec.default_mask_id` for all).
    published_vocab_size: rows of the published embedding, where tokenizers are smaller than it.
    """

    spec: FamilySpec
    lm_class: Any
    detects: Callable[[ConfigDict, ConfigDict], bool]
    make_config: Callable[[ConfigDict], Any]
    publish_config: Callable[[Any], ConfigDict]
    random_config: Callable[[RandomSizes], ConfigDict]
    load_tokenizer: Callable[[Path], Any]
    tokenizer_files: tuple[tuple[str, ...], ...]
    end_of_turn: tuple[str, ...] = ()
    key_mapping: Mapping[str, str] | None = None
    publish_mapping: Mapping[str, str] | None = None
    layer_names: Mapping[str, str] | None = None
    adapter_key_mapping: Mapping[str, str] | None = None
    adapter_publish_mapping: Mapping[str, str] | None = None
    adapter_task_type: str | None = None
    mask_id_of: Callable[[ConfigDict], int | None] | None = None
    published_vocab_size: int | None = None


def rename(key: str, mapping: Mapping[str, str] | None) -> str:
    """A tensor name by the first rule that matches it, or unchanged."""
    for pattern, replacement in (mapping or {}).items():
        renamed, hits = re.subn(pattern, replacement, key)
        if hits:
            return renamed
    return key


def plain_rope_theta(published: ConfigDict) -> float:
    """The base of an unscaled rotary embedding, as older and newer versions publish it.

    Raises: `ModelError` if it is missing, no number, or given twice and differently (transformers
        would take its own default, or one of the two), or if the embedding is scaled.
    """
    bases = {"rope_theta": published["rope_theta"]} if "rope_theta" in published else {}
    for name in ("rope_parameters", "rope_scaling"):
        found = published.get(name)
        if found is None:
            continue
        fields = found if isinstance(found, dict) else {"rope_type": found}
        kinds = {fields.get("rope_type", "default"), fields.get("type", "default")}
        if kinds != {"default"} or fields.keys() - {"rope_type", "type", "rope_theta"}:
            raise ModelError(
                f"config.json has {name} = {found!r}, and only an unscaled rotary embedding is "
                "implemented; this checkpoint is not one of the published layout"
            )
        if "rope_theta" in fields:
            bases[f"{name}.rope_theta"] = fields["rope_theta"]
    for name, theta in (bases or {"rope_theta": None}).items():
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 1:
            raise ModelError(
                f"config.json has {name} = {theta!r}, expected the base of the rotary embedding, "
                "a number above 1; take the config.json that was published with the weights"
            )
    if len(set(bases.values())) > 1:
        raise ModelError(f"config.json has two bases of the rotary embedding that differ: {bases}")
    return float(next(iter(bases.values())))


def require_values(published: ConfigDict, expected: ConfigDict) -> None:
    """Raise `ModelError` if a switch is set to a value that the family does not implement."""
    for name, value in expected.items():
        found = published.get(name)
        if found is not None and found != value:
            raise ModelError(
                f"config.json has {name} = {found!r}, and only {value!r} is implemented; this "
                "checkpoint is not one of the published layout"
            )


def require_full_attention(published: ConfigDict) -> None:
    """Raise `ModelError` if the config of a Qwen lets layers see a sliding window alone."""
    kinds = set(published.get("layer_types") or ())
    if kinds - {"full_attention"}:
        raise ModelError(
            f"config.json has layer_types {sorted(kinds)}, and only full_attention is implemented; "
            "this checkpoint is not one of the published layout"
        )
