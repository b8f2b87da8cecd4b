"""SIGTERM while training: the step is finished and saved, then the process ends.

Clusters send it some time before they take a machine away (Slurm: `--signal=TERM@120`).
"""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

EXIT_STATUS = 128 + signal.SIGTERM


class Preemption:
    """As a context: notes the first SIGTERM. A second one does what it did before.

    Outside the main thread, where Python takes no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None
        self._is_set = False

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
            self._is_set = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self._restore()
        log.warning("SIGTERM: finishing this optimiser step, then saving a checkpoint")

    def _restore(self) -> None:
        if self._is_set:
            # None: a handler that was not installed from Python cannot be put back.
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._is_set = False


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
            control.should_training_stop = control.should_log = control.should_save = True
            control.should_evaluate = False  # there may be no time

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.is_stopped:
            control.should_log = control.should_save = control.should_evaluate = False
