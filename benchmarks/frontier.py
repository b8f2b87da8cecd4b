"""The fair study: gain against forgetting, every arm swept with equally many trials.

    python benchmarks/frontier.py run [--workers 2] [--phase tune|confirm] [--world toy-base ...]
    python benchmarks/frontier.py report [--phase confirm]
    python benchmarks/frontier.py tables      # as docs/results.md has them

A cell is (world, arm, setting, seed) of a phase. Each finished one is a line of
`results/frontier_cells.jsonl`; a run takes the lines that are there as done, wherever they were
made, and appends the rest. Settings are chosen in the phase "tune", on seeds and prompts of its
own; "confirm" runs what was chosen on new ones; "boundary" samples 64 answers to each prompt from
some arms. docs/results.md tells the outcome.
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

import numpy as np

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
        if phase != "tune":
            chosen = choose(world, known.values())
        if phase == "boundary":  # the setting of the larger budget
            chosen = {arm: chosen[arm][-1:] for arm in SAMPLED if arm in chosen}
        for seed in PHASES[phase].seeds:
            for arm, settings in chosen.items():
                for setting in settings:
                    yield {
                        "phase": phase, "world": world, "arm": arm, "setting": setting,
                        "seed": seed,
                    }  # fmt: skip


def recipe_of(cell: Cell, folder: Path) -> Any:
    """The recipe of one cell; those of one world, phase and seed share what they collect."""
    from tabom.core.configs import to_plain
    from tabom.stages.recipe import load_recipe

    phase = PHASES[cell["phase"]]
    arm: dict[str, Any] = {"name": cell["arm"]}
    if cell["setting"] is not None:
        options = dict(cell["setting"]["options"])
        if cell["setting"]["objective"] in WINDOWED:
            options["window"] = 4
        arm |= {"objective": cell["setting"]["objective"], "options": options}
        arm["training"] = {"learning_rate": cell["setting"]["lr"]}
        if cell["arm"] == "SFT-GT":
            arm["data"] = "ground_truth"
    overrides: list[Any] = [
        ("model.model_name_or_path", cell["world"]),
        ("prompts.args.num", WORLDS[cell["world"]].prompts),
        ("arms", [arm]),
        ("seeds", [cell["seed"]]),
        ("evaluation.seed", phase.eval_seed),
        ("evaluation.sets.chain.prompts.args.num", phase.num_in),
        ("evaluation.sets.chain.metrics.hops", "tabom.toyworld.diagnostics:difficulty"),
        ("output_dir", str(folder)),
    ]
    if phase.num_samples > 1:
        recipe = load_recipe("toy-study")
        (chain,) = (one for one in to_plain(recipe.evaluation)["sets"] if one["name"] == "chain")
        overrides.append(("evaluation.sets", [chain]))
        overrides += [
            ("evaluation.sets.chain.prompts.args.num", phase.num_in),
            ("evaluation.sets.chain.num_samples", phase.num_samples),
            ("evaluation.sets.chain.tokens_per_step", [1]),
            ("evaluation.sets.chain.decoding", {"temperature": 1.0}),
        ]
        return load_recipe("toy-study", overrides=[*overrides, *EXTRA])
    overrides += [(f"evaluation.sets.{s}.prompts.args.num", phase.num_out) for s in OTHER_SETS]
    return load_recipe("toy-study", overrides=[*overrides, *EXTRA])


def run_cell(cell: Cell, folder: Path) -> Cell:
    """Train and evaluate one cell, and sum it up in a line."""
    from tabom.evaluation.records import read_records
    from tabom.evaluation.results import RECORDS
    from tabom.stages.study import plan_study

    started = time.process_time()
    (run,) = plan_study(recipe := recipe_of(cell, folder)).runs
    if run.train is not None:
        plan = plan_study(recipe)
        for stage in (*plan.collect.values(), *plan.verify.values(), run.train):
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
    shutil.rmtree(run.evaluate.folder)
    if run.train is not None:
        shutil.rmtree(run.train.folder)

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


# ---- what the cells say ----


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


def choose(world: str, cells: Any) -> dict[str, list[dict[str, Any]]]:
    """Per arm the setting that is best in domain within each budget, on the tuning seeds.

    Where no setting keeps a budget, the one that forgets least.
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
        chosen[arm] = [json.loads(name) for name in names]
    return chosen


