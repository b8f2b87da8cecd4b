"""What one family of checkpoints says about itself: facts as fields, differences as methods.

Nothing here imports torch or transformers before a network or a tokenizer is asked for, so that
reading special ids, which `tabom verify` does, starts at once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tabom.core.errors import ModelError
from tabom.models.folders import ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

Alignment = Literal["identity", "shift_right"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]  # what weights are read as
Quantization = Literal["nf4", "int8"]  # how the matrices of the layers may be kept
# How the configs of transformers' Llama-like networks call some sizes of a random checkpoint.
USUAL_SIZES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "expert_size": "moe_intermediate_size",
}
ADAPTER_PREFIX = "base_model.model."  # PEFT puts it before every name


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. A new one is a module of `tabom.models.families` with a `FAMILY`.

    The defaults are those of a network that transformers has under its own tensor names, with
    attention both ways. A subclass overrides what differs; `network` and `detects` always do.
    """

    name: str
    alignment: Alignment = "identity"
    """Which hidden state predicts position p: its own, or with "shift_right" that at p - 1."""
    attention: Literal["full", "block_causal"] = "full"
    positions: Literal["from_first_token", "from_first_pad"] = "from_first_token"
    """Where position 0 of a left-padded row is. Rotary embeddings are relative, so this is a
    matter of rounding: parity with the published code needs it."""
    official_decoding: Literal["dream", "llada", "llada2", "rnd1", "sdar"] | None = None
    """Whose published decoding function `schedule: official` stands for."""

    default_mask_id: int | None = None
    """The mask id where neither config.json nor the tokenizer names one."""
    default_eos_id: int | None = None
    """The same of EOS."""
    end_of_turn: tuple[str, ...] = ()
    """Texts of tokens that end a response besides EOS."""
    answer_end: str | None = None
    """Text of the token that closes an answer in the published training; None: the EOS."""
    tokenizer_class: str = "PreTrainedTokenizerFast"
    """A class of transformers, named outright: an auto class would ask for the repo's code."""
    tokenizer_files: tuple[tuple[str, ...], ...] = (("tokenizer.json",),)
    """Groups of file names; one complete group means that a tokenizer is there."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """What the tokenizer class takes where tokenizer_config.json names no such token."""

    required: Mapping[str, Any] = field(default_factory=dict)
    """Switches of config.json, each with the only value that the network implements."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """The rest of a published config.json, for random checkpoints."""
    size_names: Mapping[str, str] = field(default_factory=lambda: dict(USUAL_SIZES))
    """The names of sizes that config.json calls otherwise than we do."""
    published_vocab_size: int | None = None
    """Rows of the published embedding, where tokenizers are smaller than it."""
    tensor_names: Mapping[str, str] = field(default_factory=dict)
    """Published names -> the network's, where they differ, without ".weight"; N is a layer."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Published matrices that hold several of the network's, one below the other."""
    has_experts: bool = False
    """Whether the network stacks what is published as a matrix for each expert."""
    adapter_task_type: str | None = None
    """PEFT's task type, under which the published code loads adapters."""

    # ---- what a family must say ----

    def network(self) -> Any:
        """The class of transformers that holds the weights, a `*ForCausalLM`; no auto class."""
        raise NotImplementedError(f"family {self.name} has no network")

    def detects(self, config: ConfigDict, tokenizer_config: ConfigDict) -> bool:
        """Whether a published config.json is of this family.

        tokenizer_config: of the same folder, empty if there is none.
        """
        return bool(config.get("model_type") == self.template.get("model_type"))

    # ---- what it may say otherwise ----

    def mask_id_of(self, config: ConfigDict) -> int | None:
        """The mask id known from the published config.json alone."""
        return self.default_mask_id

    def block_length_of(self, published: ConfigDict) -> int | None:
        """Tokens of a block of block-causal attention; None under full attention."""
        return None if self.attention == "full" else int(published["block_size"])

    def to_network_config(self, published: ConfigDict) -> Any:
        """Published config.json -> the network's config, with `is_causal=False`.

        Raises: `ModelError` for a switch that the network does not implement.
        """
        require_values(published, self.required)
        plain_rope_theta(published)
        # A sliding window would hide a part of the canvas.
        for kind in published.get("layer_types") or ():
            require_values({"layer_types": kind}, {"layer_types": "full_attention"})
        # Left in, auto_map would be saved, and a later load that trusts remote code run the repo's.
        fields = {k: v for k, v in published.items() if k not in ("auto_map", "model_type")}
        identity = {k: published[k] for k in IDENTITY if k in published}
        fields |= {"is_causal": False, "use_cache": False, "published_as": identity}
        return self.network().config_class(**fields)

    def to_published_config(self, config: Any) -> ConfigDict:
        """The network's config -> config.json as the family publishes it."""
        if kept := getattr(
            config, "published", None
        ):  # of a family that calls its fields otherwise
            return dict(kept)
        published: ConfigDict = config.to_dict()
        identity = {k: v for k, v in self.template.items() if k in IDENTITY}
        published |= {**identity, **published.pop("published_as", {})}
        rope = published.get("rope_parameters") or {}
        if "rope_theta" in rope:  # the published code looks for it at the top
            published["rope_theta"] = rope["rope_theta"]
        return published

    def random_config(self, sizes: Mapping[str, float], special_ids: ConfigDict) -> ConfigDict:
        """config.json of a random checkpoint.

        sizes: by our names, as `write_random_checkpoint` takes them. special_ids: mask, EOS and
            pad, as config.json calls them. Those that the template leaves open are derived.
        """
        derived = {
            "head_dim": int(sizes["hidden_size"]) // int(sizes["num_heads"]),
            "expert_size": max(1, int(sizes["intermediate_size"]) // 4),
        }
        names = {name: self.size_names.get(name, name) for name in (*derived, *sizes)}
        open_sizes = {n: v for n, v in derived.items() if names[n] in self.template}
        named = {names[name]: size for name, size in {**open_sizes, **sizes}.items()}
        return {**self.template, **named, **special_ids}

    def load_tokenizer(self, folder: Path) -> Any:
        """The tokenizer of a folder that has its files."""
        import transformers

        return getattr(transformers, self.tokenizer_class).from_pretrained(folder)

    # ---- names of tensors ----

    def rename(self, key: str, *, to_published: bool = False) -> str:
        """A tensor's name, also of an adapter, by the first rule that matches it."""
        prefix = ADAPTER_PREFIX if key.startswith(ADAPTER_PREFIX) else ""
        for rule in self.tensor_names.items():
            old, new = reversed(rule) if to_published else rule
            renamed = swap_name(key.removeprefix(prefix), old, new)
            if renamed is not None:
                return prefix + renamed
        return key

    def published_name(self, key: str) -> str:
        """A tensor's published name; files may have the network's own as well."""
        return self.rename(self.rename(key), to_published=True)

    def fused_into(self, key: str) -> tuple[str, int] | None:
        """The published matrix that a tensor of the network is a part of, and which; None: none."""
        for published, parts in self.fused.items():
            for index, ours in enumerate(parts):
                renamed = swap_name(key, ours, published)
                if renamed is not None:
                    return renamed, index
        return None

    def parts(self, state: Mapping[str, "Tensor"]) -> dict[str, list["Tensor"]]:
        """The published tensors by name, each as what has to lie below one another in it.

        state: the network's tensors by name, on any device. The parts are views of them, so that
            writing into a part fills the network.
        """
        found: dict[str, dict[int, Tensor]] = {}
        for name, tensor in state.items():
            stacked = EXPERTS.fullmatch(name) if self.has_experts else None
            if stacked is None:
                published, place = self.fused_into(name) or (
                    self.rename(name, to_published=True), 0,
                )  # fmt: skip
                found.setdefault(published, {})[place] = tensor
                continue
            for number, expert in enumerate(tensor):
                stem = self.rename(stacked[1], to_published=True) + f".{number}"
                # The gates lie above the projections that they gate.
                halves = expert.chunk(2) if stacked[2] == "gate_up" else [expert]
                for kind, part in zip(stacked[2].split("_"), halves, strict=True):
                    found[f"{stem}.{kind}_proj.weight"] = {0: part}
        return {name: [part for _, part in sorted(parts.items())] for name, parts in found.items()}


EXPERTS = re.compile(r"(.*\.experts)\.(gate_up|down)_proj")


def swap_name(name: str, old: str, new: str) -> str | None:
    """`name` with `new` for the module `old` it begins with, N being a number; None: another."""
    found = _pattern(old).match(name)
    return (
        None if found is None else found.expand(new.replace(".N.", r".\1.")) + name[found.end() :]
    )


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\.N\.", r"\.(\d+)\.") + r"(?=\.|$)")


# Fields of config.json that say what a checkpoint is, kept when it is saved again.
IDENTITY = ("model_type", "architectures", "tabom_family")


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


def require_values(
    published: ConfigDict, expected: Mapping[str, Any], *, is_strict: bool = False
) -> None:
    """Raise `ModelError` if a switch is set to a value that the family does not implement.

    is_strict: a switch that is missing is refused as well.
    """
    for name, value in expected.items():
        found = published.get(name)
        if found != value and (is_strict or found is not None):
            raise ModelError(
                f"config.json has {name} = {found!r}, and only {value!r} is implemented; this "
                "checkpoint is not one of the published layout"
            )


def require_experts(published: ConfigDict, *, shared: int = 1) -> None:
    """Raise `ModelError` for numbers of experts that make no mixture.

    shared: experts that every token goes through, where a family has them.
    """
    number, active = published["num_experts"], published["num_experts_per_tok"]
    groups, kept = published.get("n_group") or 1, published.get("topk_group") or 1
    is_whole = all(type(n) is int for n in (number, active, groups, kept, shared))
    if is_whole and 1 <= kept <= groups and number % groups == 0 and shared >= 1:
        # Of each group the two best experts are looked at, and all chosen ones are in those kept.
        size = number // groups
        if 1 <= active <= kept * size and (groups == 1 or size >= 2):
            return
    raise ModelError(
        f"config.json has num_experts = {number!r} in n_group = {groups!r} groups (topk_group = "
        f"{kept!r} kept), num_experts_per_tok = {active!r} and num_shared_experts = {shared!r}, "
        "which make no mixture of experts; take the config.json that was published with the weights"
    )
