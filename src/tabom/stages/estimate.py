"""What a study will cost, before anything starts: forwards, FLOPs, memory and hours of each stage.

Legend: N response slots, S prompt + response, R rows through the head, K steps (model calls).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabom.collect.prompts import PromptSource, load_prompts
from tabom.core.configs import Count, Share
from tabom.core.errors import DataError
from tabom.core.manifest import read_manifest
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.models.costs import (
    MFU,
    Batch,
    Machine,
    Memory,
    forward_flops,
    lora_parameters,
    step_flops,
)
from tabom.models.sizes import ModelSizes
from tabom.stages.collect import Collect
from tabom.stages.evaluate import Evaluate
from tabom.stages.stage import Stage
from tabom.stages.train import Train
from tabom.training.config import TrainingConfig

ACCEPTANCE_RATE = 0.4  # the paper kept 22 % (code) to 43 % (mathematics) of what was collected
NUM_MEASURED = 256
# Of a data set that is not here: a usual benchmark, and a mathematics question with its template.
ASSUMED_PROMPTS, ASSUMED_TOKENS = 1000, 150


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan takes for granted."""

    device_name: str | None = None
    """The device, e.g. H200; this machine if left out."""
    mfu: Share = MFU
    """Share of the device's peak that the run reaches."""
    acceptance_rate: Share | None = None
    """Share that the verifier accepts; if left out 0.4, or all under accept_all."""
    prompt_tokens: Count | None = None
    """Mean prompt length; measured if left out and the data are here."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """How many prompts a source gives and how long they are.

    tokens: lengths of the first ones, or one assumed length. note: where the numbers come from.
    """

    number: int
    tokens: tuple[int, ...]
    note: str

    @property
    def longest(self) -> int:
        return max(self.tokens)

    def padded_mean(self, batch_size: int, *, is_sorted: bool) -> float:
        """The mean length with the padding of batches: each is as long as its longest prompt."""
        tokens = sorted(self.tokens) if is_sorted else list(self.tokens)
        batches = [tokens[i : i + batch_size] for i in range(0, len(tokens), batch_size)]
        return sum(max(batch) * len(batch) for batch in batches) / len(tokens)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What an estimate takes for granted.

    train: the training prompts, each collected num_samples times in num_slots slots. sets: the
    prompts of each evaluation set by its name. acceptance_rate: share of trajectories that the
    verifier accepts.
    """

    machine: Machine
    acceptance_rate: float
    train: Prompts
    sets: dict[str, Prompts]
    num_slots: int
    num_samples: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """The cost of some work. Two pieces of work add up; of memory the larger counts.

    num_items: prompts decoded, or responses trained on. forwards: sequences through the model (a
    batch of 32 is 32). memory_bytes: peak on the device.
    """

    num_items: int = 0
    forwards: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    memory_bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        summed = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Work(**summed | {"memory_bytes": max(self.memory_bytes, other.memory_bytes)})


def stage_work(stage: Stage, given: Given) -> Work:
    """What one stage will cost; of verification and diagnosis, next to which all else is much."""
    if isinstance(stage, Collect):
        prompts = replace(given.train, number=given.train.number * given.num_samples)
        return decode_work(stage.decoding, prompts, given.machine, stage.collection.batch_size)
    if isinstance(stage, Train):
        return _train(stage, given)
    if isinstance(stage, Evaluate):
        return sum(
            (
                decode_work(
                    decoding, given.sets[item.name], given.machine, stage.evaluation.batch_size
                )
                for item in stage.evaluation.sets
                for decoding in item.decodings(stage.decoding)
            ),
            Work(),
        )
    return Work()


def decode_work(
    decoding: DecodingConfig, prompts: Prompts, machine: Machine, batch_size: int
) -> Work:
    """Decoding every prompt of a source once."""
    num, num_slots = prompts.number, decoding.max_new_tokens
    padded = prompts.padded_mean(batch_size, is_sorted=True)
    one = response_counts(decoding, prompt=padded, block_length=machine.sizes.block_length)
    flops, size = num * one.flops(machine.sizes), min(batch_size, num)
    largest = Batch(size=size, length=prompts.longest + num_slots, num_rows=size * num_slots)
    return Work(
        num_items=num,
        forwards=float(num * one.num_calls),
        flops=flops,
        seconds=machine.seconds(flops, calls=math.ceil(num / batch_size) * one.num_calls),
        memory_bytes=sum(machine.decoding_memory(largest).values()),
    )


def response_counts(
    decoding: DecodingConfig, *, prompt: float, block_length: int | None = None
) -> DecodeCounts:
    """What decoding does for one response of N slots, at most; exact under the fixed schedule.

    prompt: its length. block_length: of a block-causal model, whose finished blocks are cached.
    """
    num_slots = decoding.max_new_tokens
    block = decoding.block_length or block_length or num_slots
    num_blocks = math.ceil(num_slots / block)
    length = prompt + num_slots
    # A threshold or a factor reveals one slot a step at least, and often more.
    a_step = decoding.tokens_per_step if decoding.schedule == "fixed" else 1
    # How many slots of a block are masked at each of its steps; all of them go through the head.
    masked = range(block, 0, -a_step)
    num_steps, num_rows = num_blocks * len(masked), num_blocks * sum(masked)
    again = len(masked) - 1  # calls of a block after its first
    num_tokens = num_steps * length
    if decoding.is_official:
        num_steps = decoding.steps or num_slots
        num_tokens = num_steps * (2 if decoding.cfg_scale else 1) * length
        num_rows = round(num_tokens)  # the published functions take every position's logits
    elif decoding.approximate == "prefix":
        # The first call of a block computes the whole canvas, the others what is behind its start.
        behind = sum(num_slots - i * block for i in range(num_blocks))
        num_tokens = num_blocks * length + again * behind
    elif decoding.approximate == "dual":
        num_tokens = num_blocks * (length + again * block)
    elif block_length is not None:
        num_tokens = length + num_steps * block
    return DecodeCounts(
        num_calls=num_steps,
        num_tokens=round(num_tokens),
        num_pairs=round(num_tokens * length),
        num_rows=num_rows,
    )