def at_budget(pairs: Sequence[tuple[float, float]], budget: float) -> float:
    """In-domain accuracy at a forgetting, on the upper frontier through the points.

    pairs: (forgetting, in-domain), the base among them at (0, its accuracy). Linear between points
    that no other one beats in both; beyond the last point its own accuracy.
    """
    best, frontier = -1.0, []
    for lost, right in sorted(pairs, key=lambda p: (p[0], -p[1])):
        if right > best:
            frontier.append((max(lost, 0.0), right))
            best = right
    lost, right = zip(*frontier, strict=True)
    return float(np.interp(budget, lost, right))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% t interval."""
    from scipy import stats

    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def report(phase: str = "confirm", path: Path = CELLS) -> dict[str, Any]:
    """Per world and budget: each arm's in-domain accuracy by seed, and its lead over SFT-SD."""
    cells = list(known_cells(path).values())
    bases = bases_of(cells)
    result: dict[str, Any] = {"cells": len(cells)}
    result["cpu_hours"] = round(sum(c["cpu_seconds"] for c in cells) / 3600, 2)
    for world in WORLDS:
        by_arm: dict[str, dict[int, list[Cell]]] = defaultdict(lambda: defaultdict(list))
        for cell in cells:
            if (cell["phase"], cell["world"]) == (phase, world) and cell["arm"] != BASE:
                by_arm[cell["arm"]][cell["seed"]].append(cell)
        for budget in BUDGETS:
            values: dict[str, dict[int, float]] = {}
            for arm, seeds in by_arm.items():
                values[arm] = {}
                for seed, own in seeds.items():
                    base = bases[phase, world, seed]
                    pairs = [(0.0, in_domain(base))]
                    pairs += [(forgetting(c, base), in_domain(c)) for c in own]
                    values[arm][seed] = at_budget(pairs, budget)
            table = {}
            for arm, own_values in values.items():
                shared = sorted(set(own_values) & set(values.get("SFT-SD", {})))
                lead = [own_values[s] - values["SFT-SD"][s] for s in shared]
                table[arm] = {
                    "seeds": len(own_values),
                    "in_domain": interval(list(own_values.values())),
                    "lead over SFT-SD": interval(lead) if lead else None,
                }
            result[f"{world}, {budget:g} points"] = table
    return result


def shown(values: Sequence[float] | None, *, signed: bool = False) -> str:
    """A mean with its interval."""
    if values is None:
        return ""
    mean, low, high = values
    form = "+.1f" if signed else ".1f"
    return f"{mean:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def tables() -> str:
    """Markdown: the frontier at each budget, what was chosen, accuracy by difficulty."""
    cells = list(known_cells().values())
    found = report("confirm")
    lines = [f"{found['cells']} cells, {found['cpu_hours']} CPU hours.", ""]
    for world in WORLDS:
        here = [c for c in cells if c["phase"] == "confirm" and c["world"] == world]
        if not here:
            continue
        names = [f"{world}, {budget:g} points" for budget in BUDGETS]
        seeds = len({c["seed"] for c in here if c["arm"] != BASE})
        base = statistics.mean(in_domain(c) for c in here if c["arm"] == BASE)
        pace = WORLDS[world].pace
        lines += [
            f"`{world}`, {pace} slot{'s' * (pace > 1)} a step, {seeds} seeds (base {base:.1f}):",
            "",
            "| arm | " + " | ".join(f"{b:g} points | lead over SFT-SD" for b in BUDGETS) + " |",
            "|---|" + "---|---|" * len(BUDGETS),
        ]
        arms = sorted(found[names[0]], key=lambda arm: -found[names[0]][arm]["in_domain"][0])
        for arm in arms:
            row = [arm]
            for name in names:
                one = found[name][arm]
                row += [shown(one["in_domain"]), shown(one["lead over SFT-SD"], signed=True)]
            lines.append("| " + " | ".join(row) + " |")
        lines += ["", *_points_table(here, world), "", *_tail_table(here, world), ""]
    return "\n".join(lines)


