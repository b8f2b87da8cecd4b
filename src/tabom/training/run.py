"""One training run: examples in, an adapter (or a model folder) with its card out."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tabom.core import env
from tabom.core.atomic import read_json, write_json, write_text
from tabom.core.errors import ConfigError, DataError, StageError, TrainingError
from tabom.core.plain import to_plain
from tabom.models.adapters import LoraVariant, attach_lora
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.sizes import sizes_of
from tabom.objectives.mixture import AnyObjective, describe
from tabom.training import checkpoints
from tabom.training.card import model_card
from tabom.training.config import TrainingConfig
from tabom.training.dataset import ResponseDataset, collate
from tabom.training.metrics import Journal
from tabom.training.preempt import Preemption
from tabom.training.progress import Progress
from tabom.training.speed import Speed, peak_memory
from tabom.training.step import ObjectiveStep
from tabom.training.trainer import TabomTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

MANIFEST = "tabom_manifest.json"
METRICS = "metrics.jsonl"
_STOPPING = "finishing this optimiser step, then saving a checkpoint"

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
    objective: AnyObjective,
    dataset: ResponseDataset,
    config: TrainingConfig,
    output_dir: str | Path,
    progress: Progress | None = None,
    extra_card: dict[str, Any] | None = None,
) -> TrainResult:
    """Train `model` in place and write the result to `output_dir`.

    dataset: without held-out responses of its own, config.eval_size or eval_fraction hold some out.
    progress: called with (steps done, steps in all, a note on loss and speed) instead of a bar.
    extra_card: sections for the model card and the manifest, title -> mapping.
    Returns: counts and the last metrics. The folder then holds the adapter (or the model),
        README.md, metrics.jsonl, checkpoints as configured, and, written last,
        tabom_manifest.json.
    Raises: DataError without data; ObjectiveError if the objective needs an order that the data
        lack; StageError for a checkpoint of another run; TrainingError if a loss is not finite;
        SystemExit with status 143 after a SIGTERM, KeyboardInterrupt after Ctrl-C, when the step
        they met is saved.
    """
    output_dir = Path(output_dir)
    dataset = dataset.prepared(config)
    num_slots = len(dataset[0].response_ids_N)
    longest = int(dataset.prompt_tokens.max())
    model.require_positions(prompt_tokens=longest, max_new_tokens=num_slots)
    # One context at once: an objective that these data cannot feed is refused early.
    batch = collate([dataset[0]], pad_id=model.ids.pad, mask_id=model.ids.mask)
    objective.draw(batch, seed=0, step=0)
    _make_trainable(model, config)
    if config.torch_compile:
        from tabom.models.compiled import compile_layers

        compile_layers(model)
    if progress is not None:
        config = replace(config, disable_tqdm=True)
    use_cpu = config.use_cpu if config.use_cpu is not None else model.device.type == "cpu"
    arguments = config.training_arguments(
        str(output_dir), has_eval=dataset.held_out is not None, use_cpu=use_cpu
    )
    # A checkpoint goes on only where all of this is equal.
    identity = to_plain(
        {
            **config.decisive(world_size=arguments.world_size),
            "objective": describe(objective),
            "base_model": model.name_or_path,
            "data": dataset.fingerprint,
        }
    )
    checkpoint = None
    if config.resume == "auto":
        checkpoint = checkpoints.last_checkpoint(output_dir)
    num_taken = _num_taken(dataset, arguments, checkpoint)
    # A batch that is not full is left out, unless it was shown before the checkpoint.
    arguments.dataloader_drop_last = num_taken % _micro_batch(arguments) == 0
    trainer = TabomTrainer(
        ObjectiveStep(model, objective=objective, max_buffer_bytes=config.max_buffer_bytes),
        args=arguments,
        train_dataset=dataset,
        eval_dataset=dataset.held_out,
        config=config,
        num_taken=num_taken,
        speed=Speed(
            sizes_of(model.base_lm),
            lora_parameters=_num_trained(model) if checkpoints.is_adapter(model) else None,
            world_size=arguments.world_size,
        ),
        identity=identity,
        progress=progress,
    )
    reference = trainer.step_module.reference
    if reference is not None and reference.needs_weights and trainer.is_fsdp_enabled:
        raise ConfigError(
            f"objective {objective.name!r} compares with copied weights, which FSDP keeps in parts "
            "that cannot be exchanged; train with DDP, or a LoRA adapter and the base as reference"
        )
    is_main = trainer.is_world_process_zero()
    if checkpoint is not None:
        checkpoints.check_identity(checkpoint, identity)
        checkpoints.check_sharding(checkpoint, is_fsdp=trainer.is_fsdp_enabled)
        log.info("going on from %s", checkpoint)
    resumed_from = checkpoints.step_of(checkpoint)
    if is_main:
        output_dir.mkdir(parents=True, exist_ok=True)
        if config.resume == "never":
            checkpoints.remove_checkpoints(output_dir)
        # Without it the folder is not taken for finished while its weights are being replaced.
        (output_dir / MANIFEST).unlink(missing_ok=True)
        trainer.journal = Journal(output_dir / METRICS, from_step=resumed_from)
    if torch.cuda.is_available() and not use_cpu:
        torch.cuda.reset_peak_memory_stats()

    start = time.perf_counter()
    told = out_of_memory_told(config)
    with Preemption(doing=_STOPPING) as trainer.preemption, told, _grouped(config.run_group):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Losses are looked at on the device while it trains; what was found is told here.
    trainer.guard.check()
    if trainer.stopper.is_stopped:
        trainer.accelerator.wait_for_everyone()
        # A rank that got no signal itself stops because another one did.
        by = trainer.preemption.asked_by or signal.SIGTERM
        log.warning(
            "stopped by %s after step %d of %d; checkpoint-%d in %s is complete: the same "
            "command goes on from it",
            by.name, trainer.state.global_step, trainer.state.max_steps, trainer.state.global_step,
            output_dir,
        )  # fmt: skip
        trainer.preemption.stop()
    trainer.save_model()
    model.eval()
    seconds = time.perf_counter() - start if trainer.journal is None else trainer.journal.seconds

    result = TrainResult(
        steps=trainer.state.global_step,
        resumed_from=resumed_from,
        seconds=round(seconds, 3),
        num_examples=len(dataset),
        num_eval_examples=len(dataset.held_out or ()),
        dropped=dataset.dropped,
        # A run that was stopped after its last step has none but those of its journal.
        metrics=dict(trainer.last_metrics or (trainer.journal.last if trainer.journal else {})),
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


@contextmanager
def _grouped(name: str | None) -> Iterator[None]:
    """W&B reads its group from here; one that the user has set stays."""
    variable = "WANDB_RUN_GROUP"
    if name is None or variable in os.environ:
        yield
        return
    os.environ[variable] = name
    try:
        yield
    finally:
        del os.environ[variable]


@contextmanager
def out_of_memory_told(config: TrainingConfig) -> Iterator[None]:
    """Raises TrainingError with what to set, in order, where the device's memory runs out."""
    try:
        yield
    except RuntimeError as error:
        is_cpu = "not enough memory" in str(error)  # of torch's allocator, which has no class
        if not (isinstance(error, torch.OutOfMemoryError) or is_cpu):
            raise
        size = config.per_device_train_batch_size
        advice = []
        if size > 1:
            half = (size + 1) // 2
            advice.append(
                f"per_device_train_batch_size {half} with gradient_accumulation_steps "
                f"{config.gradient_accumulation_steps * -(-size // half)} (the same result)"
            )
        if not config.gradient_checkpointing:
            advice.append("gradient_checkpointing true (a third more time)")
        if config.max_buffer_bytes > 0:
            advice.append("max_buffer_bytes 0 (the head computes its logits twice)")
        if not config.use_peft:
            advice.append("use_peft true (an adapter instead of all weights)")
        advice.append("a smaller max_length")
        listed = "; ".join(f"{i}. {text}" for i, text in enumerate(advice, 1))
        raise TrainingError(
            f"out of memory ({_used()}; {str(error).splitlines()[0][:200]}). Set, in this order: "
            f"{listed}. `tabom plan` tells the peak of each setting. The last checkpoint is whole: "
            "with a new batch size the run goes on from it"
        ) from error


