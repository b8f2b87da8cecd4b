"""The published evaluation settings by name. Where the paper and its release differ, both are here.

Source: TABOM Table 8 (paper), and the evaluation scripts of its release. A setting is taken whole:
an option that it fixes cannot be given beside it.

The paper names a temperature and top-p for Dream, so dream_paper draws tokens at them. The release
never draws one: in dream_release they shape the order alone (`greedy_tokens`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tabom.core import configs
from tabom.core.configs import Count, Settings, nearest
from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig

Options = dict[str, Any]
Cut = Literal["all_ends", "release"]
Role = Literal["in_domain", "out_of_domain"]  # of a set: like what was trained on, or not


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One published way to evaluate. tasks: decoding options by task; others are not defined.

    common: decoding options of every task. cut, max_prompt_tokens: of the harness, None: any.
    """

    source: str
    common: Options
    tasks: Mapping[str, Options]
    cut: Cut | None = None
    max_prompt_tokens: int | None = None


def _dream(**max_new_tokens: int) -> dict[str, Options]:
    return {task: {"max_new_tokens": number} for task, number in max_new_tokens.items()}


_DREAM = {"policy": "entropy", "temperature": 0.1, "top_p": 0.9, "block_length": None}
_LLADA_BLOCKS: dict[str, Options] = {
    "math500": {"max_new_tokens": 512, "block_length": 64},
    "mbpp": {"max_new_tokens": 256, "block_length": 256},
    "humaneval": {"max_new_tokens": 512, "block_length": 512},
}

SETTINGS: dict[str, Setting] = {
    "dream_paper": Setting(
        source="TABOM Table 8, Dream",
        common=_DREAM,
        tasks=_dream(gsm8k=256, math500=512, mbpp=1024, humaneval=768),
    ),
    "dream_release": Setting(
        source="the release's evaluation script for Dream",
        common={**_DREAM, "greedy_tokens": True},
        tasks=_dream(gsm8k=256, math500=512, mbpp=512, humaneval=768, ifeval=512),
        cut="release",
        max_prompt_tokens=1024,
    ),
    "llada_paper": Setting(
        source="TABOM Table 8, LLaDA",
        common={"policy": "confidence", "temperature": 0.0},
        tasks={"gsm8k": {"max_new_tokens": 512, "block_length": 8}, **_LLADA_BLOCKS},
    ),
    "llada_release": Setting(
        source="the release's evaluation script for LLaDA",
        common={"schedule": "official", "policy": "low_confidence", "temperature": 0.0},
        tasks={
            "gsm8k": {"max_new_tokens": 256, "block_length": 8},
            "math500": _LLADA_BLOCKS["math500"],
            "mbpp": {**_LLADA_BLOCKS["mbpp"], "confidence_eos_eot_inf": True},
            "humaneval": {**_LLADA_BLOCKS["humaneval"], "logits_eos_inf": True},
            # By entropy, which the published function does not have: our own loop.
            "ifeval": {
                "schedule": "fixed",
                "policy": "entropy",
                "max_new_tokens": 512,
                "block_length": 512,
            },
        },
        cut="release",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Asking(Settings):
    """What a set of a recipe and the model of lm-eval's command line are told alike."""

    setting: str | None = None
    """Of a benchmark: a published setting that fixes budget and decoding (dream_paper,
    dream_release, llada_paper, llada_release)."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """Fields of `decoding` that differ for this set."""
    cut: Cut | None = None
    """Of a benchmark or task: where a response ends, all_ends (at the first end token of any kind)
    or release (at end-of-text alone); null: what the setting says, else all_ends."""
    max_prompt_tokens: Count | None = None
    """Of a benchmark or task: keep this many tokens at the end of a longer prompt; null: what the
    setting says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ending  # noqa: B018  checks it against the setting

    @property
    def ending(self) -> tuple[Cut, int | None]:
        """Where responses end and how long a prompt may be: what is given, what the setting says.

        Raises: ConfigError for a setting that is unknown, or that fixes another.
        """
        own: dict[str, Any] = {"cut": self.cut, "max_prompt_tokens": self.max_prompt_tokens}
        if self.setting is not None:
            for option, given in own.items():
                fixed = getattr(get_setting(self.setting), option)
                # None of either side leaves the decision to the other.
                if given is None:
                    own[option] = fixed
                elif fixed is not None:
                    _require_whole(self.setting, option, fixed=fixed, given=given)
        return own["cut"] or "all_ends", own["max_prompt_tokens"]

    def decoding_over(self, options: Mapping[str, Any], *, task: str, where: str) -> DecodingConfig:
        """The decoding settings of a task: what was given, else the setting's, else these options.

        where: how errors call them.
        Raises: ConfigError for options that do not fit together.
        """
        fixed: dict[str, Any] = {}
        if self.setting is not None:
            fixed = options_for(self.setting, task)
            # Options that the setting leaves open, such as the pace, may be given beside it.
            for option in fixed.keys() & self.decoding.keys():
                given = self.decoding[option]
                _require_whole(self.setting, option, fixed=fixed[option], given=given)
        return configs.build(DecodingConfig, {**options, **fixed, **self.decoding}, where=where)


def get_setting(name: str) -> Setting:
    """The setting of that name. Raises ConfigError with the nearest one."""
    if name not in SETTINGS:
        raise ConfigError(
            f"no evaluation setting {name!r}{nearest(name, SETTINGS)} "
            f"(there are: {', '.join(SETTINGS)})"
        )
    return SETTINGS[name]


def options_for(name: str, task: str) -> dict[str, Any]:
    """The decoding options of a benchmark under a named setting.

    Raises: ConfigError for a setting that is unknown or says nothing about the benchmark.
    """
    setting = get_setting(name)
    if task not in setting.tasks:
        raise ConfigError(
            f"the setting {name!r} says nothing about task {task!r} ({setting.source} covers "
            f"{', '.join(setting.tasks)}); evaluate that task without the setting, and name its "
            "max_new_tokens yourself"
        )
    return {**setting.common, **setting.tasks[task]}


def _require_whole(setting: str, option: str, *, fixed: Any, given: Any) -> None:
    """Raise ConfigError where an option is given otherwise than its setting fixes it."""
    if given != fixed:
        raise ConfigError(
            f"the setting {setting!r} fixes {option} = {fixed!r}, and {option} = {given!r} is "
            "given beside it; a published setting is taken whole: drop one of the two"
        )