def cache_bound(decoding: DecodingConfig, sizes: ModelSizes, *, prompt: float) -> float:
    """How many times faster an approximate cache can be than exact decoding, by FLOPs.

    1 / (1 - b r): b the share of exact decoding that the layers take, r that of their tokens which
    the cache leaves out. The head's rows are asked either way, so a small body bounds the gain.
    """
    exact = response_counts(replace(decoding, approximate=None), prompt=prompt)
    return exact.flops(sizes) / response_counts(decoding, prompt=prompt).flops(sizes)


def _train(stage: Train, given: Given) -> Work:
    from tabom.objectives.presets import build_objective

    config, machine = stage.training, given.machine
    batch_size = config.per_device_train_batch_size
    num_examples = _num_examples(stage, given)
    per_epoch = math.ceil(num_examples // batch_size / config.gradient_accumulation_steps)
    num_steps = config.max_steps
    if num_steps < 1:
        num_steps = math.ceil(config.num_train_epochs * per_epoch)
    # Examples are seen again in each epoch: the steps say how many go through the model.
    num_seen = num_steps * config.gradient_accumulation_steps * batch_size
    length = given.train.padded_mean(batch_size, is_sorted=False) + given.num_slots
    objective = build_objective(stage.objective, **stage.options)
    # How many rows an objective asks for depends on its context; drawing some is the one way
    # that holds for every objective.
    rows = objective.rows_per_response(given.num_slots, has_order=stage.prompts is None)
    num_contexts = objective.contexts_per_response
    num_tokens, num_rows = num_seen * num_contexts * length, num_seen * rows
    flops = step_flops(
        machine.sizes,
        num_tokens=num_tokens,
        context=length,
        num_rows=num_rows,
        lora_parameters=adapter_size(config, machine.sizes),
        is_checkpointed=config.gradient_checkpointing,
    )
    if objective.reference is not None:  # asked at the same slots, without a backward pass
        flops += forward_flops(
            machine.sizes, num_tokens=num_tokens, context=length, num_rows=num_rows
        )
    largest = Batch(
        size=batch_size * num_contexts,
        length=given.train.longest + given.num_slots,
        num_rows=math.ceil(batch_size * rows),
    )
    return Work(
        num_items=num_examples,
        forwards=float(num_seen * num_contexts),
        flops=flops,
        seconds=machine.seconds(flops, calls=2 * num_steps),
        memory_bytes=sum(training_memory(machine, config, largest).values()),
    )


def training_memory(machine: Machine, config: TrainingConfig, batch: Batch) -> Memory:
    """Peak of one micro-batch under these settings."""
    return machine.training_memory(
        batch,
        lora_parameters=adapter_size(config, machine.sizes),
        is_checkpointed=config.gradient_checkpointing,
        max_buffer_bytes=config.max_buffer_bytes,
    )


def adapter_size(config: TrainingConfig, sizes: ModelSizes) -> int | None:
    """Parameters of the adapter that is trained; None if all weights are."""
    if not config.use_peft:
        return None
    return lora_parameters(sizes, r=config.lora_r, target_modules=config.lora_target_modules)


def _num_examples(stage: Train, given: Given) -> int:
    """Accepted trajectories: counted if they are judged already, else assumed."""
    if stage.verdicts is None:
        return given.train.number
    found = read_manifest(stage.verdicts.folder)
    if found is not None:
        return int(found.counts["accepted"])
    return math.ceil(given.train.number * given.num_samples * given.acceptance_rate)


def measure_prompts(
    source: PromptSource, *, seed: int, tokenizer: Any, prompt_tokens: int | None, what: str
) -> Prompts:
    """How many prompts a source gives and how long its first ones are.

    Files and functions are read. A data set of the hub is not fetched for an estimate: the number
    is the limit of the source, or assumed.
    tokenizer: with the chat template, or None if it is not here; one without a template is of no
        use. prompt_tokens: the user's own number, taken instead. what: how errors call the source.
    Raises: DataError if a file or function does not give prompts.
    """
    tokens: tuple[int, ...] = (prompt_tokens or ASSUMED_TOKENS,)
    how = f"{tokens[0]} tokens, {'assumed' if prompt_tokens is None else 'as given'}"
    if source.dataset_name is not None and not Path(source.dataset_name).exists():
        number = source.limit or ASSUMED_PROMPTS
        told = "" if source.limit else ", and their number is assumed (prompts.limit says it)"
        note = f"{how}{told}: a plan does not fetch {source.dataset_name}"
        return Prompts(number=number, tokens=tokens, note=note)
    try:
        prompts = load_prompts(source, seed=seed)
    except DataError as error:
        raise DataError(f"{what}: {error}") from error
    if prompt_tokens is None and getattr(tokenizer, "chat_template", None) is not None:
        tokens = tuple(_num_tokens(p.prompt, tokenizer) for p in prompts[:NUM_MEASURED])
        how = f"{sum(tokens) / len(tokens):.0f} tokens, measured on {len(tokens)}"
    return Prompts(number=len(prompts), tokens=tokens, note=how)


def _num_tokens(prompt: str | list[dict[str, str]], tokenizer: Any) -> int:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    return len(tokenizer.apply_chat_template(messages, **options))
