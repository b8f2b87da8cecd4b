"""One training run: examples in, an adapter (or a model folder) with its card out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tabom.core import env
from tabom.core.atomic import write_json, write_text
from tabom.core.errors import ConfigError
from tabom.core.plain import to_plain
from tabom.models.adapters import LoraSettings, attach_lora
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.sizes import sizes_of
from tabom.objectives.compose import Objective, describe
from tabom.training import checkpoints
from tabom.training.card import model_card
from tabom.training.config import Resume, TrainingConfig
from tabom.training.dataset import (
    ExampleSet,
    ResponseDataset,
    ResponseExample,
    collate,
    drop_longer,
    split_held_out,
)
from tabom.training.metrics import Journal
from tabom.training.preempt import EXIT_STATUS, Preemption
from tabom.training.progress import Progress
from tabom.training.speed import Speed, peak_memory
from tabom.training.step import ObjectiveStep
from tabom.training.trainer import TabomTrainer

MANIFEST = "tabom_manifest.json"
METRICS = "metrics.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run did.

    steps: optimiser steps of the whole run; resumed_from: the step it went on from (0: none).
    seconds: wall time of training, with the part of a resumed run before its checkpoint.
    num_examples: trained on; num_eval_examples: held out; dropped: reason -> number left out.
    metrics: the last logged numbers. speed: tokens_per_second, padding and mfu of the training
        steps of this process (nothing on ranks above 0).
    peak_memory_bytes: of the GPU, or of the process on a CPU.
    """

    steps: int
    resumed_from: int
    seconds: float
    num_examples: int
    num_eval_examples: int
    dropped: dict[str, int]
    metrics: dict[str, float]
    speed: dict[str, float]
    peak_memory_bytes: int
    output_dir: str


def train(
    *,
    model: MaskedDiffusionModel,
    objective: Objective,
    train_examples: ExampleSet | Sequence[ResponseExample],
    config: TrainingConfig,
    output_dir: str | Path,
    eval_examples: ExampleSet | Sequence[ResponseExample] | None = None,
    resume: Resume | None = None,
    progress: Progress | None = None,
    extra_card: dict[str, Any] | None = None,
) -> TrainResult:
    """Train `model` in place and write the result to `output_dir`.

    train_examples: an ExampleSet brings the counts of what was left out along.
    eval_examples: held-out responses; None: config.eval_size or eval_fraction holds some out.
    resume: overrides config.resume. progress: called with (steps, of all, last metrics).
    extra_card: sections for the model card and the manifest, title -> mapping.
    Returns: counts and the last metrics. The folder then holds the adapter (or the model),
        README.md, metrics.jsonl, checkpoints as configured, and, written last,
        tabom_manifest.json.
    Raises: DataError without data; ObjectiveError if the objective needs an order that the data
        lack; StageError for a checkpoint of another run; TrainingError if a loss is not finite;
        SystemExit with status 143 after a SIGTERM, when the step it met is saved.
    """
    output_dir = Path(output_dir)
    dropped = dict(train_examples.dropped) if isinstance(train_examples, ExampleSet) else {}
    kept = drop_longer(list(train_examples), max_length=config.max_length)
    dropped.update(kept.dropped)
    examples = kept.examples
    if eval_examples is None and (config.eval_size or config.eval_fraction):
        examples, eval_examples = split_held_out(
            examples, size=config.eval_size, fraction=config.eval_fraction, seed=config.seed
        )
    dataset = ResponseDataset(examples, dropped=dropped)
    eval_dataset = ResponseDataset(list(eval_examples), dropped={}) if eval_examples else None
    for part in (dataset, eval_dataset):
        if part is not None:
            _check_objective(objective, model, part)
    _make_trainable(model, config)
    if config.torch_compile:
        from tabom.models.compiled import compile_layers

        compile_layers(model)
    use_cpu = config.use_cpu if config.use_cpu is not None else model.device.type == "cpu"
    arguments = config.training_arguments(
        str(output_dir), has_eval=eval_dataset is not None, use_cpu=use_cpu
    )
    identity = to_plain(
        {
            **config.decisive(world_size=arguments.world_size),
            "objective": describe(objective),
            "base_model": model.name_or_path,
            "data": dataset.fingerprint,
        }
    )
    trainer = TabomTrainer(
        ObjectiveStep(model, objective=objective, max_buffer_bytes=config.max_buffer_bytes),
        args=arguments,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        eval_cuts=config.eval_cuts,
        group_by_length=config.group_by_length,
        speed=Speed(
            sizes_of(model.base_lm),
            lora_parameters=_num_trained(model) if checkpoints.is_adapter(model) else None,
            world_size=arguments.world_size,
        ),
        identity=identity,
        progress=progress,
        disable_tqdm=config.disable_tqdm,
    )
    is_main = trainer.is_world_process_zero()
    checkpoint = _checkpoint(trainer, output_dir, resume or config.resume, identity)
    resumed_from = checkpoints.step_of(checkpoint)
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / MANIFEST).unlink(missing_ok=True)
        trainer.journal = Journal(output_dir / METRICS, from_step=resumed_from)
    if torch.cuda.is_available() and not use_cpu:
        torch.cuda.reset_peak_memory_stats()

    start = time.perf_counter()
    with Preemption() as trainer.preemption:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.guard.check()
    if trainer.stopper.is_stopped:
        trainer.accelerator.wait_for_everyone()
        log.warning(
            "stopped by SIGTERM after step %d of %d; checkpoint-%d in %s is complete: the same "
            "command goes on from it",
            trainer.state.global_step, trainer.state.max_steps, trainer.state.global_step,
            output_dir,
        )  # fmt: skip
        raise SystemExit(EXIT_STATUS)
    trainer.save_model()
    model.eval()
    seconds = time.perf_counter() - start if trainer.journal is None else trainer.journal.seconds

    result = TrainResult(
        steps=trainer.state.global_step,
        resumed_from=resumed_from,
        seconds=round(seconds, 3),
        num_examples=len(dataset),
        num_eval_examples=len(eval_dataset) if eval_dataset is not None else 0,
        dropped=dropped,
        metrics=dict(trainer.last_metrics),
        speed=trainer.speed.whole(),
        peak_memory_bytes=peak_memory(arguments.device),
        output_dir=str(output_dir),
    )
    if is_main:
        record = {
            "kind": "adapter" if checkpoints.is_adapter(model) else "model",
            "base_model": model.name_or_path,
            "identity": identity,
            "config": asdict(config),
            "result": {k: v for k, v in asdict(result).items() if k != "output_dir"},
            "extra": extra_card or {},
            "versions": env.versions(),
        }
        write_text(output_dir / "README.md", model_card(record))
        write_json(output_dir / MANIFEST, record)
    trainer.accelerator.wait_for_everyone()
    return result


