"""The transformers Trainer, taught that losses are sums divided by global counts.

How a step is cut into micro-batches and ranks, and whether the run was resumed, changes nothing:
contexts are drawn by key (seed, step, id) for the whole optimiser step at once, every term's count
is summed over micro-batches and ranks, and only then is divided.

Legend: B batch.
"""

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerControl, TrainingArguments

from tabom.core.atomic import read_json, write_json
from tabom.core.errors import TrainingError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.training import checkpoints
from tabom.training.config import TrainingConfig
from tabom.training.dataset import ResponseDataset, collate
from tabom.training.metrics import FiniteGuard, HostCopy, Journal, Meter, not_finite
from tabom.training.order import StepSampler
from tabom.training.preempt import Preemption, StopCallback
from tabom.training.progress import Progress, ProgressCallback
from tabom.training.speed import WORK, Speed, peak_memory, work_of
from tabom.training.step import ObjectiveStep, step_inputs, to_device

# The contexts of held-out responses are the same at every evaluation, in every arm and seed.
EVAL_SEED = 0

Inputs = dict[str, Any]


class TabomTrainer(Trainer):
    """Trains an ObjectiveStep; `run.train` sets it up.

    identity: what decides the result; stored in every checkpoint and compared on resume.
    """

    # The loss arrives divided by the counts of the whole step; the Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        step: ObjectiveStep,
        *,
        args: TrainingArguments,
        train_dataset: ResponseDataset,
        eval_dataset: ResponseDataset | None,
        config: TrainingConfig,
        num_taken: int,
        speed: Speed,
        identity: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        """num_taken: responses that an epoch shows, of those in train_dataset."""
        ids = step.model.ids
        self.collate: Callable[..., TrajectoryBatch] = partial(
            collate, pad_id=ids.pad, mask_id=ids.mask
        )
        super().__init__(
            model=step,
            args=args,
            data_collator=self.collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
        )
        self.step_module = step
        self.objective = step.objective
        self.config = config
        self.num_taken = num_taken
        self.speed = speed
        self.identity = identity
        self.meter = Meter()
        self.guard = FiniteGuard()
        self.journal: Journal | None = None
        self.last_metrics: dict[str, float] = {}
        self._step_loss = torch.zeros((), device=args.device)
        self.preemption = Preemption()
        self._stop_votes: HostCopy | None = None
        self._is_final = False  # what is saved now is the result, not a checkpoint
        self.stopper = StopCallback(self._should_stop)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.stopper)
        self.add_callback(ProgressCallback(progress))

    def _get_train_sampler(self, train_dataset: Any = None) -> StepSampler:
        return StepSampler(
            self.train_dataset.num_tokens,
            num_taken=self.num_taken,
            step_batch=self.get_total_train_batch_size(self.args),
            group_by_length=self.config.group_by_length,
            seed=self.args.seed,
            # Not by `set_epoch`, which does not reach a sampler through all of accelerate's wraps.
            epoch=lambda: int(self.state.epoch or 0),
        )

    # ---- one optimiser step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[TrajectoryBatch], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], dict[str, Any]]:
        """Draw every context of the next optimiser step, and count globally what it asks."""
        self.speed.start()
        step = self.state.global_step
        if self.step_module.reference is not None:
            self.step_module.reference.refresh(step)
        progress = step / max(self.state.max_steps, 1)
        micro = [
            self._draw(batch, seed=self.args.seed, step=step, progress=progress)
            for batch in islice(epoch_iterator, num_batches)
        ]
        counts: dict[str, Any] = {}
        for inputs in micro:
            context: Context = inputs["context"]
            for name, count in context.counts.items():
                counts[name] = counts.get(name, 0.0) + count
            for name, (total, count) in context.stats.items():
                self.meter.add(name, total, count)
            for name, amount in inputs.pop("work").items():
                self.meter.add(name, amount, None)
        if self.args.world_size > 1:
            # One all-reduce; the result stays on the device, so that nothing waits for it.
            names = sorted(counts)
            votes = [*(counts[n] for n in names), float(self.preemption.is_asked)]
            local = torch.tensor(votes, dtype=torch.float32)
            summed = self._reduce(local.to(self.args.device))
            counts = dict(zip(names, summed[:-1].unbind(), strict=True))
            self._stop_votes = HostCopy(summed[-1:])
        self._step_loss = torch.zeros((), device=self.args.device)
        return micro, counts

    def _draw(
        self, batch: TrajectoryBatch, *, seed: int, step: int, progress: float = 1.0
    ) -> Inputs:
        context = self.objective.draw(batch, seed=seed, step=step, progress=progress)
        return {**step_inputs(batch, context), "work": work_of(batch, context)}

    def _should_stop(self) -> bool:
        """Whether any rank was told to, as known to all of them when the step began."""
        if self.args.world_size == 1:
            return self.preemption.is_asked
        return self._stop_votes is not None and self._stop_votes.wait()[0] > 0

    def _prepare_inputs(self, inputs: Inputs) -> Inputs:
        return to_device(inputs, self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Inputs,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The micro-batch's share of the global loss, times the ranks that DDP will average."""
        outputs = model(**inputs)
        counts = num_items_in_batch
        loss = self.objective.total(outputs["sums"], counts) * self.accelerator.num_processes
        self._step_loss += loss.detach()
        self._add_to(self.meter, outputs, inputs["context"])
        return (loss, outputs) if return_outputs else loss

    @staticmethod
    def _add_to(
        meter: Meter, outputs: dict[str, Any], context: Context, *, weight: float = 1.0
    ) -> None:
        for name, total in outputs["sums"].items():
            meter.add(f"loss_{name}", total * weight, context.counts[name] * weight)
        for name, (total, count) in outputs["metrics"].items():
            meter.add(name, total * weight, count * weight)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.guard.watch(self._step_loss, norm, step=self.state.global_step + 1)
        self.meter.add("loss", self._step_loss, 1.0)
        return norm

    def _reduce(self, values: Tensor) -> Tensor:
        if self.args.world_size == 1:
            return values
        return self.accelerator.reduce(values, reduction="sum")  # type: ignore[no-any-return]

    # ---- logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of every term and metric since the last log; append to the journal."""
        vectors: dict[str, list[float]] = {}
        if "train_runtime" in logs:
            return  # the Trainer's own summary; `run.train` returns a better one
        if "loss" in logs:
            self.guard.check()
            scalars, vectors = self._flush(self.meter)
            work = {name: scalars.pop(name) for name in WORK}
            # `loss` too: the Trainer's own forgets the steps before the checkpoint it resumed from.
            logs.update(scalars)
            loss, norm = logs["loss"], float(logs.get("grad_norm", 0.0))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise not_finite(step=self.state.global_step, loss=loss, grad_norm=norm)
            if self.journal is not None:
                self.journal.tokens += int(work["tokens"])
                logs.update(self.speed.lap(work))
                logs["peak_memory_gib"] = peak_memory(self.args.device) / 2**30
        super().log(logs, start_time)
        self.last_metrics.update(logs)
        if self.journal is not None:
            self.journal.write({"step": self.state.global_step, **logs, **vectors})

    def _flush(self, meter: Meter) -> tuple[dict[str, float], dict[str, list[float]]]:
        return meter.flush(device=self.args.device, reduce=self._reduce)

    # ---- held-out loss ----

    def evaluate(
        self,
        eval_dataset: ResponseDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The objective on `eval_cuts` fixed contexts of every held-out response."""
        with self.speed.paused():
            scalars = self._held_out_means(eval_dataset)
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in scalars.items()}
            self.log(dict(metrics))
            self.control: TrainerControl = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
        return metrics

    @torch.no_grad()
    def _held_out_means(self, eval_dataset: ResponseDataset | None) -> dict[str, float]:
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        size, rank, world = (
            self.args.eval_batch_size, self.args.process_index, self.args.world_size,
        )  # fmt: skip
        starts = range(0, len(dataset), size)
        # All ranks take the same number of turns (FSDP gathers weights in every forward); a turn
        # too many counts 0.
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        model.eval()
        meter = Meter()
        for turn in range(0, len(starts), world):
            weight = float(turn + rank < len(starts))
            start = starts[min(turn + rank, len(starts) - 1)]
            batch = self.collate([dataset[i] for i in range(len(dataset))[start : start + size]])
            for cut in range(self.config.eval_cuts):
                inputs = self._draw(batch, seed=EVAL_SEED, step=cut)
                del inputs["work"]
                inputs = self._prepare_inputs(inputs)
                outputs = model(**inputs)
                self._add_to(meter, outputs, inputs["context"], weight=weight)
        scalars, _ = self._flush(meter)
        names = outputs["sums"]
        means = {n: torch.tensor(scalars.get(f"loss_{n}", 0.0)) for n in names}
        scalars["loss"] = float(self.objective.total(means, dict.fromkeys(names, 1.0)))
        return scalars

    # ---- checkpoints ----

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Where the Trainer goes on. After the last step: behind the last epoch, so that it stops.

        It would else train one step too many before it looks at max_steps.
        """
        epochs, steps = super()._init_training_state(*args, **kwargs)
        return (
            (sys.maxsize, 0) if self.state.global_step >= self.state.max_steps else (epochs, steps)
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.guard.check()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        meter = self.meter.state(device=self.args.device, reduce=self._reduce)
        with self.speed.paused():
            try:
                if self.args.should_save:
                    identity = {"identity": self.identity, "num_taken": self.num_taken}
                    write_json(folder / checkpoints.IDENTITY, identity)
                    write_json(folder / checkpoints.METER, meter)
                    if self.step_module.reference is not None:
                        self.step_module.reference.save(folder)
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    checkpoints.seal(folder, keep=self.config.save_total_limit)
            except (OSError, RuntimeError, SafetensorError) as error:
                raise TrainingError(
                    f"{folder}: the checkpoint could not be written ({error}); make room on the "
                    f"disk, then run the same command again: it goes on from the one before"
                ) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._is_final = not _internal_call
        if self.is_fsdp_enabled and not _internal_call:
            # What remains of a run is whole, also where its checkpoints are saved in shards.
            state_dict = self.accelerator.get_state_dict(self.model)
            self._save(output_dir, state_dict=state_dict)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save_weights(
            self.step_module.model, folder, state_dict=state_dict, raw=not self._is_final
        )

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if self.is_world_process_zero():
            self.meter.load_state(read_json(Path(resume_from_checkpoint) / checkpoints.METER))
        if self.step_module.reference is not None:
            self.step_module.reference.load(Path(resume_from_checkpoint))
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        checkpoints.load_weights(self.step_module.model, Path(resume_from_checkpoint))
