"""What a study will cost, before anything starts: forwards, FLOPs, bytes and hours of each stage.

Legend: N response slots, S prompt + response, R rows through the head, K steps (model calls).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tabom.core.manifest import read_manifest
from tabom.decoding.config import DecodingConfig
from tabom.models import costs
from tabom.models.devices import Device
from tabom.models.sizes import ModelSizes
from tabom.pipeline.lengths import PromptLengths
from tabom.stages.recipe import Recipe
from tabom.stages.stage import Stage
from tabom.stages.study import Plan
from tabom.stages.train import Train
from tabom.training.config import TrainingConfig

ACCEPTANCE_RATE = 0.4  # the paper kept 22 % (code) to 43 % (mathematics) of what was collected
# Compressed bytes of the store: two incompressible float32, an id and a step a slot; ids and text.
BYTES_PER_SLOT, BYTES_PER_PROMPT_TOKEN, BYTES_OF_TEXT = 11, 2, 1.2


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an estimate takes for granted.

    device, mfu: hours are FLOPs over mfu times the device's peak, and at least one reading of the
        weights a model call. acceptance_rate: share of trajectories that the verifier accepts.
    train: the training prompts. sets: the prompts of each evaluation set by its name.
    """

    device: Device
    mfu: float
    acceptance_rate: float
    train: PromptLengths
    sets: dict[str, PromptLengths]


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """One stage.

    num_items: prompts decoded or judged, responses trained on, trajectories asked about.
    forwards: sequences through the model (a batch of 32 is 32). seconds: None where no model runs.
    disk_bytes: left behind. memory_bytes: peak on the device.
    """

    kind: str
    label: str
    folder: str
    is_complete: bool
    num_items: int
    forwards: float = 0.0
    flops: float = 0.0
    seconds: float | None = None
    disk_bytes: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class DecodingWork:
    """Work of one response, at most; exact under the fixed schedule.

    num_steps: K. num_rows: rows through the head over all steps. num_tokens: tokens through the
    layers over all steps.
    """

    num_steps: int
    num_rows: float
    num_tokens: float


def decoding_work(
    decoding: DecodingConfig, *, prompt: float, block_length: int | None = None
) -> DecodingWork:
    """What the decoding loop does for one response of N slots after `prompt` tokens.

    block_length: of a block-causal model, whose finished blocks are cached.
    """
    num_slots = decoding.max_new_tokens
    block = decoding.block_length or block_length or num_slots
    num_blocks = math.ceil(num_slots / block)
    length = prompt + num_slots
    if decoding.is_official:
        steps = decoding.steps or num_slots
        calls = steps * (2 if decoding.cfg_scale else 1)
        rows = num_slots * (steps + 1) / 2
        return DecodingWork(num_steps=steps, num_rows=rows, num_tokens=calls * length)
    # A threshold or a factor reveals one slot a step at least, and often more.
    a_step = decoding.tokens_per_step if decoding.schedule == "fixed" else 1
    masked = range(block, 0, -a_step)
    again = len(masked) - 1  # calls of a block after its first
    num_tokens = num_blocks * len(masked) * length
    if decoding.approximate == "prefix":
        behind = sum(num_slots - i * block for i in range(num_blocks))
        num_tokens = num_blocks * length + again * behind
    elif decoding.approximate == "dual":
        num_tokens = num_blocks * (length + again * block)
    elif block_length is not None:
        num_tokens = length + num_blocks * len(masked) * block
    return DecodingWork(
        num_steps=num_blocks * len(masked),
        num_rows=num_blocks * sum(masked),
        num_tokens=num_tokens,
    )


def estimate_study(
    recipe: Recipe, plan: Plan, *, read: ModelSizes, given: Assumptions
) -> list[StageEstimate]:
    """An estimate for each stage of the plan, in its order.

    Raises: StageError if a folder holds another run's results.
    """
    estimator = _Estimator(recipe=recipe, read=read, given=given)
    return [estimator.stage(stage) for stage in plan.stages]


