"""SIGTERM or Ctrl-C while training: the step is finished and saved, then the process ends.

Clusters send SIGTERM some time before they take a machine away (Slurm: `--signal=TERM@120`).
"""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """As a context: notes the first SIGTERM or SIGINT. A second one does what it did before.

    asked_by: the signal that came, None before one does. Outside the main thread, where Python
    takes no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.asked_by: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether this process was told to stop."""
        return self.asked_by is not None

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked_by = signal.Signals(number)
        self._restore()
        log.warning(
            "%s: finishing this optimiser step, then saving a checkpoint", self.asked_by.name
        )

    def _restore(self) -> None:
        for one, before in self._before.items():
            # None: a handler that was not installed from Python cannot be put back.
            signal.signal(one, before or signal.SIG_DFL)
        self._before = {}


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
