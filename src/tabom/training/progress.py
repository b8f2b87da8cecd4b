"""What a caller hears of a run: steps done, steps in all, and a note on loss and speed."""

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Called with (steps done, steps in all, a note: the last logged loss and speed).
Progress = Callable[[int, int, str], None]

log = logging.getLogger(__name__)


class ProgressCallback(TrainerCallback):
    """Calls the hook after every step; also has the last step of a run logged."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.note = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.is_world_process_zero and args.lr_scheduler_type != "constant":
            warn_of_warmup(args.warmup_steps, state.max_steps, learning_rate=args.learning_rate)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps, self.note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.note = note_of(logs)


def warn_of_warmup(warmup_steps: float, max_steps: int, *, learning_rate: float) -> None:
    """A warm-up as long as the run is legal, and hardly ever meant."""
    if warmup_steps >= max_steps:
        log.warning(
            "warmup_steps is %d and the run has %d optimiser steps: learning_rate %g is never "
            "reached before the end; set warmup_steps to, say, %d, or train longer",
            warmup_steps, max_steps, learning_rate, max_steps // 10,
        )  # fmt: skip


def note_of(logs: dict[str, float]) -> str:
    """What stands behind a progress bar: the loss, and how fast and how large the run is."""
    parts = [f"loss {logs['loss']:.4f}"]
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tok/s")
        parts.append(f"MFU {logs['mfu']:.0%}")
    if "peak_memory_gib" in logs:
        parts.append(f"{logs['peak_memory_gib']:.1f} GiB")
    return ", ".join(parts)