def rows_per_response(train: Train, num_slots: int) -> float:
    """Mean rows of the head that the arm's objective asks of a full response, by drawing some."""
    import numpy as np

    from tabom.objectives.presets import build_objective
    from tabom.training.dataset import ResponseExample, collate

    objective = build_objective(train.objective, **train.options)
    slot_N = np.arange(num_slots, dtype=np.int32)
    order: dict[str, Any] = {}
    if train.prompts is None:
        entropy_N = np.linspace(0, 1, num_slots, dtype=np.float32)
        order = {"step_N": slot_N, "order_N": slot_N, "entropy_N": entropy_N}
    examples = [
        ResponseExample(
            id=str(i),
            prompt_ids=slot_N[:1],
            response_ids_N=slot_N,
            slot_N=np.ones(num_slots, dtype=bool),
            length=num_slots,
            **order,
        )
        for i in range(128)
    ]
    batch = collate(examples, pad_id=num_slots, mask_id=num_slots + 1)
    return len(objective.draw(batch, seed=0, step=0).row_batch_R) / len(examples)


@dataclass(kw_only=True)
class _Estimator:
    recipe: Recipe
    read: ModelSizes
    given: Assumptions
    _rows: dict[str, float] = field(default_factory=dict)

    @property
    def sizes(self) -> ModelSizes:
        return self.read

    def stage(self, stage: Stage) -> StageEstimate:
        estimate: Callable[[Any], dict[str, Any]] = {
            "collect": self._collect,
            "verify": self._verify,
            "train": self._train,
            "evaluate": self._evaluate,
            "diagnose": self._diagnose,
        }[stage.kind]
        return StageEstimate(
            kind=stage.kind,
            label=stage.label,
            folder=str(stage.folder),
            is_complete=stage.is_complete(),
            **estimate(stage),
        )

    # ---- the stages ----

    def _collect(self, stage: Stage) -> dict[str, Any]:
        return self._decode(
            self.given.train,
            self.recipe.decoding,
            batch_size=self.recipe.collection.batch_size,
            num_samples=self.recipe.collection.num_samples,
        )

    def _verify(self, stage: Stage) -> dict[str, Any]:
        num = self.given.train.num_prompts * self.recipe.collection.num_samples
        return {"num_items": num, "disk_bytes": 60.0 * num}

    def _train(self, stage: Train) -> dict[str, Any]:
        config, sizes = stage.training, self.sizes
        num_slots = self.recipe.decoding.max_new_tokens
        batch_size = config.per_device_train_batch_size
        num_examples = self._num_examples(stage)
        per_epoch = math.ceil(num_examples // batch_size / config.gradient_accumulation_steps)
        num_steps = config.max_steps
        if num_steps < 1:
            num_steps = math.ceil(config.num_train_epochs * per_epoch)
        num_seen = num_steps * config.gradient_accumulation_steps * batch_size
        length = self.given.train.padded_mean(batch_size, is_sorted=False) + num_slots
        if stage.arm not in self._rows:
            self._rows[stage.arm] = rows_per_response(stage, num_slots)
        rows = self._rows[stage.arm]
        adapter = None
        if config.use_peft:
            adapter = costs.lora_parameters(
                sizes, r=config.lora_r, target_modules=config.lora_target_modules
            )
        flops = costs.training_flops(
            sizes,
            batch_size=num_seen,
            length=length,
            num_rows=num_seen * rows,
            lora_parameters=adapter,
            is_checkpointed=config.gradient_checkpointing,
        )
        memory = costs.training_memory(
            sizes,
            batch_size=batch_size,
            length=self.given.train.longest + num_slots,
            num_rows=math.ceil(batch_size * rows),
            bytes_per_value=self.given.device.bytes_per_value,
            lora_parameters=adapter,
            is_checkpointed=config.gradient_checkpointing,
            max_buffer_bytes=config.max_buffer_bytes,
        )
        kept = _num_checkpoints(config, num_steps)
        width = self.given.device.bytes_per_value if adapter is None else 4
        trained = width * (sizes.num_parameters if adapter is None else adapter)
        return {
            "num_items": num_examples,
            "forwards": float(num_seen),
            "flops": flops,
            "seconds": self._seconds(flops, calls=2 * num_steps),
            "disk_bytes": float(trained * (1 + 3 * kept)),
            "memory_bytes": memory.total,
        }

    def _evaluate(self, stage: Stage) -> dict[str, Any]:
        parts = [
            self._decode(
                self.given.sets[item.name],
                item.decoding_at(speed, base=self.recipe.decoding),
                batch_size=self.recipe.evaluation.batch_size,
            )
            for item in self.recipe.evaluation.sets
            for speed in item.tokens_per_step
        ]
        total = {name: sum(p[name] for p in parts) for name in ("num_items", *_ADDED)}
        return {**total, "memory_bytes": max((p["memory_bytes"] for p in parts), default=0)}

    def _diagnose(self, stage: Stage) -> dict[str, Any]:
        config, num_slots = self.recipe.diagnostics, self.recipe.decoding.max_new_tokens
        forwards = config.num_trajectories * (
            config.cuts_per_trajectory + 2 * len(config.mask_ratios)
        )
        prompts = max((p.mean for p in self.given.sets.values()), default=0.0)
        flops = costs.forward_flops(
            self.sizes,
            num_tokens=forwards * (prompts + num_slots),
            context=prompts + num_slots,
            num_rows=forwards * num_slots / 2,
        )
        return {
            "num_items": config.num_trajectories,
            "forwards": float(forwards),
            "flops": flops,
            "seconds": self._seconds(flops, calls=forwards / config.batch_size),
            "disk_bytes": 4096.0,
            "memory_bytes": self._decoding_memory(config.batch_size, prompts, num_slots),
        }

    # ---- what they share ----

    def _decode(
        self,
        prompts: PromptLengths,
        decoding: DecodingConfig,
        *,
        batch_size: int,
        num_samples: int = 1,
    ) -> dict[str, Any]:
        num, num_slots = prompts.num_prompts * num_samples, decoding.max_new_tokens
        padded = prompts.padded_mean(batch_size, is_sorted=True)
        work = decoding_work(decoding, prompt=padded, block_length=self.read.block_length)
        flops = costs.forward_flops(
            self.sizes,
            num_tokens=num * work.num_tokens,
            context=padded + num_slots,
            num_rows=num * work.num_rows,
        )
        text = BYTES_OF_TEXT * (prompts.mean + num_slots)
        one = BYTES_PER_SLOT * num_slots + BYTES_PER_PROMPT_TOKEN * prompts.mean + text
        return {
            "num_items": num,
            "forwards": float(num * work.num_steps),
            "flops": flops,
            "seconds": self._seconds(flops, calls=math.ceil(num / batch_size) * work.num_steps),
            "disk_bytes": num * one,
            "memory_bytes": self._decoding_memory(min(batch_size, num), prompts.longest, num_slots),
        }

    def _decoding_memory(self, batch_size: int, prompt: float, num_slots: int) -> int:
        from tabom.vocabulary.sizes import LOGIT_BYTES

        return costs.decoding_memory(
            self.sizes,
            batch_size=batch_size,
            length=math.ceil(prompt) + num_slots,
            num_rows=batch_size * num_slots,
            bytes_per_value=self.given.device.bytes_per_value,
            max_logit_bytes=LOGIT_BYTES["gpu" if self.given.device.is_gpu else "cpu"],
        ).total

    def _num_examples(self, stage: Train) -> int:
        """Accepted trajectories: counted if they are judged already, else assumed."""
        num = self.given.train.num_prompts
        if stage.verdicts is None:
            return num
        found = read_manifest(stage.verdicts.folder)
        if found is not None:
            return int(found.counts["accepted"])
        return math.ceil(num * self.recipe.collection.num_samples * self.given.acceptance_rate)

    def _seconds(self, flops: float, *, calls: float) -> float:
        device = self.given.device
        seconds = flops / (self.given.mfu * device.tflops * 1e12)
        if device.bandwidth is not None:
            weights = device.bytes_per_value * self.sizes.num_parameters
            seconds = max(seconds, calls * weights / (device.bandwidth * 1e12))
        return seconds


_ADDED = ("forwards", "flops", "seconds", "disk_bytes")


def total(estimates: list[StageEstimate]) -> dict[str, float]:
    """Sums over the stages that are to do; of memory the largest."""
    todo = [e for e in estimates if not e.is_complete]
    sums = {name: float(sum(getattr(e, name) or 0 for e in todo)) for name in _ADDED}
    return {**sums, "memory_bytes": float(max((e.memory_bytes for e in todo), default=0))}


def _num_checkpoints(config: TrainingConfig, num_steps: int) -> int:
    if config.save_strategy == "no":
        return 0
    made: int = math.ceil(config.num_train_epochs)
    if config.save_strategy == "steps":
        made = num_steps // config.save_steps
    return made if config.save_total_limit is None else min(made, int(config.save_total_limit))
