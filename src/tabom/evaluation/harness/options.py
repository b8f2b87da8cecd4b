"""What lm-eval hands over, in our words: model arguments, generation options, prompts as text."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabom.core import configs
from tabom.core.configs import Count, Settings
from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.settings import Cut, ending, get_setting, options_for
from tabom.models.config import ModelConfig
from tabom.models.contract import MaskedDiffusionModel

SUFFIX = "_tabom"  # the task files of our benchmarks are called gsm8k_tabom and so on
NO_LIKELIHOOD = (
    "task {task!r} asks for log-likelihoods: a masked diffusion model has no left-to-right "
    "likelihood of a text; choose a task that generates (its output_type is generate_until)"
)
DECODING = tuple(f.name for f in dataclasses.fields(DecodingConfig))
_MODEL = tuple(f.name for f in dataclasses.fields(ModelConfig))
# Keys of a task's generation_kwargs that we understand.
_TASK_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


@dataclass(frozen=True, kw_only=True)
class HarnessConfig(Settings):
    """What can be given as `--model_args`: these, the fields of `ModelConfig` and of decoding."""

    model: ModelConfig
    """The model; `pretrained` stands for its model_name_or_path."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """The decoding options that were given; others have their defaults."""
    batch_size: Count = 1
    """Prompts decoded together; results do not depend on it."""
    seed: int = 1000
    """Key of all draws of sampling and of the random policy."""
    setting: str | None = None
    """A published setting that fixes the decoding options of each of our benchmarks."""
    cut: Cut | None = None
    """Where a response ends, all_ends or release; null: what the setting says, else all_ends."""
    max_prompt_tokens: Count | None = None
    """Keep this many tokens at the end of a longer prompt; null: what the setting says."""
    responses: str | None = None
    """A folder that responses are kept in and resumed from; null: they are kept in memory."""
    data_dir: str | None = None
    """A folder with the documents of our benchmarks (read by their task files)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ending  # noqa: B018  checks them against the setting
        if self.setting is None:
            # Whether the block divides the budget is known once a task's budget is.
            budget = {"max_new_tokens": self.decoding.get("block_length") or 1}
            configs.build(DecodingConfig, budget | self.decoding, where="model_args")
        else:
            for task in get_setting(self.setting).tasks:
                options_for(self.setting, task, given=self.decoding)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "HarnessConfig":
        """The settings of flat model arguments. Raises ConfigError for an unknown one."""
        given = dict(arguments)
        if "pretrained" in given:
            given["model_name_or_path"] = given.pop("pretrained")
        own = [f.name for f in dataclasses.fields(cls) if f.name not in ("model", "decoding")]
        known = ["pretrained", *_MODEL[1:], *own, *DECODING]
        for name in given:
            if name not in (*known, _MODEL[0]):
                raise ConfigError(
                    f"model argument {name!r} is not known{configs.nearest(name, known)} (there "
                    f"are {', '.join(known)})"
                )
        nested = {
            "model": {k: v for k, v in given.items() if k in _MODEL},
            "decoding": {k: v for k, v in given.items() if k in DECODING},
        }
        return configs.build(
            cls, nested | {k: v for k, v in given.items() if k in own}, where="model_args"
        )

    @property
    def ending(self) -> tuple[Cut, int | None]:
        """Where responses end, and the limit of a prompt's tokens."""
        return ending(self.setting, cut=self.cut, max_prompt_tokens=self.max_prompt_tokens)

    def decoding_for(self, task: str, generation: Mapping[str, Any]) -> DecodingConfig:
        """How one request of a task is decoded: what was given, else what its setting fixes, else
        what the task asks for.

        Raises: ConfigError for options that do not fit together.
        """
        options = decoding_options(task, generation)
        if self.setting is not None:
            options |= options_for(self.setting, task.removesuffix(SUFFIX), given=self.decoding)
        where = f"decoding of task {task}"
        return configs.build(DecodingConfig, options | self.decoding, where=where)


def decoding_options(task: str, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The decoding options in a task's generation_kwargs.

    Its sampling keys count only with `do_sample: true`: without, they are what a task writes for
    left-to-right models. Raises: ConfigError for a key that is not understood.
    """
    for name in generation:
        if name not in _TASK_KEYS:
            raise ConfigError(
                f"task {task!r} asks for generation option {name!r}, which is not one of "
                f"{', '.join(_TASK_KEYS)}; decoding options are model arguments here"
            )
    named = {"max_new_tokens": generation.get("max_gen_toks")}
    if generation.get("do_sample"):
        named |= {name: generation.get(name) for name in ("temperature", "top_p", "top_k")}
    return {name: value for name, value in named.items() if value is not None}


def ends_of(generation: Mapping[str, Any]) -> tuple[str, ...]:
    """A task's `until`: one text, several, or none."""
    until = generation.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(map(str, until))


def chat_text(
    model: MaskedDiffusionModel, messages: Sequence[Mapping[str, str]], *, is_open: bool
) -> str:
    """Messages in the model's chat template. is_open: the last one is left open, to go on."""
    if not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError(
            f"{model.name_or_path} has no chat template; leave it out (--chat_template false, in "
            "lm-eval no --apply_chat_template), or take an instruct checkpoint"
        )
    text = model.tokenizer.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=not is_open,
        continue_final_message=is_open,
    )
    return str(text)


def text_ids(model: MaskedDiffusionModel, text: str, *, place: str) -> list[int]:
    """The ids of a text that lm-eval made, the template's special tokens in it.

    place: whose it is, for the error.
    """
    try:
        return [int(i) for i in model.tokenizer.encode(text, add_special_tokens=False)]
    except Exception as error:  # the tokenizers library raises no narrower kind
        raise DataError(
            f"the tokenizer of {model.name_or_path} cannot read the prompt of {place} ({error}); "
            "the toy world's knows its own characters alone"
        ) from error
