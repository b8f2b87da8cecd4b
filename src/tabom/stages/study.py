"""A study: arms x seeds as a graph of stages."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tabom.stages.collect import Collect
from tabom.stages.diagnose import Diagnose
from tabom.stages.evaluate import Evaluate
from tabom.stages.recipe import ArmConfig, Recipe
from tabom.stages.stage import Output, Stage
from tabom.stages.train import Train
from tabom.stages.verify import Verify

S = TypeVar("S", bound=Stage)


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One arm under one seed (seed None: the base, which no seed changes)."""

    arm: ArmConfig
    seed: int | None
    evaluate: Evaluate
    train: Train | None = None
    diagnose: Diagnose | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every stage of a study, in an order in which each comes after what it needs."""

    collect: dict[int, Collect]
    verify: dict[int, Verify]
    runs: tuple[ArmRun, ...]

    @property
    def stages(self) -> list[Stage]:
        first = [s for seed in self.collect for s in (self.collect[seed], self.verify[seed])]
        rest = [s for run in self.runs for s in (run.train, run.evaluate, run.diagnose) if s]
        return [*first, *rest]


def plan_study(recipe: Recipe) -> Plan:
    """Lay out the stages of a recipe. Reads checkpoints and prompt files, starts nothing."""
    root = Path(recipe.output_dir)
    collect: dict[int, Collect] = {}
    verify: dict[int, Verify] = {}
    for seed in recipe.seeds:
        here, label = root / f"seed-{seed}", f"seed {seed}"
        collect[seed] = _stage(Collect, recipe, here, f"{label} collect", seed=seed)
        verify[seed] = _stage(
            Verify, recipe, here, f"{label} verify", trajectories=collect[seed].output
        )
    arms: list[tuple[ArmConfig, int | None]] = []
    if recipe.base_arm is not None:
        arms.append((recipe.base_arm, None))
    arms += [(arm, seed) for seed in recipe.seeds for arm in recipe.arms if arm.is_trained]
    runs: list[ArmRun] = []
    # Every arm is diagnosed on the responses of the base, which comes first.
    base: Output | None = None
    for arm, arm_seed in arms:
        train = None
        here, label = root / "base", "base"
        if arm_seed is not None:
            here, label = root / f"seed-{arm_seed}" / arm.slug, f"seed {arm_seed}"
            # Of prompts with answers and collected trajectories, one is trained on.
            data: dict[str, Any] = {}
            if arm.data != "ground_truth":
                data = {
                    "trajectories": collect[arm_seed].output,
                    "verdicts": verify[arm_seed].output,
                }
                data |= {"prompts": None, "decoding": None}
            train = _stage(
                Train,
                recipe,
                here,
                f"{label} train {arm.name}",
                objective=arm.objective,
                options=arm.options,
                training=replace(recipe.training_of(arm), seed=arm_seed),
                arm=arm.name,
                **data,
            )
        trained = train.output if train else None
        evaluate = _stage(Evaluate, recipe, here, f"{label} evaluate {arm.name}", trained=trained)
        if arm_seed is None:
            base = evaluate.output
        diagnose = None
        if base is not None and recipe.evaluation.sets:
            diagnose = _stage(
                Diagnose,
                recipe,
                here,
                f"{label} diagnose {arm.name}",
                base_evaluation=base,
                trained=trained,
                seed=recipe.evaluation.seed,
            )
        runs.append(
            ArmRun(arm=arm, seed=arm_seed, train=train, evaluate=evaluate, diagnose=diagnose)
        )
    return Plan(collect=collect, verify=verify, runs=tuple(runs))


def _stage(kind: type[S], recipe: Recipe, folder: Path, label: str, **own: Any) -> S:
    """A stage with the sections of the recipe that it has fields for, and fields of its own."""
    # A field that is called as a section of the recipe is that section.
    shared = {f.name for f in fields(kind)} & {f.name for f in fields(recipe)}
    sections = {name: getattr(recipe, name) for name in shared}
    return kind(folder=folder / kind.kind, label=label, **{**sections, **own})


def pending_stages(plan: Plan) -> list[Stage]:
    """The stages that are not complete, in order. Every folder is checked.

    Raises: StageError if one holds another recipe's stage.
    """
    return [stage for stage in plan.stages if not stage.is_complete()]
