"""What can be known before a stage starts, so that no run stops after hours of collecting.

`tabom plan`, `tabom run` and the verbs of single stages all ask `preflight`. A stage lists its
checks; each is one function of a section of the recipe, and equal ones are done once a study.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tabom.collect.prompts import PromptSource
from tabom.core import configs
from tabom.core.errors import ConfigError, TabomError
from tabom.core.hooks import load_function
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig
from tabom.models.devices import require_bitsandbytes
from tabom.training.config import TrainingConfig
from tabom.verify.config import VerifierConfig

if TYPE_CHECKING:
    from tabom.stages.stage import Stage


@dataclass(frozen=True)
class Check:
    """A function that raises a TabomError if its arguments will not do.

    where: what the arguments are called in a recipe.
    """

    where: str
    test: Callable[..., object]
    arguments: tuple[Any, ...]


def problems(stages: "Iterable[Stage]") -> list[str]:
    """What is wrong with the stages that are not complete, each with its place in the recipe.

    Imports torch (the objectives need it), so it is asked only when there is work to do.
    """
    found: dict[str, list[str]] = {}
    done: set[str] = set()
    for stage in stages:
        for check in stage.checks():
            # Arms share most of their settings: what is equal is asked once.
            key = configs.fingerprint(check.test.__name__, *check.arguments)
            if key in done:
                continue
            done.add(key)
            try:
                check.test(*check.arguments)
            except TabomError as error:
                # Several places may suffer from one thing, such as a model that is not here.
                found.setdefault(str(error), []).append(check.where)
    return [f"{', '.join(dict.fromkeys(places))}: {what}" for what, places in found.items()]


def preflight(stages: "Iterable[Stage]") -> None:
    """Raise ConfigError with everything that is wrong with the stages before one starts."""
    found = problems(stages)
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        listed = "\n".join(f"  {problem}" for problem in found)
        raise ConfigError(f"{len(found)} things are to be mended before anything starts:\n{listed}")


def _model(model: ModelConfig) -> None:
    """The model is there and of a family that is known; of its weights nothing is read."""
    from tabom.models.checkpoint import load_ids
    from tabom.models.folders import resolve_folder

    load_ids(model.model_name_or_path, mask_token_id=model.mask_token_id)
    if model.quantization is not None:
        require_bitsandbytes(model.quantization)
    if model.adapter is not None:
        adapter = resolve_folder(model.adapter, weights=False)
        if not (adapter / "adapter_config.json").is_file():
            raise ConfigError(f"adapter: {adapter} has no adapter_config.json; name an adapter")


def _prompts(prompts: PromptSource) -> None:
    if prompts.function is not None:
        load_function(prompts.function)


def _verifier(verifier: VerifierConfig) -> None:
    """The checker is there with what it needs: its function, math-verify, a working sandbox."""
    from tabom.verify.checkers import build_checker

    build_checker(verifier)


def _training(training: TrainingConfig) -> None:
    """transformers takes the settings here: the tracker and the optimiser are installed."""
    plain = TrainingConfig()
    names = ("report_to", "optim", "bf16", "lr_scheduler_kwargs")
    # Importing transformers takes seconds, and these it takes everywhere.
    if any(getattr(training, name) != getattr(plain, name) for name in names):
        # No folder is made: transformers only keeps the name.
        training.training_arguments("unused", has_eval=False, use_cpu=bool(training.use_cpu))


# What a section alone can be asked; stages add what takes two of them.
SECTION_CHECKS: dict[type, Callable[[Any], None]] = {
    ModelConfig: _model,
    PromptSource: _prompts,
    VerifierConfig: _verifier,
    TrainingConfig: _training,
}


def check_decoding(decoding: DecodingConfig, model: ModelConfig) -> None:
    """The family of the model can decode so; see `Decoder`, which asks the loaded model."""
    from tabom.decoding.blocks import check_blocks
    from tabom.decoding.official import check_official
    from tabom.models.checkpoint import Checkpoint

    found = Checkpoint.find(model.model_name_or_path, weights=False)
    # The checks look at these three alone, so that no weights are needed.
    facts: Any = SimpleNamespace(
        family=found.family,
        block_length=found.family.block_length_of(found.config),
        name_or_path=model.model_name_or_path,
    )
    check_blocks(facts, decoding)
    if decoding.is_official:
        check_official(facts, decoding)


def check_quantized(training: TrainingConfig, model: ModelConfig) -> None:
    """On weights in few bits only an adapter trains, and one that leaves them as they are."""
    if model.quantization is None:
        return
    if not training.use_peft:
        raise ConfigError(
            f"use_peft false trains all weights, and quantization {model.quantization} keeps them "
            "in few bits; train an adapter, or leave quantization out"
        )
    if training.lora_init not in ("default", "gaussian"):
        raise ConfigError(
            f"lora_init {training.lora_init!r} takes a part out of the weights, which quantization "
            f"{model.quantization} keeps in few bits; take another, or leave quantization out"
        )


def check_objective(objective: str, options: dict[str, Any], has_order: bool) -> None:
    """The preset takes the options, and the data have the order that it learns from."""
    from tabom.objectives.presets import build_objective

    if build_objective(objective, **options).requires_order and not has_order:
        raise ConfigError(
            f"objective {objective!r} learns from the order in which tokens were revealed, and "
            "ground truth has none; train it on trajectories (data: self_distilled)"
        )
