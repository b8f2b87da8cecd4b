"""What every stage is: it reads folders, fills one folder, and writes its manifest last.

A stage is a frozen class whose fields are its own sections of a recipe and the outputs of earlier
stages that it reads. What decides its result is derived from these fields, and the hash of that is
its fingerprint: a folder whose manifest carries it is skipped, one with another is refused.
Heavy imports happen inside `work`, so that planning a study needs no torch.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tabom._version import __version__
from tabom.core import configs, manifest
from tabom.core.atomic import LOCK, only_one, write_json
from tabom.core.errors import DataError, StageError
from tabom.core.identity import FLAGGED, FREE, identity_of_fields
from tabom.core.place import is_remote, local_folder, place, remove
from tabom.core.progress import Report, silent
from tabom.stages.preflight import SECTION_CHECKS, Check

# Of a stage's folder, what goes when the manifest is there; the dot keeps it out of that.
UNFINISHED = ".unfinished"
CACHE = ".cache"  # what can be made again; it goes, too

Counts = dict[str, Any]
Done = Callable[..., None]  # (done, total), and a note where there is one


@dataclass(frozen=True, kw_only=True)
class Output:
    """A folder that a stage fills, and the fingerprint of what is or will be in it."""

    kind: str
    folder: Path
    fingerprint: str

    def checked(self) -> Path:
        """The folder, for reading: its files are whole and are what this stage was planned with.

        Their hashes are compared once a process; those of subfolders by whoever opens them.
        Raises: StageError if the stage did not finish; DataError naming a file that changed.
        """
        manifest.check_folder(folder := self.home)
        return folder

    def local(self) -> Path:
        """As `checked`, on this machine: what lies at a URL is copied here, once."""
        if not is_remote(folder := self.home):
            return self.checked()
        manifest.fetch(folder, here := local_folder(self.folder) / self.fingerprint)
        return here

    @property
    def home(self) -> Path:
        """Where the files of the finished stage are: the folder, or its newest generation.

        Raises: StageError if the stage did not finish.
        """
        found = manifest.read_manifest(self.folder)
        if found is None or found.fingerprint != self.fingerprint:
            raise StageError(f"{self.folder} does not hold the {self.kind} that is needed; run it")
        return self.folder / found.generation if found.generation else self.folder


def reads(kind: str) -> dict[str, str]:
    """Metadata of a field that holds the output of an earlier stage of this kind."""
    return {"reads": kind}


def load_output(
    folder: str | Path, kind: str, *, storage_options: Mapping[str, Any] | None = None
) -> Output:
    """What a finished stage left in a folder, or at a URL; see `core.place.place`.

    Raises: StageError if the folder does not hold that.
    """
    folder = place(folder, storage_options)
    found = manifest.read_manifest(folder)
    if found is None or found.stage != kind:
        what = "it has no manifest.json" if found is None else f"it holds stage {found.stage!r}"
        if not folder.is_dir():
            what = "there is no such folder"
        raise StageError(f"{folder}: {what}; expected the folder of a finished `tabom {kind}`")
    return Output(kind=kind, folder=folder, fingerprint=found.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Stage(configs.Brief):
    """One stage. A new one is a subclass with its fields, its `kind` and its `work`.

    A field is a section of a recipe, the output of an earlier stage (`field(metadata=reads(...))`)
    or a plain value. What decides no result has the metadata FREE. `tabom package.module:Class`
    runs it, with a flag for every field; the text under a field is its help.
    """

    kind: ClassVar[str]
    cost: ClassVar[float] = 1.0
    """Relative work, for the progress bar of a study and the order of its stages."""
    resumes: ClassVar[bool] = False
    """Whether a rerun goes on from what a stopped one left; else that is removed."""
    is_shared: ClassVar[bool] = False
    """Whether several processes may work in the folder together, each on a share."""

    folder: Path = field(metadata=FREE)
    """Where the result is written: a folder, or a URL."""
    storage_options: dict[str, Any] = field(default_factory=dict, metadata=FLAGGED)
    """Of the file system behind URLs, as fsspec takes them: '{"endpoint_url": "http://..."}'; or by
    their kind: '{"s3": {...}, "gs": {...}}'. Keys are better left in the environment."""
    label: str = field(default="", metadata=FREE)
    """What the stage is called in messages."""

    def __post_init__(self) -> None:
        # Code may name a folder by its text; every path below is one.
        folder = place(self.folder, self.storage_options, to_write=True)
        object.__setattr__(self, "folder", folder)

    def work(self, report: Done) -> Counts:
        """Fill the folder and return counts for the manifest. Heavy imports belong in here."""
        raise NotImplementedError

    def checks(self) -> Iterator[Check]:
        """What can be known of the fields before any work, for `stages.preflight`."""
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) in SECTION_CHECKS:
                yield Check(item.name, SECTION_CHECKS[type(value)], (value,))

    # Cached: the contents of checkpoints and files are read for it.
    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, in plain values."""
        return {"tabom": __version__, **identity_of_fields(self)}

    @cached_property
    def fingerprint(self) -> str:
        return configs.fingerprint(self.settings)

    @property
    def mark(self) -> manifest.Mark:
        """What the folder is begun for."""
        return manifest.Mark(stage=self.kind, fingerprint=self.fingerprint, settings=self.settings)

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
        """What a finished stage of this kind left in a folder; see `load_output`."""
        return load_output(folder, cls.kind)

    def is_complete(self) -> bool:
        """Whether the folder holds this stage's result. StageError if it holds another's."""
        return manifest.check_manifest(self.folder, self.mark) is not None

    def run(self, report: Report = silent, *, overwrite: bool = False) -> Counts:
        """Do the work unless it is done, with the folder locked; the manifest is written last.

        overwrite: empty the folder first if it holds another's result.
        Raises: StageError if another process works there, or another's result is there.
        """
        if overwrite and is_remote(self.folder) and not self.is_free():
            return self._next_generation(report)
        if (counts := self.elsewhere(report, overwrite=overwrite)) is not None:
            return counts
        if overwrite:
            self.make_way()
        with self._lock(is_shared=self.is_shared):
            found = manifest.begin(self.folder, self.mark)
            if found is not None:
                return dict(found.counts)
            started = time.perf_counter()
            try:
                counts = self.work(
                    lambda done, total, note="": report(self.label, done, total, note)
                )
                self.finish(counts, seconds=time.perf_counter() - started)
            except BaseException:
                self._clear()
                raise
        return counts

    def elsewhere(self, report: Report, *, overwrite: bool) -> Counts | None:
        """Do all of it in other processes or another folder; None: it is done here.

        Of a URL it is done in a folder of this machine, which keeps checkpoints and what a stopped
        run has so far; what comes out is sent.
        """
        if not is_remote(self.folder):
            return None
        if (found := manifest.begin(self.folder, self.mark)) is not None:
            return dict(found.counts)
        here = local_folder(self.folder) / self.fingerprint
        counts = replace(self, folder=here).run(report)
        if is_first_process():
            manifest.send(here, self.folder, leave="checkpoint-")
        return counts

    def _next_generation(self, report: Report) -> Counts:
        """The work in a folder of its own inside the URL, which then stands for what was there."""
        manifest.check_ours(self.folder)
        name = f"generation-{self.fingerprint}"
        new = replace(self, folder=self.folder / name)
        counts = new.run(report)
        if new.is_complete():  # else others are still at work
            manifest.switch(self.folder, name)
        return counts

    def make_way(self) -> None:
        """Empty the folder if it holds another's result; at a URL nothing is ever removed.

        Raises: StageError if a process works there, or tabom did not make the folder.
        """
        if is_remote(self.folder) or self.is_free():
            return
        try:
            with only_one(self.folder):
                if not self.is_free():
                    manifest.reset(self.folder)
        except StageError:
            # A worker beside this one, started with the same flags, may have made way.
            if not self.is_free():
                raise

    def is_free(self) -> bool:
        """Whether the folder holds nothing, or what this very stage has done so far."""
        try:
            self.is_complete()
        except (StageError, DataError):
            return False
        return True

    def finish(self, counts: Counts, *, seconds: float) -> None:
        """Declare the folder complete.

        Raises: StageError if the folder was removed meanwhile, and part of the result with it.
        """
        # Under torchrun every rank runs the stage, and the first one speaks for all.
        if not is_first_process():
            return
        # Atomic writes make missing folders, so a removed one comes back with the last file alone.
        if not (self.folder / manifest.STARTED).is_file():
            raise StageError(f"{self.folder} was removed or emptied during the run; run it again")
        manifest.write_manifest(self.folder, self.mark, counts=counts, seconds=seconds)
        remove(self.folder / UNFINISHED)
        remove(self.folder / CACHE)

    def _lock(self, *, is_shared: bool = False) -> AbstractContextManager[None]:
        if not is_first_process() and not is_shared:
            return nullcontext()  # the first rank holds the folder for all
        # Asked first, so that no lock file is left in a folder of somebody else.
        manifest.check_ours(self.folder)
        return only_one(self.folder, is_shared=is_shared)

    def _clear(self) -> None:
        """Leave no half-written result, unless a rerun can go on from it."""
        if not self.folder.is_dir() or not is_first_process():
            return
        if self.resumes and {p.name for p in self.folder.iterdir()} - {
            manifest.STARTED,
            LOCK,
            CACHE,
        }:
            # The mark may have gone with a folder that was removed under a worker.
            if not (self.folder / manifest.STARTED).is_file():
                write_json(self.folder / manifest.STARTED, self.mark)
        elif is_remote(self.folder):  # another worker may have begun
            remove(self.folder / manifest.STARTED)
        else:
            manifest.reset(self.folder)
            remove(self.folder)


def is_first_process() -> bool:
    """Whether this is the process that writes, of those that torchrun started together."""
    return int(os.environ.get("RANK", "0")) == 0
