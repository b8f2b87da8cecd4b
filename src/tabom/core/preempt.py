"""SIGTERM or Ctrl-C during long work: what was begun is finished and kept, then the process ends.

Clusters send SIGTERM some time before they take a machine away (Slurm: `--signal=TERM@120`).
"""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


_active: "set[Preemption]" = set()
_is_over = threading.Event()


def ask_all() -> None:
    """Ask what runs here, or will, to stop as at SIGTERM; where no handler can be had."""
    _is_over.set()
    for one in list(_active):
        one.asked_by = signal.SIGTERM


class Preemption:
    """As a context: notes the first of its signals. A second one does what it did before.

    doing: what is still done, for the log. asked_by: the signal that came, None before one does.
    Outside the main thread, where Python takes no handlers, nothing is noted.
    """

    def __init__(self, *signals: signal.Signals, doing: str = "finishing this batch") -> None:
        """signals: that are noted; SIGTERM and SIGINT if left out."""
        self._signals, self.doing = signals or SIGNALS, doing
        self.asked_by: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether this process was told to stop."""
        return self.asked_by is not None

    def stop(self) -> None:
        """End the process as the signal asked: SystemExit 143, or KeyboardInterrupt."""
        by = self.asked_by or signal.SIGTERM
        raise KeyboardInterrupt if by == signal.SIGINT else SystemExit(128 + by)

    def __enter__(self) -> "Preemption":
        _active.add(self)
        if _is_over.is_set():
            self.asked_by = signal.SIGTERM
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in self._signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        _active.discard(self)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked_by = signal.Signals(number)
        self._restore()
        log.warning("%s: %s", self.asked_by.name, self.doing)

    def _restore(self) -> None:
        for one, before in self._before.items():
            # None: a handler that was not installed from Python cannot be put back.
            signal.signal(one, before or signal.SIG_DFL)
        self._before = {}
