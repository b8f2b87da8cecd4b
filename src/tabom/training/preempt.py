"""SIGTERM or Ctrl-C while training: the step is finished and saved, then the process ends."""

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tabom.core.preempt import Preemption as Preemption


class StopCallback(TrainerCallback):
    """Saves a checkpoint and ends the run after the step at which all ranks agree to stop.

    should_stop: the same answer on every rank.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.is_stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.should_stop() and state.global_step < state.max_steps:
            self.is_stopped = True
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False  # there may be no time

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.is_stopped:
            control.should_log = control.should_save = control.should_evaluate = False