def _points_table(cells: Sequence[Cell], world: str) -> list[str]:
    """The chosen settings as they came out."""
    lines = [
        "| arm | setting | in-domain | forgetting | premature commits |",
        "|---|---|---|---|---|",
    ]
    for arm in ARMS:
        for setting, pairs in points(cells, "confirm", world, arm).items():
            lost, right = (interval(list(column)) for column in zip(*pairs, strict=True))
            chosen = json.loads(setting)
            options = ", ".join(f"{k} {v}" for k, v in chosen["options"].items())
            early = statistics.mean(
                c["premature"] for c in cells if c["arm"] == arm and c["setting"] == chosen
            )
            lines.append(
                f"| {arm} | lr {chosen['lr']:g}{', ' * bool(options)}{options} | {shown(right)} | "
                f"{shown(lost)} | {early:.1f} |"
            )
    return lines


def _tail_table(cells: Sequence[Cell], world: str) -> list[str]:
    """Accuracy at one slot a step by difficulty, of the base and of each arm's last setting."""
    levels = sorted(next(iter(cells))["by_hops"], key=float)
    lines = ["| arm | " + " | ".join(levels) + " |", "|---|" + "---|" * len(levels)]
    for arm in (BASE, *ARMS):
        own = [c for c in cells if c["arm"] == arm]
        last = [c for c in own if c["setting"] == own[-1]["setting"]]
        if last:
            means = [statistics.mean(c["by_hops"][level] for c in last) for level in levels]
            lines.append(f"| {arm} | " + " | ".join(f"{m:.1f}" for m in means) + " |")
    return lines


def pass_at_k(phase: str = "boundary") -> dict[str, Any]:
    """Per world and arm: pass@k, and problems that it solves where the base never does, and back.

    A problem is solved if one of all samples is right. Means over seeds.
    """
    from tabom.evaluation.stats import pass_at_k as one

    samples = PHASES[phase].num_samples
    found: dict[str, Any] = {}
    cells = [cell for cell in known_cells().values() if cell["phase"] == phase]
    bases = bases_of(cells)
    for cell in cells:
        base = np.array(bases[phase, cell["world"], cell["seed"]]["right"])
        right = np.array(cell["right"])
        row = {
            f"pass@{k}": 100 * statistics.mean(one(samples, int(r), k) for r in right)
            for k in (1, 2, 4, 8, 16, 32, 64)
        }
        row["gained"] = float(100 * ((right > 0) & (base == 0)).mean())
        row["lost"] = float(100 * ((right == 0) & (base > 0)).mean())
        found.setdefault(cell["world"], {}).setdefault(cell["arm"], []).append(row)
    return {
        world: {
            arm: {k: round(statistics.mean(r[k] for r in rows), 2) for k in rows[0]}
            | {"seeds": len(rows)}
            for arm, rows in arms.items()
        }
        for world, arms in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["run", "report", "tables"])
    parser.add_argument("--phase", choices=list(PHASES), action="append")
    parser.add_argument("--world", choices=list(WORLDS), action="append")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.verb == "tables":
        print(tables())
        return 0
    for phase in args.phase or PHASES:
        if args.verb == "run":
            run_phase(phase, args.world or list(WORLDS), workers=args.workers)
        elif phase == "boundary":
            print(json.dumps({phase: pass_at_k(phase)}, indent=2))
        else:
            print(json.dumps({phase: report(phase)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
