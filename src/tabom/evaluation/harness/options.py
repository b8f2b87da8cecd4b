"""What lm-eval hands over, in our words: model arguments, generation options, prompts as text."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabom.core import configs
from tabom.core.configs import Count
from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.settings import Asking, get_setting
from tabom.models.config import ModelConfig
from tabom.models.contract import MaskedDiffusionModel

SUFFIX = "_tabom"  # the task files of our benchmarks are called gsm8k_tabom and so on
NO_LIKELIHOOD = (
    "task {task!r} asks for log-likelihoods: a masked diffusion model has no left-to-right "
    "likelihood of a text; choose a task that generates (its output_type is generate_until)"
)
DECODING = tuple(f.name for f in dataclasses.fields(DecodingConfig))
# Model arguments that name the model, with the fields of `ModelConfig` that they set.
_MODEL = {"pretrained": "model_name_or_path"}
_MODEL |= {f.name: f.name for f in dataclasses.fields(ModelConfig)}
# Keys of a task's generation_kwargs that we understand.
_TASK_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")


@dataclass(frozen=True, kw_only=True)
class HarnessConfig(Asking):
    """What can be given as `--model_args`: these, the fields of `ModelConfig` and of decoding.

    decoding: the options that were given; others have their defaults.
    """

    model: ModelConfig
    """The model; `pretrained` stands for its model_name_or_path."""
    batch_size: Count = 1
    """Prompts decoded together; results do not depend on it."""
    seed: int = 1000
    """Key of all draws of sampling and of the random policy."""
    responses: str | None = None
    """A folder that responses are kept in and resumed from; null: they are kept in memory."""
    data_dir: str | None = None
    """A folder with the documents of our benchmarks (read by their task files)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Whether the block divides the budget is known once a task's budget is.
        budget = {"max_new_tokens": self.decoding.get("block_length") or 1}
        for task in ("",) if self.setting is None else get_setting(self.setting).tasks:
            self.decoding_over(budget, task=task, where="model_args")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "HarnessConfig":
        """The settings of flat model arguments. Raises ConfigError for an unknown one."""
        own = [f.name for f in dataclasses.fields(cls) if f.name not in ("model", "decoding")]
        given: dict[str, Any] = {"model": {}, "decoding": {}}
        for name, value in arguments.items():
            if name in _MODEL:
                given["model"][_MODEL[name]] = value
            elif name in DECODING:
                given["decoding"][name] = value
            elif name in own:
                given[name] = value
            else:
                known = [*_MODEL, *own, *DECODING]
                raise ConfigError(
                    f"model argument {name!r} is not known{configs.nearest(name, known)} (there "
                    f"are {', '.join(known)})"
                )
        return configs.build(cls, given, where="model_args")

    def decoding_for(self, task: str, generation: Mapping[str, Any]) -> DecodingConfig:
        """How one request of a task is decoded: what was given, else what its setting fixes, else
        what the task asks for.

        Raises: ConfigError for options that do not fit together.
        """
        return self.decoding_over(
            decoding_options(task, generation),
            task=task.removesuffix(SUFFIX),
            where=f"decoding of task {task}",
        )


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
    model: MaskedDiffusionModel,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = True,
) -> str:
    """Messages in the model's chat template, called as lm-eval calls it.

    Without a generation prompt the last message is left open, to go on.
    """
    if not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError(
            f"{model.name_or_path} has no chat template; leave it out (--chat_template false, in "
            "lm-eval no --apply_chat_template), or take an instruct checkpoint"
        )
    text = model.tokenizer.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
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
