"""What can be given as `--model_args`: how the model is loaded, and every decoding option."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.harness.settings import get_setting, options_for

Cut = Literal["all_ends", "release"]
DECODING = tuple(f.name for f in dataclasses.fields(DecodingConfig))
# Keys of a task's generation_kwargs that we understand.
_TASK_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


@dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """Settings of the lm-eval model, beside the decoding options.

    pretrained: a local folder, a hub id, or "toy-base". adapter: a LoRA adapter folder.
    dtype, attn_implementation, device, mask_token_id: as `tabom.models.loading.load_model`.
    batch_size: prompts decoded together; results do not depend on it.
    seed: key of all draws of sampling and of the random policy.
    setting: a published setting (dream_paper, dream_release, llada_paper, llada_release) that
        fixes the decoding options of each task.
    cut: where a response ends. all_ends: at the first end-of-text or end-of-turn token, special
        tokens left out. release: at the first end-of-text token alone, special tokens kept as
        text, as the release's evaluation does; null: what the setting says, else all_ends.
    max_prompt_tokens: keep this many tokens at the end of a longer prompt; null: what the setting
        says, else never shortened.
    responses: a JSONL file that responses are kept in and resumed from; null: kept in memory.
    data_dir: a folder of JSONL files for the tasks of the package (read by the tasks).
    quiet: no progress bar.
    decoding: the decoding options that were given; others have their defaults.
    """

    pretrained: str
    adapter: str | None = None
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    device: str | None = None
    mask_token_id: int | None = None
    batch_size: int = 1
    seed: int = 1000
    setting: str | None = None
    cut: Cut | None = None
    max_prompt_tokens: int | None = None
    responses: str | None = None
    data_dir: str | None = None
    quiet: bool = False
    decoding: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ConfigError(f"max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")
        if self.setting is None:
            configs.build(DecodingConfig, self._checkable(), where="model_args")
        if self.setting is None:
            return
        setting = get_setting(self.setting)
        for name in ("cut", "max_prompt_tokens"):
            fixed, given = getattr(setting, name), getattr(self, name)
            if fixed is not None and given is not None and given != fixed:
                raise ConfigError(_mixed(self.setting, name, given, fixed))
        for task in setting.tasks:
            for name, fixed in options_for(self.setting, task).items():
                if name in self.decoding and self.decoding[name] != fixed:
                    raise ConfigError(_mixed(self.setting, name, self.decoding[name], fixed))

    def _checkable(self) -> dict[str, Any]:
        # Whether the block divides the budget is known once a task's budget is.
        length = self.decoding.get("block_length")
        if length is None or "max_new_tokens" in self.decoding:
            return self.decoding
        return {**self.decoding, "max_new_tokens": length}

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "HarnessConfig":
        """The settings of flat model arguments. Raises ConfigError for an unknown one."""
        decoding = {k: v for k, v in arguments.items() if k in DECODING}
        rest = {k: v for k, v in arguments.items() if k not in DECODING}
        known = [f.name for f in dataclasses.fields(cls) if f.name != "decoding"]
        unknown = sorted(set(rest) - set(known))
        if unknown:
            raise ConfigError(
                f"model argument {unknown[0]!r} is not known; there are {', '.join(known)}, and "
                f"for decoding {', '.join(DECODING)}"
            )
        return configs.build(cls, {**rest, "decoding": decoding}, where="model_args")

    @property
    def effective_cut(self) -> Cut:
        fixed = None if self.setting is None else get_setting(self.setting).cut
        return self.cut or ("release" if fixed == "release" else "all_ends")

    @property
    def prompt_limit(self) -> int | None:
        fixed = None if self.setting is None else get_setting(self.setting).max_prompt_tokens
        return self.max_prompt_tokens or fixed

    def decoding_for(self, task: str, generation: Mapping[str, Any]) -> DecodingConfig:
        """How one request of a task is decoded.

        generation: the task's generation_kwargs. Its max_gen_toks is the budget unless
            max_new_tokens is given or fixed by the setting. Its sampling keys count only with
            `do_sample: true`: without, they are what a task writes for left-to-right models.
        Raises: ConfigError for a key that is not understood, or options that do not fit together.
        """
        unknown = sorted(set(generation) - set(_TASK_KEYS))
        if unknown:
            raise ConfigError(
                f"task {task!r} asks for generation option {unknown[0]!r}, which is not one of "
                f"{', '.join(_TASK_KEYS)}; decoding options are model arguments here"
            )
        options: dict[str, Any] = {}
        if generation.get("max_gen_toks") is not None:
            options["max_new_tokens"] = generation["max_gen_toks"]
        if generation.get("do_sample"):
            keys = ("temperature", "top_p", "top_k")
            options |= {k: generation[k] for k in keys if generation.get(k) is not None}
        if self.setting is not None:
            options |= options_for(self.setting, task)
        options |= self.decoding
        return configs.build(DecodingConfig, options, where=f"decoding of task {task}")


def _mixed(setting: str, name: str, given: Any, fixed: Any) -> str:
    return (
        f"the setting {setting!r} fixes {name} = {fixed!r}, and {name} = {given!r} is given beside "
        "it; a published setting is taken whole: drop one of the two"
    )
