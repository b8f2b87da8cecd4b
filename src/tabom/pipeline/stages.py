"""The stages of a study: each reads folders, writes one folder, and writes its manifest last.

A stage's settings are everything that decides its result; their hash is its fingerprint. A folder
whose manifest carries that fingerprint is skipped, one with another fingerprint is refused.
Heavy imports happen inside `run`, so that planning a study needs no torch.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom._version import __version__
from tabom.core import configs, manifest
from tabom.pipeline.identity import model_identity, prompts_identity
from tabom.pipeline.progress import Report
from tabom.pipeline.recipe import ArmConfig, Recipe
from tabom.verify.config import VerifierConfig

# Of a stage's folder, what goes when the manifest is there; the dot keeps it out of that.
UNFINISHED = ".unfinished"

Settings = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a study: where it writes, what decides its result, what it needs first.

    work: module-level function (picklable) that fills the folder and returns counts.
    arguments: its keyword arguments. needs: folders of stages that must be complete before.
    cost: relative, for the progress bar and the order of work.
    resumes: whether a rerun goes on from what a stopped one left; else that is removed.
    writes_manifest: whether `work` itself declares the folder complete (a sharded collection does
    when its last rank is done).
    """

    kind: str
    label: str
    folder: Path
    settings: Settings
    work: Callable[..., Result]
    arguments: dict[str, Any]
    needs: tuple[Path, ...] = ()
    cost: float = 1.0
    resumes: bool = False
    writes_manifest: bool = False

    @property
    def fingerprint(self) -> str:
        return configs.fingerprint(self.settings)

    def is_complete(self) -> bool:
        """Whether the folder holds this stage's result. StageError if it holds another's."""
        state = manifest.check_manifest(
            self.folder, stage=self.kind, fingerprint=self.fingerprint, settings=self.settings
        )
        return state == "complete"

    def run(self, report: Report) -> Result:
        """Do the work unless it is done; the manifest is written last."""
        if self.is_complete():
            found = manifest.read_manifest(self.folder)
            return {} if found is None else dict(found.counts)
        manifest.begin(
            self.folder, stage=self.kind, fingerprint=self.fingerprint, settings=self.settings
        )
        started = time.perf_counter()
        try:
            counts = self.work(
                folder=self.folder,
                fingerprint=self.fingerprint,
                settings=self.settings,
                report=lambda done, total, note="": report(self.label, done, total, note),
                **self.arguments,
            )
        except BaseException:
            self._clear()
            raise
        # Under torchrun every rank runs the stage; one of them declares it complete.
        if not self.writes_manifest and os.environ.get("RANK", "0") == "0":
            manifest.write_manifest(
                self.folder,
                stage=self.kind,
                fingerprint=self.fingerprint,
                counts=counts,
                settings=self.settings,
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


@dataclass(frozen=True, kw_only=True)
class FinishedStage(Stage):
    """A stage known only by the folder it left."""

    recorded: str = ""

    @property
    def fingerprint(self) -> str:
        return self.recorded

    @classmethod
    def of(cls, folder: Path, found: manifest.Manifest) -> "FinishedStage":
        """The stage that wrote this manifest."""
        return cls(
            kind=found.stage,
            label=found.stage,
            folder=folder,
            settings=found.settings,
            work=_nothing,
            arguments={},
            recorded=found.fingerprint,
        )


def _nothing(**_: Any) -> Result:
    raise AssertionError("a finished stage is not run again")


def _common(recipe: Recipe) -> Settings:
    return {"tabom": __version__, "model": model_identity(recipe.model)}


def _verifier(config: VerifierConfig) -> Settings:
    """What decides a verdict; how many processes work on it does not."""
    return {k: v for k, v in configs.to_plain(config).items() if k != "num_workers"}


def collect_stage(recipe: Recipe, *, seed: int, folder: Path) -> Stage:
    """Decode the training prompts of one seed."""
    from tabom.pipeline.work import collect_work

    settings = {
        **_common(recipe),
        "prompts": prompts_identity(recipe.prompts),
        "decoding": configs.to_plain(recipe.decoding),
        "num_samples": recipe.collection.num_samples,
        "max_prompt_tokens": recipe.collection.max_prompt_tokens,
        "seed": seed,
    }
    return Stage(
        kind="collect",
        label=f"seed {seed} collect",
        folder=folder,
        settings=settings,
        work=collect_work,
        arguments={"recipe": recipe, "seed": seed},
        cost=3.0,
        resumes=True,
        writes_manifest=True,
    )


def verify_stage(recipe: Recipe, *, collect: Stage, folder: Path) -> Stage:
    """Judge the trajectories of one collection."""
    from tabom.pipeline.work import verify_work

    return Stage(
        kind="verify",
        label=collect.label.replace("collect", "verify"),
        folder=folder,
        settings={
            "tabom": __version__,
            "collect": collect.fingerprint,
            "verifier": _verifier(recipe.verifier),
        },
        work=verify_work,
        arguments={"recipe": recipe, "collect_folder": collect.folder},
        needs=(collect.folder,),
        cost=0.2,
        resumes=True,
    )


def train_stage(
    recipe: Recipe,
    *,
    arm: ArmConfig,
    seed: int,
    collect: Stage | None,
    verify: Stage | None,
    folder: Path,
) -> Stage:
    """Train one arm for one seed; ground truth needs no collection."""
    from tabom.pipeline.work import train_work

    data: Settings
    if arm.data == "ground_truth" or collect is None or verify is None:
        collect = verify = None
        data = {
            "prompts": prompts_identity(recipe.prompts),
            "num_slots": recipe.decoding.max_new_tokens,
        }
    else:
        data = {"verify": verify.fingerprint}
    settings = {
        **_common(recipe),
        "objective": arm.objective,
        "options": dict(arm.options),
        "data": {"kind": arm.data, **data},
        "training": recipe.training_of(arm).decisive(),
        "seed": seed,
    }
    return Stage(
        kind="train",
        label=f"seed {seed} train {arm.name}",
        folder=folder,
        settings=settings,
        work=train_work,
        arguments={
            "recipe": recipe,
            "arm": arm,
            "seed": seed,
            "collect_folder": None if collect is None else collect.folder,
            "verify_folder": None if verify is None else verify.folder,
        },
        needs=() if verify is None else (verify.folder,),
        cost=2.0,
        resumes=True,
    )


def evaluate_stage(
    recipe: Recipe, *, arm: ArmConfig, label: str, train: Stage | None, folder: Path
) -> Stage:
    """Measure one arm (of one seed; the base once) on every evaluation set."""
    from tabom.pipeline.work import evaluate_work

    sets = []
    for item in recipe.evaluation.sets:
        sets.append(
            {
                **configs.to_plain(item),
                "prompts": prompts_identity(item.prompts),
                "decoding": [
                    configs.to_plain(recipe.decoding_of(item, k)) for k in item.tokens_per_step
                ],
                "verifier": _verifier(item.verifier or recipe.verifier),
            }
        )
    settings = {
        **_common(recipe),
        "adapter": None if train is None else train.fingerprint,
        "sets": sets,
        "seed": recipe.evaluation.seed,
        "num_fields": recipe.evaluation.num_fields,
    }
    return Stage(
        kind="evaluate",
        label=f"{label} evaluate {arm.name}",
        folder=folder,
        settings=settings,
        work=evaluate_work,
        arguments={"recipe": recipe, "trained_folder": None if train is None else train.folder},
        needs=() if train is None else (train.folder,),
        cost=1.5,
        resumes=True,
    )


def diagnose_stage(
    recipe: Recipe,
    *,
    arm: ArmConfig,
    label: str,
    train: Stage | None,
    base_evaluate: Stage,
    folder: Path,
) -> Stage:
    """Order agreement and loss ratio of one arm, on the base's own held-out responses."""
    from tabom.pipeline.work import diagnose_work

    return Stage(
        kind="diagnose",
        label=f"{label} diagnose {arm.name}",
        folder=folder,
        settings={
            **_common(recipe),
            "adapter": None if train is None else train.fingerprint,
            "base_evaluate": base_evaluate.fingerprint,
            "diagnostics": configs.to_plain(recipe.diagnostics),
        },
        work=diagnose_work,
        arguments={
            "recipe": recipe,
            "trained_folder": None if train is None else train.folder,
            "base_evaluate_folder": base_evaluate.folder,
        },
        needs=(base_evaluate.folder,) if train is None else (base_evaluate.folder, train.folder),
        cost=0.4,
    )