def _check_objective(
    objective: Objective, model: MaskedDiffusionModel, dataset: ResponseDataset
) -> None:
    """Draw one context at once: an objective that these data cannot feed is refused early."""
    batch = collate([dataset[0]], pad_id=model.ids.pad, mask_id=model.ids.mask)
    objective.draw(batch, seed=0, step=0)


def _make_trainable(model: MaskedDiffusionModel, config: TrainingConfig) -> None:
    if config.use_peft and not checkpoints.is_adapter(model):
        settings = LoraSettings(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
        )
        attach_lora(model, settings, seed=config.seed)
    if not config.use_peft and checkpoints.is_adapter(model):
        raise ConfigError(
            "use_peft is false, which trains all weights, but the model carries an adapter; "
            "merge it first, or set use_peft to true to train the adapter on"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError(
            "nothing to train: no weight requires a gradient; load the adapter as trainable"
        )
    narrow = {str(p.dtype).removeprefix("torch.") for p in trained if p.dtype.itemsize < 4}
    if narrow:
        log.warning(
            "the trained weights are %s, in which small updates round to nothing; load the model "
            "with dtype float32 (bf16 autocast keeps the speed)",
            " and ".join(sorted(narrow)),
        )
    if config.gradient_checkpointing:
        _recompute_activations(model)


def _checkpoint(
    trainer: TabomTrainer, output_dir: Path, resume: Resume, identity: dict[str, Any]
) -> Path | None:
    if resume == "never":
        if trainer.is_world_process_zero():
            checkpoints.remove_checkpoints(output_dir)
        trainer.accelerator.wait_for_everyone()
        return None
    checkpoint = checkpoints.last_checkpoint(output_dir)
    if checkpoint is not None:
        checkpoints.check_identity(checkpoint, identity)
        checkpoints.check_sharding(checkpoint, is_fsdp=trainer.is_fsdp_enabled)
        log.info("going on from %s", checkpoint)
    return checkpoint


def _recompute_activations(model: MaskedDiffusionModel) -> None:
    lm = model.base_lm
    # An older transformers has only the second name, a later one warns about it.
    if hasattr(lm, "activation_checkpointing_enable"):
        lm.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    else:
        lm.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _num_trained(model: MaskedDiffusionModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
