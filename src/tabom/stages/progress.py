"""How stages tell what they are doing, in this process or from a worker.

A stage is given a `Report`: a callable with (label, done, total, note). The study decides what
becomes of it: a progress bar of its own, a message to the parent, or nothing.
"""

import sys
from typing import Any, Protocol

from tqdm import tqdm


class Report(Protocol):
    """How far a stage is; note: what else is worth saying, such as a speed."""

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None: ...


def silent(label: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


class Bars:
    """One progress bar at a time, for stages that run in this process."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._label = ""

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        if self._is_quiet:
            return
        if self._bar is None or label != self._label or self._bar.total != total:
            self.close()
            self._label = label
            self._bar = tqdm(
                total=total, desc=label, file=sys.stderr, leave=False, dynamic_ncols=True
            )
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
