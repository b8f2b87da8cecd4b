"""Prompts of which some kill the process that composes them, once a collection is planned."""

import os
import signal
from pathlib import Path
from typing import Any

from tabom.toyworld.tasks import prompts as tasks


class Poison(dict):
    """A row that is read once for the index, and after that by nobody who lives on."""

    folder = ""

    def get(self, *args: Any) -> Any:
        if (Path(self.folder) / "chunks.json").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(*args)


def prompts(seed: int, folder: str, bad: list[int], **args: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = list(tasks(seed=seed, **args))
    for number in bad:
        rows[number] = Poison(rows[number])
        rows[number].folder = folder  # type: ignore[attr-defined]
    return rows
