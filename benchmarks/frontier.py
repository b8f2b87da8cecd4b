"""The fair study: gain against forgetting, every arm swept with equally many trials.

    python benchmarks/frontier.py [--workers 2] [--phase tune|confirm|...] [--world toy-base ...]
    python benchmarks/frontier_tables.py      # what the cells say, as docs/results.md has it

A cell is (world, arm, setting, seed) of a phase. Each finished one is a line of
`results/frontier_cells.jsonl`; a run takes the lines that are there as done, wherever they were
made, and appends the rest. Settings are chosen in the phase "tune", on seeds and prompts of its
own; "confirm" runs what was chosen on new ones; "boundary" samples 64 answers to each prompt from
some arms; "pieces" changes one thing at a time in TABOM and in two contexts as they were chosen.
"""

import argparse
import fcntl
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import common

CELLS = common.RESULTS / "frontier_cells.jsonl"
BUDGETS = (3.0, 10.0)  # points of forgetting
OTHER_SETS = ("hops", "reverse", "sort", "sudoku")
LEARNING_RATES = (2.5e-4, 3.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Seeds that train, the seed of the evaluation prompts, and how many of these there are."""

    seeds: tuple[int, ...]
    eval_seed: int
    num_in: int
    num_out: int
    num_samples: int = 1


PHASES = {
    "tune": Phase(seeds=(100, 101), eval_seed=1000, num_in=300, num_out=60),
    "confirm": Phase(seeds=tuple(range(200, 208)), eval_seed=2000, num_in=1000, num_out=200),
    "boundary": Phase(seeds=(300, 301, 302), eval_seed=3000, num_in=100, num_out=0, num_samples=64),
    "pieces": Phase(seeds=(400, 401, 402, 403), eval_seed=4000, num_in=600, num_out=120),
}
SAMPLED = ("SFT-GT", "SFT-SD", "TABOM", "Two contexts")  # in the phase "boundary"


@dataclass(frozen=True, kw_only=True)
class World:
    """Prompts collected for each seed, and the pace at which there is something to gain."""

    prompts: int
    pace: int = 1


WORLDS = {
    "toy-base": World(prompts=1200),
    "toy-hasty": World(prompts=3600),
    "toy-saturated": World(prompts=1200, pace=2),
}
BASE = "base"
EXTRA: list[tuple[str, Any]] = []  # of every recipe: for a script that runs this elsewhere


def grid(objective: str, rates: Sequence[float], **options: Sequence[Any]) -> list[dict[str, Any]]:
    """Every learning rate with every value of one option."""
    if not options:
        return [{"objective": objective, "lr": rate, "options": {}} for rate in rates]
    ((name, values),) = options.items()
    return [
        {"objective": objective, "lr": rate, "options": {name: value}}
        for value in values
        for rate in rates
    ]


FOUR = (5e-4, 1e-3, 1.5e-3, 2e-3)
# Eight trials each. A window of 4 is that of every earlier study of these worlds.
ARMS: dict[str, list[dict[str, Any]]] = {
    "SFT-SD": grid("nelbo", LEARNING_RATES),
    "Trajectory CE": grid("trajectory_ce", LEARNING_RATES),
    "TABOM": grid("tabom", FOUR, rank_weight=(1.0, 0.3)),
    "Boltzmann": grid("boltzmann", FOUR, next_slot_weight=(1.0, 0.3)),
    "Two contexts": grid("two_contexts", (7e-4, *FOUR[1:]), next_slot_weight=(0.5, 0.3)),
    "SFT-GT": grid("nelbo", LEARNING_RATES),
    "SFT-SD + KL": grid("nelbo_kl", (5e-4, 1e-3, 2e-3, 4e-3), kl_weight=(0.3, 1.0)),
}
WINDOWED = ("trajectory_ce", "tabom", "boltzmann")
# What is changed in the setting that the tuning chose for ten points, by the arm it is changed in.
# An option stands by its name; "objective", "rejected" and "rounds" are the arm's own.
WHOLE = 64  # a window longer than any response
PIECES: dict[str, dict[str, dict[str, Any]]] = {
    "TABOM": {
        "as chosen": {},
        "window 2": {"window": 2},
        "window 8": {"window": 8},
        "window 16": {"window": 16},
        "whole response": {"window": WHOLE},
        "no ranking": {"rank_weight": 0.0},
        "whole response, no ranking": {"window": WHOLE, "rank_weight": 0.0},
        "margin 0.05": {"margin": 0.05},
        "margin 0.5": {"margin": 0.5},
    },
    "Two contexts": {
        "as chosen": {},
        "share 0.5": {"share": 0.5},
        "share 0.9": {"share": 0.9},
        "no order term": {"next_slot_weight": 0.0},
        "ranking in its place": {"next_slot_weight": 0.0, "rank_weight": 0.5},
        "shuffled order": {"objective": "frontier_objectives:shuffled_contexts"},
        "rejected ones too": {"rejected": "advantage"},
        "two rounds": {"rounds": 2},
    },
}
Cell = dict[str, Any]


def key_of(cell: Mapping[str, Any]) -> str:
    """What tells cells apart."""
    names = ("phase", "world", "arm", "setting", "seed")
    return json.dumps([cell[name] for name in names], sort_keys=True)


def known_cells(path: Path = CELLS) -> dict[str, Cell]:
    """The finished cells by their key."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {key_of(cell): cell for cell in map(json.loads, lines)}


def planned(phase: str, worlds: Sequence[str], known: Mapping[str, Cell]) -> Iterator[Cell]:
    """The cells of a phase: all settings, or those that the tuning chose."""
    for world in worlds:
        for seed in PHASES[phase].seeds:
            yield {"phase": phase, "world": world, "arm": BASE, "setting": None, "seed": seed}
        chosen = dict(ARMS)
        if phase == "confirm":
            chosen = choose(world, known.values(), beyond=True)
        if phase == "boundary":  # the setting of the larger budget
            chosen = choose(world, known.values())
            chosen = {arm: chosen[arm][-1:] for arm in SAMPLED if arm in chosen}
        if phase == "pieces":
            best = choose(world, known.values())
            chosen = {
                f"{arm}, {name}": [changed(best[arm][-1], changes)]
                for arm, variants in PIECES.items()
                if arm in best
                for name, changes in variants.items()
            }
        for seed in PHASES[phase].seeds:
            for arm, settings in chosen.items():
                for setting in settings:
                    yield {
                        "phase": phase, "world": world, "arm": arm, "setting": setting,
                        "seed": seed,
                    }  # fmt: skip


def changed(setting: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A setting with other options, and what of the changes is the arm's own."""
    own = {name: changes[name] for name in ("objective", "rejected", "rounds") if name in changes}
    options = {name: value for name, value in changes.items() if name not in own}
    return {**setting, "options": {**setting["options"], **options}, **own}


def recipe_of(cell: Cell, folder: Path) -> Any:
    """The recipe of one cell; those of one world, phase and seed share what they collect."""
    from tabom.core.configs import to_plain
    from tabom.stages.recipe import load_recipe

    phase = PHASES[cell["phase"]]
    arm: dict[str, Any] = {"name": cell["arm"]}
    if cell["setting"] is not None:
        setting = dict(cell["setting"])
        if setting["objective"] in WINDOWED:
            setting["options"] = {"window": 4, **setting["options"]}
        arm |= {"training": {"learning_rate": setting.pop("lr")}, **setting}
        if cell["arm"] == "SFT-GT":
            arm["data"] = "ground_truth"
    overrides: list[Any] = [
        ("model.model_name_or_path", cell["world"]),
        ("prompts.args.num", WORLDS[cell["world"]].prompts),
        ("arms", [arm]),
        ("seeds", [cell["seed"]]),
        ("evaluation.seed", phase.eval_seed),
        ("output_dir", str(folder)),
    ]
    chain: list[Any] = [
        ("evaluation.sets.chain.prompts.args.num", phase.num_in),
        ("evaluation.sets.chain.metrics.hops", "tabom.toyworld.diagnostics:difficulty"),
    ]
    if phase.num_samples > 1:
        recipe = load_recipe("toy-study")
        sets = [one for one in to_plain(recipe.evaluation)["sets"] if one["name"] == "chain"]
        overrides += [
            ("evaluation.sets", sets),
            *chain,
            ("evaluation.sets.chain.num_samples", phase.num_samples),
            ("evaluation.sets.chain.tokens_per_step", [1]),
            ("evaluation.sets.chain.decoding", {"temperature": 1.0}),
        ]
        return load_recipe("toy-study", overrides=[*overrides, *EXTRA])
    overrides += chain
    overrides += [(f"evaluation.sets.{s}.prompts.args.num", phase.num_out) for s in OTHER_SETS]
    return load_recipe("toy-study", overrides=[*overrides, *EXTRA])


def run_cell(cell: Cell, folder: Path) -> Cell:
    """Train and evaluate one cell, and sum it up in a line."""
    from tabom.evaluation.records import read_records
    from tabom.evaluation.results import RECORDS
    from tabom.stages.study import plan_study

    started = time.process_time()
    plan = plan_study(recipe_of(cell, folder))
    (run,) = plan.runs
    if run.train is not None:
        for stage in (*plan.collect.values(), *plan.verify.values(), *run.earlier, run.train):
            stage.run()
    run.evaluate.run()
    records = list(read_records(run.evaluate.folder / RECORDS))
    by_cell: dict[str, list[float]] = defaultdict(list)
    by_hops: dict[str, list[float]] = defaultdict(list)
    premature = []
    right: dict[str, int] = defaultdict(int)
    for record in records:
        right[record.id] += int(record.correct)
        by_cell[f"{record.set}@{record.pace}"].append(record.correct)
        if record.set == "chain" and record.tokens_per_step == 1:
            by_hops[f"{record.metrics['hops']:g}"].append(record.correct)
            premature.append(record.metrics["premature_commit"] or 0.0)
    shutil.rmtree(run.evaluate.folder.parent)  # this arm's folder; what was collected stays

    def percent(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return {name: round(100 * statistics.mean(v), 3) for name, v in sorted(values.items())}

    return {
        **cell,
        "accuracy": percent(by_cell),
        "by_hops": percent(by_hops),
        "premature": round(100 * statistics.mean(premature), 3),
        **({"right": [right[i] for i in sorted(right)]} if cell["phase"] == "boundary" else {}),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def run_group(cells: list[Cell], folder: str, path: Path) -> int:
    """The cells of one world, phase and seed, in one process; each is written when it is done."""
    import torch

    torch.set_num_threads(1)
    for cell in cells:
        line = json.dumps(run_cell(cell, Path(folder)))
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")
    return len(cells)


def run_phase(phase: str, worlds: Sequence[str], *, workers: int, path: Path = CELLS) -> None:
    """Run what is not known yet. workers: processes; 1 is this one."""
    known = known_cells(path)
    groups: dict[tuple[str, int], list[Cell]] = defaultdict(list)
    for cell in planned(phase, worlds, known):
        if key_of(cell) not in known:
            groups[cell["world"], cell["seed"]].append(cell)
    print(f"{phase}: {sum(map(len, groups.values()))} cells to run, {len(known)} known")
    with tempfile.TemporaryDirectory() as scratch:
        # Seeds of all worlds in turn, so that a run cut short has something of each.
        order = sorted(groups, key=lambda group: (group[1], group[0]))
        folders = {g: f"{scratch}/{phase}-{Path(g[0]).name}-{g[1]}" for g in order}
        if workers == 1:
            for group in order:
                run_group(groups[group], folders[group], path)
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(run_group, groups[g], folders[g], path) for g in order]
            for job in jobs:
                job.result()


# ---- what the tuning says ----


def forgetting(cell: Cell, base: Cell) -> float:
    """Signed mean over the other sets of base minus arm, in points."""
    return statistics.mean(
        base["accuracy"][f"{s}@1"] - cell["accuracy"][f"{s}@1"] for s in OTHER_SETS
    )


def in_domain(cell: Cell) -> float:
    """At the pace of its world."""
    return float(cell["accuracy"][f"chain@{WORLDS[cell['world']].pace}"])


def bases_of(cells: Sequence[Cell]) -> dict[tuple[str, str, int], Cell]:
    return {(c["phase"], c["world"], c["seed"]): c for c in cells if c["arm"] == BASE}


def points(cells: Sequence[Cell], phase: str, world: str, arm: str) -> dict[str, Any]:
    """By setting: (forgetting, in-domain) of each seed."""
    bases = bases_of(cells)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for cell in cells:
        if (cell["phase"], cell["world"], cell["arm"]) == (phase, world, arm):
            base = bases[phase, world, cell["seed"]]
            setting = json.dumps(cell["setting"], sort_keys=True)
            found[setting].append((forgetting(cell, base), in_domain(cell)))
    return found


def choose(world: str, cells: Any, *, beyond: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Per arm the setting that is best in domain within each budget, on the tuning seeds.

    Where no setting keeps a budget, the one that forgets least. beyond: also the one that forgets
    least of those past the larger budget and gains more, so that the frontier is interpolated at
    the budget and not cut off before it.
    """
    cells = list(cells)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for arm in ARMS:
        means = {
            setting: tuple(statistics.mean(column) for column in zip(*pairs, strict=True))
            for setting, pairs in points(cells, "tune", world, arm).items()
        }
        if len(means) < len(ARMS[arm]):
            print(f"{world}: {arm} is not tuned yet ({len(means)} of {len(ARMS[arm])} settings)")
            continue
        names = []
        for budget in BUDGETS:
            within = [s for s, (lost, _) in means.items() if lost <= budget]
            best = (
                max(within, key=lambda s: means[s][1])
                if within
                else min(means, key=lambda s: means[s][0])
            )
            if best not in names:
                names.append(best)
        past = [
            s for s, (lost, right) in means.items()
            if lost > BUDGETS[-1] and right > means[names[-1]][1]
        ]  # fmt: skip
        if beyond and past:
            names.append(min(past, key=lambda s: means[s][0]))
        chosen[arm] = [json.loads(name) for name in names]
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", choices=list(PHASES), action="append")
    parser.add_argument("--world", choices=list(WORLDS), action="append")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    for phase in args.phase or PHASES:
        run_phase(phase, args.world or list(WORLDS), workers=args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
