"""A study: arms x seeds as a graph of stages."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tabom.stages.collect import Collect
from tabom.stages.diagnose import Diagnose
from tabom.stages.evaluate import Evaluate
from tabom.stages.recipe import ArmConfig, Recipe
from tabom.stages.stage import Output, Stage
from tabom.stages.train import Train
from tabom.stages.verify import Verify


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
        here = root / f"seed-{seed}"
        collect[seed] = Collect(
            folder=here / "collect",
            label=f"seed {seed} collect",
            model=recipe.model,
            prompts=recipe.prompts,
            decoding=recipe.decoding,
            collection=recipe.collection,
            seed=seed,
        )
        verify[seed] = Verify(
            folder=here / "verify",
            label=f"seed {seed} verify",
            model=recipe.model,
            trajectories=collect[seed].output,
            verifier=recipe.verifier,
        )
    runs: list[ArmRun] = []
    base_evaluation: Output | None = None
    if recipe.base_arm is not None:
        base = _measured(recipe, recipe.base_arm, root / "base", "base")
        base_evaluation = base.evaluate.output
        runs.append(base)
    for seed in recipe.seeds:
        for arm in recipe.arms:
            if arm.is_trained:
                here, label = root / f"seed-{seed}" / arm.slug, f"seed {seed}"
                train = _train(
                    recipe, arm, seed, collect[seed].output, verify[seed].output, here / "train"
                )
                run = _measured(recipe, arm, here, label, train.output, base_evaluation)
                runs.append(replace(run, seed=seed, train=train))
    return Plan(collect=collect, verify=verify, runs=tuple(runs))


def _train(
    recipe: Recipe,
    arm: ArmConfig,
    seed: int,
    trajectories: Output,
    verdicts: Output,
    folder: Path,
) -> Train:
    data: dict[str, Any] = {"trajectories": trajectories, "verdicts": verdicts}
    if arm.data == "ground_truth":
        data = {"prompts": recipe.prompts, "decoding": recipe.decoding}
    assert arm.objective is not None
    return Train(
        folder=folder,
        label=f"seed {seed} train {arm.name}",
        model=recipe.model,
        objective=arm.objective,
        options=arm.options,
        training=replace(recipe.training_of(arm), seed=seed),
        arm=arm.name,
        **data,
    )


def _measured(
    recipe: Recipe,
    arm: ArmConfig,
    folder: Path,
    label: str,
    trained: Output | None = None,
    base_evaluation: Output | None = None,
) -> ArmRun:
    """The evaluation of one arm, and its diagnostics where the base's responses are there."""
    evaluate = Evaluate(
        folder=folder / "evaluate",
        label=f"{label} evaluate {arm.name}",
        model=recipe.model,
        trained=trained,
        decoding=recipe.decoding,
        verifier=recipe.verifier,
        evaluation=recipe.evaluation,
    )
    if trained is None:
        base_evaluation = evaluate.output
    diagnose = None
    if base_evaluation is not None and recipe.evaluation.sets:
        diagnose = Diagnose(
            folder=folder / "diagnose",
            label=f"{label} diagnose {arm.name}",
            model=recipe.model,
            base_evaluation=base_evaluation,
            trained=trained,
            decoding=recipe.decoding,
            diagnostics=recipe.diagnostics,
            seed=recipe.evaluation.seed,
        )
    return ArmRun(arm=arm, seed=None, evaluate=evaluate, diagnose=diagnose)


def pending_stages(plan: Plan) -> list[Stage]:
    """The stages that are not complete, in order. Every folder is checked.

    Raises: StageError if one holds another recipe's stage.
    """
    return [stage for stage in plan.stages if not stage.is_complete()]
