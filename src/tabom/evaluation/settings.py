"""The published evaluation settings by name. Where the paper and its release differ, both are here.

Source: TABOM Table 8 (paper), and the evaluation scripts of its release. A setting is taken whole:
an option that it fixes cannot be given beside it.

The paper names a temperature and top-p for Dream, so dream_paper draws tokens at them. The release
never draws one: in dream_release they shape the order alone (`greedy_tokens`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tabom.core.configs import nearest
from tabom.core.errors import ConfigError

Options = dict[str, Any]
Cut = Literal["all_ends", "release"]
Role = Literal["in_domain", "out_of_domain"]  # of a set: like what was trained on, or not


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One published way to evaluate. tasks: decoding options by task; others are not defined.

    common: decoding options of every task. cut, max_prompt_tokens: of the harness, None: any.
    unspoken: tasks that the source names without saying how they were decoded.
    """

    source: str
    common: Options
    tasks: Mapping[str, Options]
    cut: Cut | None = None
    max_prompt_tokens: int | None = None
    unspoken: tuple[str, ...] = ()


def _dream(**max_new_tokens: int) -> dict[str, Options]:
    return {task: {"max_new_tokens": number} for task, number in max_new_tokens.items()}


_DREAM = {"policy": "entropy", "temperature": 0.1, "top_p": 0.9, "block_length": None}
_LLADA = {"policy": "confidence", "temperature": 0.0}
_LLADA_OFFICIAL = {"schedule": "official", "policy": "low_confidence", "temperature": 0.0}
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
        unspoken=("ifeval",),
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
        common=_LLADA,
        tasks={"gsm8k": {"max_new_tokens": 512, "block_length": 8}, **_LLADA_BLOCKS},
        unspoken=("ifeval",),
    ),
    "llada_release": Setting(
        source="the release's evaluation script for LLaDA",
        common={},
        tasks={
            "gsm8k": {**_LLADA_OFFICIAL, "max_new_tokens": 256, "block_length": 8},
            "math500": {**_LLADA_OFFICIAL, **_LLADA_BLOCKS["math500"]},
            "mbpp": {**_LLADA_OFFICIAL, **_LLADA_BLOCKS["mbpp"], "confidence_eos_eot_inf": True},
            "humaneval": {**_LLADA_OFFICIAL, **_LLADA_BLOCKS["humaneval"], "logits_eos_inf": True},
            # By entropy, which the published function does not have: our own loop.
            "ifeval": {
                "policy": "entropy",
                "temperature": 0.0,
                "max_new_tokens": 512,
                "block_length": 512,
            },
        },
        cut="release",
    ),
}


def get_setting(name: str) -> Setting:
    """The setting of that name. Raises ConfigError with the nearest one."""
    if name not in SETTINGS:
        raise ConfigError(
            f"no evaluation setting {name!r}{nearest(name, SETTINGS)} "
            f"(there are: {', '.join(SETTINGS)})"
        )
    return SETTINGS[name]


def options_for(name: str, task: str, *, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The decoding options of a benchmark under a named setting.

    given: options that stand beside it.
    Raises: ConfigError for a setting that is unknown, says nothing about the benchmark, or fixes an
        option that is given otherwise.
    """
    setting = get_setting(name)
    if task not in setting.tasks:
        why = (
            f"{setting.source} names {task} without saying how it was decoded"
            if task in setting.unspoken
            else f"{setting.source} covers {', '.join(setting.tasks)}"
        )
        raise ConfigError(
            f"the setting {name!r} says nothing about task {task!r} ({why}); evaluate that task "
            "without the setting, and name its max_new_tokens yourself"
        )
    options = {**setting.common, **setting.tasks[task]}
    for option, value in (given or {}).items():
        require_whole(name, option, fixed=options.get(option, value), given=value)
    return options


def require_whole(setting: str, option: str, *, fixed: Any, given: Any) -> None:
    """Raise ConfigError where an option is given otherwise than its setting fixes it."""
    if given != fixed:
        raise ConfigError(
            f"the setting {setting!r} fixes {option} = {fixed!r}, and {option} = {given!r} is "
            "given beside it; a published setting is taken whole: drop one of the two"
        )


def ending(
    setting: str | None, *, cut: Cut | None, max_prompt_tokens: int | None
) -> tuple[Cut, int | None]:
    """Where responses end and how long a prompt may be: what is given, what the setting fixes."""
    if setting is not None:
        found = get_setting(setting)
        for option, fixed, given in (
            ("cut", found.cut, cut),
            ("max_prompt_tokens", found.max_prompt_tokens, max_prompt_tokens),
        ):
            if fixed is not None and given is not None:
                require_whole(setting, option, fixed=fixed, given=given)
        cut, max_prompt_tokens = cut or found.cut, max_prompt_tokens or found.max_prompt_tokens
    return cut or "all_ends", max_prompt_tokens
