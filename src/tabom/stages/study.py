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
from tabom.training.config import TrainingConfig

S = TypeVar("S", bound=Stage)
_ROUND = 1_000_003  # between the training seeds of two rounds


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One arm under one seed (seed None: the base, which no seed changes).

    train: the last round's. earlier: the rounds before it and what the last one collected, in
    order: nothing unless the arm collects again with what it has trained.
    """

    arm: ArmConfig
    seed: int | None
    evaluate: Evaluate
    train: Train | None = None
    diagnose: Diagnose | None = None
    earlier: tuple[Stage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every stage of a study, in an order in which each comes after what it needs."""

    collect: dict[int, Collect]
    verify: dict[int, Verify]
    runs: tuple[ArmRun, ...]

    @property
    def stages(self) -> list[Stage]:
        first = [s for seed in self.collect for s in (self.collect[seed], self.verify[seed])]
        rest = [
            s
            for run in self.runs
            for s in (*run.earlier, run.train, run.evaluate, run.diagnose)
            if s
        ]
        return [*first, *rest]


def plan_study(recipe: Recipe) -> Plan:
    """Lay out the stages of a recipe. Reads checkpoints and prompt files, starts nothing."""
    root = recipe.root
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
        earlier: tuple[Stage, ...] = ()
        here, label = root / "base", "base"
        if arm_seed is not None:
            here, label = root / f"seed-{arm_seed}" / arm.slug, f"seed {arm_seed}"
            own = collect[arm_seed], verify[arm_seed]
            earlier, train = _rounds(recipe, arm, arm_seed, own, folder=here, label=label)
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
            ArmRun(
                arm=arm,
                seed=arm_seed,
                train=train,
                evaluate=evaluate,
                diagnose=diagnose,
                earlier=earlier,
            )
        )
    return Plan(collect=collect, verify=verify, runs=tuple(runs))


def _rounds(
    recipe: Recipe,
    arm: ArmConfig,
    seed: int,
    first: tuple[Collect, Verify],
    *,
    folder: Path,
    label: str,
) -> tuple[tuple[Stage, ...], Train]:
    """The stages before an arm's last training, and that.

    first: the collection that all arms share. Later rounds decode the same prompts with what the
    round before trained, and train it on.
    """
    stages: list[Stage] = []
    collect, verify = first
    train: Train | None = None
    for number in range(1, recipe.rounds_of(arm) + 1):
        here, what = folder, label
        if number < recipe.rounds_of(arm):
            here = folder / f"round-{number}"
        if train is not None:
            what = f"{label} round {number}"
            again = folder / f"round-{number}"
            collect = _stage(
                Collect,
                recipe,
                again,
                f"{what} collect {arm.name}",
                seed=seed,
                trained=train.output,
            )
            verify = _stage(
                Verify, recipe, again, f"{what} verify {arm.name}", trajectories=collect.output
            )
            stages += [collect, verify]
        # Of prompts with answers and collected trajectories, one is trained on.
        data: dict[str, Any] = {}
        if arm.data != "ground_truth":
            data = {"trajectories": collect.output, "verdicts": verify.output}
            data |= {"prompts": None, "decoding": None, "rejected": arm.rejected}
        # Contexts are drawn by seed, step and response: each round draws its own.
        round_seed = (seed + (number - 1) * _ROUND) % 2**32
        train = _stage(
            Train,
            recipe,
            here,
            f"{what} train {arm.name}",
            objective=arm.objective,
            options=arm.options,
            training=_training(recipe, arm, seed=seed, round_seed=round_seed),
            arm=arm.name,
            trained=None if train is None else train.output,
            **data,
        )
        stages.append(train)
    assert train is not None  # there is one round at least
    return tuple(stages[:-1]), train


def _training(recipe: Recipe, arm: ArmConfig, *, seed: int, round_seed: int) -> TrainingConfig:
    """The settings of one training, called in trackers as it is in the study."""
    config = recipe.training_of(arm)
    return replace(
        config,
        seed=round_seed,
        run_name=config.run_name or f"{recipe.name}/{arm.name}/seed-{seed}",
        run_group=config.run_group or recipe.name,
    )


def _stage(kind: type[S], recipe: Recipe, folder: Path, label: str, **own: Any) -> S:
    """A stage with the sections of the recipe that it has fields for, and fields of its own."""
    # A field that is called as a section of the recipe is that section.
    shared = {f.name for f in fields(kind)} & {f.name for f in fields(recipe)}
    sections = {name: getattr(recipe, name) for name in shared}
    return kind(folder=folder / kind.kind, label=label, **{**sections, **own})


def pending_stages(plan: Plan, *, overwrite: bool = False) -> list[Stage]:
    """The stages that are not complete, in order. Every folder is checked.

    overwrite: another recipe's result is to be replaced.
    Raises: StageError if one holds another recipe's stage, and that is not to be replaced.
    """
    return [s for s in plan.stages if (overwrite and not s.is_free()) or not s.is_complete()]
