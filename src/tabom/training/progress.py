"""The progress bar, and the hook of a caller that draws its own."""

import logging
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Called with (steps done, steps in all, the last logged numbers).
Progress = Callable[[int, int, dict[str, float]], None]

log = logging.getLogger(__name__)


class ProgressCallback(TrainerCallback):
    """One bar for the whole run, with the last logged loss; also logs the last step of a run."""

    def __init__(self, progress: Progress | None, *, disable_tqdm: bool) -> None:
        self.progress = progress
        self.disable_tqdm = disable_tqdm
        self.last: dict[str, float] = {}
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="train",
            unit="step",
            disable=self.disable_tqdm or not state.is_local_process_zero,
        )
        if state.is_world_process_zero and args.lr_scheduler_type != "constant":
            warn_of_warmup(args.warmup_steps, state.max_steps, learning_rate=args.learning_rate)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.update(1)
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps, self.last)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        self.last = {**self.last, **(logs or {})}
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix_str(bar_text(logs), refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.close()


def warn_of_warmup(warmup_steps: float, max_steps: int, *, learning_rate: float) -> None:
    """A warm-up as long as the run is legal, and hardly ever meant."""
    if warmup_steps >= max_steps:
        log.warning(
            "warmup_steps is %d and the run has %d optimiser steps: learning_rate %g is never "
            "reached before the end; set warmup_steps to, say, %d, or train longer",
            warmup_steps, max_steps, learning_rate, max_steps // 10,
        )  # fmt: skip


def bar_text(logs: dict[str, float]) -> str:
    """What stands behind the bar: the loss, and how fast and how large the run is."""
    parts = [f"loss {logs['loss']:.4f}"]
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tok/s")
        parts.append(f"MFU {logs['mfu']:.0%}")
    if "peak_memory_gib" in logs:
        parts.append(f"{logs['peak_memory_gib']:.1f} GiB")
    return ", ".join(parts)