def _used() -> str:
    if not torch.cuda.is_available():
        return f"the process had {peak_memory(torch.device('cpu')) / 2**30:.1f} GiB at most"
    free, total = torch.cuda.mem_get_info()
    peak = torch.cuda.max_memory_allocated()
    return (
        f"{peak / 2**30:.1f} GiB were in use at most, {free / 2**30:.1f} of {total / 2**30:.1f} "
        "GiB are free now"
    )


def _make_trainable(model: MaskedDiffusionModel, config: TrainingConfig) -> None:
    if config.use_peft and not checkpoints.is_adapter(model):
        attach_lora(
            model,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
            seed=config.seed,
            variant=LoraVariant(
                use_rslora=config.use_rslora,
                use_dora=config.use_dora,
                init=config.lora_init,
                alpha_pattern=config.lora_alpha_pattern,
                rank_pattern=config.lora_rank_pattern,
            ),
        )
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


def _micro_batch(arguments: "TrainingArguments") -> int:
    """Responses that all processes take in one turn."""
    return int(arguments.per_device_train_batch_size * arguments.world_size)


def _num_taken(
    dataset: ResponseDataset, arguments: "TrainingArguments", checkpoint: Path | None
) -> int:
    """Responses that an epoch shows: those that fill micro-batches.

    A run that goes on with its step cut up otherwise shows as many as before, so that its result
    does not depend on the cut.
    """
    micro = _micro_batch(arguments)
    if checkpoint is not None:
        num_taken = int(read_json(checkpoint / checkpoints.IDENTITY)["num_taken"])
        if num_taken % micro and arguments.world_size > 1:
            raise StageError(
                f"checkpoint {checkpoint}: an epoch of that run shows {num_taken} responses, which "
                f"{arguments.world_size} processes of per_device_train_batch_size "
                f"{arguments.per_device_train_batch_size} cannot share evenly; take a batch size "
                f"that divides them, or one process"
            )
        return num_taken
    if len(dataset) < micro:
        raise DataError(
            f"{len(dataset)} responses do not fill one batch of {micro} "
            f"(per_device_train_batch_size {arguments.per_device_train_batch_size} on "
            f"{arguments.world_size} process(es)); lower per_device_train_batch_size, or use "
            f"gradient_accumulation_steps instead of a larger batch"
        )
    return len(dataset) // micro * micro


def _recompute_activations(model: MaskedDiffusionModel) -> None:
    lm = model.base_lm
    # An older transformers has only the second name, a later one warns about it.
    if hasattr(lm, "activation_checkpointing_enable"):
        lm.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    else:
        lm.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def _num_trained(model: MaskedDiffusionModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
