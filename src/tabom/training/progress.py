"""The progress bar, and the hook of a caller that draws its own."""

from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Called with (steps done, steps in all, the last logged numbers).
Progress = Callable[[int, int, dict[str, float]], None]


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
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.bar.close()
