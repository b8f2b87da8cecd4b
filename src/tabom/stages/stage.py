"""What every stage is: it reads folders, fills one folder, and writes its manifest last.

A stage is a frozen class whose fields are its own sections of a recipe and the outputs of earlier
stages that it reads. What decides its result is derived from these fields, and the hash of that is
its fingerprint: a folder whose manifest carries it is skipped, one with another is refused.
Heavy imports happen inside `work`, so that planning a study needs no torch.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from tabom._version import __version__
from tabom.core import configs, manifest
from tabom.core.errors import StageError
from tabom.core.identity import FREE, identity_of_fields
from tabom.stages.progress import Report

# Of a stage's folder, what goes when the manifest is there; the dot keeps it out of that.
UNFINISHED = ".unfinished"

Counts = dict[str, Any]
Done = Callable[..., None]  # (done, total), and a note where there is one


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder that a stage fills, and the fingerprint of what is or will be in it."""

    kind: str
    folder: Path
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. A new one is a subclass with its fields, its `kind` and its `work`.

    folder: where it writes. label: how it is called in messages; neither decides the result.
    """

    kind: ClassVar[str]
    cost: ClassVar[float] = 1.0
    """Relative work, for the progress bar of a study and the order of its stages."""
    resumes: ClassVar[bool] = False
    """Whether a rerun goes on from what a stopped one left; else that is removed."""
    writes_manifest: ClassVar[bool] = False
    """Whether `work` itself declares the folder complete."""

    folder: Path = field(metadata=FREE)
    label: str = field(default="", metadata=FREE)

    def work(self, report: Done) -> Counts:
        """Fill the folder and return counts for the manifest. Heavy imports belong in here."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, in plain values."""
        return {"tabom": __version__, **identity_of_fields(self)}

    @property
    def fingerprint(self) -> str:
        return configs.fingerprint(self.settings)

    @property
    def output(self) -> Output:
        """What later stages are given of this one."""
        return Output(kind=self.kind, folder=self.folder, fingerprint=self.fingerprint)

    @property
    def needs(self) -> tuple[Path, ...]:
        """Folders that must be complete before."""
        values = (getattr(self, item.name) for item in fields(self))
        return tuple(value.folder for value in values if isinstance(value, Output))

    @classmethod
    def load(cls, folder: str | Path) -> Output:
        """What a finished stage of this kind left in a folder.

        Raises: StageError if the folder does not hold that.
        """
        found = manifest.read_manifest(folder)
        if found is None or found.stage != cls.kind:
            what = "has no manifest.json" if found is None else f"holds stage {found.stage!r}"
            raise StageError(
                f"{folder} {what}; expected the folder of a finished `tabom {cls.kind}`"
            )
        return Output(kind=found.stage, folder=Path(folder), fingerprint=found.fingerprint)

    def is_complete(self) -> bool:
        """Whether the folder holds this stage's result. StageError if it holds another's."""
        state = manifest.check_manifest(
            self.folder, stage=self.kind, fingerprint=self.fingerprint, settings=self.settings
        )
        return state == "complete"

    def run(self, report: Report) -> Counts:
        """Do the work unless it is done; the manifest is written last."""
        if self.is_complete():
            found = manifest.read_manifest(self.folder)
            return {} if found is None else dict(found.counts)
        settings, fingerprint = self.settings, self.fingerprint
        manifest.begin(self.folder, stage=self.kind, fingerprint=fingerprint, settings=settings)
        started = time.perf_counter()
        try:
            counts = self.work(lambda done, total, note="": report(self.label, done, total, note))
        except BaseException:
            self._clear()
            raise
        # Under torchrun every rank runs the stage; one of them declares it complete.
        if not self.writes_manifest and os.environ.get("RANK", "0") == "0":
            manifest.write_manifest(
                self.folder,
                stage=self.kind,
                fingerprint=fingerprint,
                counts=counts,
                settings=settings,
                seconds=round(time.perf_counter() - started, 3),
            )
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        return counts

    def _clear(self) -> None:
        """Leave no half-written result, unless a rerun can go on from it."""
        is_empty = {p.name for p in self.folder.iterdir()} <= {manifest.STARTED}
        if is_empty or not self.resumes:
            manifest.reset(self.folder)
            self.folder.rmdir()
