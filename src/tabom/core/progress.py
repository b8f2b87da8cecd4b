"""How stages tell what they are doing, in this process or from a worker, and how it is shown.

A stage is given a `Report`: a callable with (label, done, total, note). What becomes of it is the
caller's: rows of progress bars, a message to the parent process, or nothing.
"""

import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Report(Protocol):
    """How far a stage is; note: what else is worth saying, such as a speed."""

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None: ...


def silent(label: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


class Bars:
    """A row for each stage that runs, on stderr if that is a terminal.

    Every row tells its elapsed time and is drawn again twice a second, so that none stands still
    while a stage is silent. What is printed meanwhile appears above the rows.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._progress = None if is_quiet or not sys.stderr.isatty() else _progress()
        self._rows: dict[str, Any] = {}

    def __call__(self, label: str, done: float, total: float | None, note: str = "") -> None:
        """Show how far a row is; total None: nothing is known yet."""
        if self._progress is None:
            return
        if label not in self._rows:
            self._progress.start()
            self._rows[label] = self._progress.add_task(label, total=total, note=note)
        self._progress.update(self._rows[label], completed=done, total=total, note=note)

    def end(self, label: str) -> None:
        """Take a row away."""
        if self._progress is not None and label in self._rows:
            self._progress.remove_task(self._rows.pop(label))

    def close(self) -> None:
        """Take all rows away."""
        if self._progress is not None:
            self._progress.stop()
            self._rows.clear()


def _progress() -> "Progress":
    """The look of the rows: name, bar, percent, time gone and left, note."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    # Labels and notes hold names of the user's: they are text, never rich's markup.
    # The note has what room is left, so that a narrow terminal cuts it and nothing else.
    console = Console(stderr=True)
    label = Column(no_wrap=True, overflow="ellipsis", max_width=console.width // 2)
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False, table_column=label),
        progress.BarColumn(bar_width=20 if console.width >= 90 else 6),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False, table_column=note),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=2,
        # A stdout that is a file or a pipe gets what is printed, and no screen codes.
        redirect_stdout=sys.stdout.isatty(),
    )
