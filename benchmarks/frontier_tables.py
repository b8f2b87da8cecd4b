"""What the cells of `frontier.py` say, as docs/results.md has it.

    python benchmarks/frontier_tables.py            # Markdown
    python benchmarks/frontier_tables.py --json     # every pair of arms, every interval
    python benchmarks/frontier_tables.py --within   # without the settings beyond the larger budget

An arm's number is its in-domain accuracy at a budget of forgetting, read off its frontier under
each seed; intervals are Student's t over seeds, of differences within a seed.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import frontier
from frontier import (
    BASE,
    BUDGETS,
    CELLS,
    PIECES,
    Cell,
    bases_of,
    choose,
    forgetting,
    in_domain,
    known_cells,
    points,
)

Estimate = tuple[float, float, float]  # mean, and the ends of its 95% interval
REFERENCE = "SFT-SD"


def interval(values: Sequence[float]) -> Estimate:
    """Mean and 95% t interval; NaN for the ends of a single value."""
    from scipy import stats

    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def at_budget(pairs: Sequence[tuple[float, float]], budget: float) -> float:
    """In-domain accuracy at a forgetting, on the upper frontier through the points.

    pairs: (forgetting, in-domain), the base among them at (0, its accuracy). Linear between points
    that no other one beats in both; beyond the last point its own accuracy.
    """
    best, upper = -1.0, []
    for lost, right in sorted(pairs, key=lambda p: (p[0], -p[1])):
        if right > best:
            upper.append((max(lost, 0.0), right))
            best = right
    lost, right = zip(*upper, strict=True)
    return float(np.interp(budget, lost, right))


def by_seed(cells: Sequence[Cell], world: str, budget: float) -> dict[str, dict[int, float]]:
    """Of each confirmed arm and seed, the in-domain accuracy at a budget."""
    bases = bases_of(cells)
    own: dict[str, dict[int, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if (cell["phase"], cell["world"]) == ("confirm", world) and cell["arm"] != BASE:
            own[cell["arm"]][cell["seed"]].append(cell)
    values: dict[str, dict[int, float]] = {}
    for arm, seeds in own.items():
        values[arm] = {}
        for seed, confirmed in seeds.items():
            base = bases["confirm", world, seed]
            pairs = [(0.0, in_domain(base))]
            pairs += [(forgetting(cell, base), in_domain(cell)) for cell in confirmed]
            values[arm][seed] = at_budget(pairs, budget)
    return values


def lead(values: Mapping[str, Mapping[int, float]], arm: str, over: str) -> Estimate | None:
    """Mean difference within a seed of two arms; None where they share no seed."""
    shared = sorted(set(values.get(arm, {})) & set(values.get(over, {})))
    return interval([values[arm][s] - values[over][s] for s in shared]) if shared else None


def report(path: Path = CELLS, *, within: bool = False) -> dict[str, Any]:
    """Per world and budget: each arm's in-domain accuracy, and its lead over every other arm.

    within: leave out the confirmed settings that were chosen beyond the larger budget.
    """
    cells = list(known_cells(path).values())
    if within:
        chosen = {world: choose(world, cells) for world in frontier.WORLDS}
        cells = [
            c for c in cells
            if c["phase"] != "confirm" or c["arm"] == BASE
            or c["setting"] in chosen[c["world"]].get(c["arm"], [])
        ]  # fmt: skip
    result: dict[str, Any] = {
        "cells": len(cells),
        "cpu_hours": round(sum(cell["cpu_seconds"] for cell in cells) / 3600, 2),
    }
    for world in frontier.WORLDS:
        for budget in BUDGETS:
            values = by_seed(cells, world, budget)
            result[f"{world}, {budget:g} points"] = {
                arm: {
                    "seeds": len(own),
                    "in_domain": interval(list(own.values())),
                    "lead": {over: lead(values, arm, over) for over in values if over != arm},
                }
                for arm, own in values.items()
            }
    result["holds"] = holds(result)
    return result


def holds(result: Mapping[str, Any]) -> dict[str, str]:
    """Whether an arm is nowhere below SFT-SD and above it somewhere, by the 95% intervals.

    At both budgets of every world that is confirmed. "below": in mean, whatever the interval says.
    """
    leads: dict[str, list[Estimate]] = defaultdict(list)
    for name, table in result.items():
        if name.endswith("points"):
            for arm, row in table.items():
                if one := row["lead"].get(REFERENCE):
                    leads[arm].append(one)
    said = {}
    for arm, estimates in leads.items():
        if any(high < 0 for _, _, high in estimates):
            said[arm] = "below SFT-SD somewhere"
        elif any(mean < 0 for mean, _, _ in estimates):
            said[arm] = "below SFT-SD somewhere, within the interval"
        elif any(low > 0 for _, low, _ in estimates):
            said[arm] = "holds"
        else:
            said[arm] = "level with SFT-SD"
    return said


def pass_at_k(path: Path = CELLS) -> dict[str, Any]:
    """Per world and arm: pass@k, and problems that it solves where the base never does, and back.

    A problem is solved if one of all samples is right. Estimates over seeds.
    """
    from tabom.evaluation.stats import pass_at_k as one

    samples = frontier.PHASES["boundary"].num_samples
    cells = [cell for cell in known_cells(path).values() if cell["phase"] == "boundary"]
    bases = bases_of(cells)
    found: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        base = np.array(bases["boundary", cell["world"], cell["seed"]]["right"])
        right = np.array(cell["right"])
        row = {
            f"pass@{k}": 100 * statistics.mean(one(samples, int(r), k) for r in right)
            for k in (1, 2, 4, 8, 16, 32, 64)
        }
        row["gained"] = float(100 * ((right > 0) & (base == 0)).mean())
        row["lost"] = float(100 * ((right == 0) & (base > 0)).mean())
        found[cell["world"]][cell["arm"]].append(row)
    return {
        world: {
            arm: {name: interval([row[name] for row in rows]) for name in rows[0]}
            | {"seeds": len(rows)}
            for arm, rows in arms.items()
        }
        for world, arms in found.items()
    }


# ---- Markdown ----


def shown(values: Estimate | None, *, signed: bool = False) -> str:
    """A mean with its interval."""
    if values is None:
        return ""
    mean, low, high = values
    form = "+.1f" if signed else ".1f"
    return f"{mean:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table and the blank line behind it."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["|" + "|".join(f" {cell} " for cell in line) + "|" for line in lines] + [""]


def described(setting: Mapping[str, Any]) -> str:
    """A setting of one arm, short."""
    options = "".join(f", {name} {value}" for name, value in setting["options"].items())
    return f"lr {setting['lr']:g}{options}"


def budgets_table(found: Mapping[str, Any], world: str) -> list[str]:
    """In-domain accuracy at each budget, and the lead over SFT-SD."""
    names = [f"{world}, {budget:g} points" for budget in BUDGETS]
    arms = sorted(found[names[0]], key=lambda arm: -found[names[0]][arm]["in_domain"][0])
    rows = []
    for arm in arms:
        row = [arm, str(found[names[0]][arm]["seeds"])]
        for name in names:
            one = found[name][arm]
            row += [shown(one["in_domain"]), shown(one["lead"].get(REFERENCE), signed=True)]
        rows.append(row)
    heads = [head for b in BUDGETS for head in (f"{b:g} points", f"lead over {REFERENCE}")]
    return table(["arm", "seeds", *heads], rows)


def settings_table(cells: Sequence[Cell], world: str) -> list[str]:
    """The confirmed settings as they came out."""
    rows = []
    for arm in frontier.ARMS:
        for name, pairs in points(cells, "confirm", world, arm).items():
            setting = json.loads(name)
            lost, right = (interval(list(column)) for column in zip(*pairs, strict=True))
            own = [c for c in cells if c["arm"] == arm and c["setting"] == setting]
            two = interval([c["accuracy"]["chain@2"] for c in own])
            early = statistics.mean(c["premature"] for c in own)
            row = [arm, described(setting), shown(right), shown(lost), shown(two), f"{early:.1f}"]
            rows.append(row)
    heads = ["arm", "setting", "in-domain", "forgetting", "2 slots a step", "premature commits"]
    return table(heads, rows)


def tail_table(cells: Sequence[Cell], chosen: Mapping[str, Any]) -> list[str]:
    """Accuracy at one slot a step by difficulty: the base, each arm as chosen for 10 points."""
    levels = sorted(cells[0]["by_hops"], key=float)
    rows = []
    for arm in (BASE, *frontier.ARMS):
        own = [c for c in cells if c["arm"] == arm]
        own = [c for c in own if arm == BASE or c["setting"] == chosen[arm][-1]]
        if own:
            means = [statistics.mean(c["by_hops"][level] for c in own) for level in levels]
            rows.append([arm, *(f"{mean:.1f}" for mean in means)])
    return table(["arm", *(f"{level} hops" for level in levels)], rows)


def pieces_table(cells: Sequence[Cell], arm: str) -> list[str]:
    """What each change does to an arm, as differences within a seed from the arm as chosen."""
    bases = bases_of(cells)
    measures: dict[str, Callable[[Cell], float]] = {
        "in-domain": in_domain,
        "2 slots a step": lambda cell: float(cell["accuracy"]["chain@2"]),
        "forgetting": lambda cell: forgetting(
            cell, bases[cell["phase"], cell["world"], cell["seed"]]
        ),
        "premature commits": lambda cell: float(cell["premature"]),
    }
    own = {(c["arm"], c["seed"]): c for c in cells}
    plain = {seed: cell for (name, seed), cell in own.items() if name == f"{arm}, as chosen"}
    rows = []
    for change in PIECES[arm]:
        pairs = [
            (own[f"{arm}, {change}", seed], cell)
            for seed, cell in plain.items()
            if (f"{arm}, {change}", seed) in own
        ]
        if not pairs:
            continue
        if change == "as chosen":
            row = [shown(interval([measure(a) for a, _ in pairs])) for measure in measures.values()]
        else:
            row = [
                shown(interval([measure(a) - measure(b) for a, b in pairs]), signed=True)
                for measure in measures.values()
            ]
        rows.append([change, *row])
    return table([arm, *measures], rows)


def markdown() -> str:
    """Every table of docs/results.md that comes from cells."""
    cells = list(known_cells().values())
    found = report()
    lines = [f"{found['cells']} cells, {found['cpu_hours']} CPU hours.", ""]
    for world, of_world in frontier.WORLDS.items():
        here = [c for c in cells if c["phase"] == "confirm" and c["world"] == world]
        if not any(c["arm"] != BASE for c in here):
            continue
        base = statistics.mean(in_domain(c) for c in here if c["arm"] == BASE)
        pace = f"{of_world.pace} slot{'s' * (of_world.pace > 1)} a step"
        lines += [f"`{world}`, {pace} (base {base:.1f}):", ""]
        lines += budgets_table(found, world)
        lines += settings_table(here, world)
        lines += tail_table(here, choose(world, cells))
        pieces = [c for c in cells if c["phase"] == "pieces" and c["world"] == world]
        for arm in PIECES:
            if any(c["arm"].startswith(f"{arm}, ") for c in pieces):
                lines += pieces_table(pieces, arm)
    lines += table(["arm", "against SFT-SD"], [list(pair) for pair in found["holds"].items()])
    for world, arms in pass_at_k().items():
        names = [name for name in next(iter(arms.values())) if name != "seeds"]
        seeds = next(iter(arms.values()))["seeds"]
        lines += [
            f"`{world}`, {frontier.PHASES['boundary'].num_samples} samples, {seeds} seeds:",
            "",
        ]
        rows = [[arm, *(shown(row[name]) for name in names)] for arm, row in arms.items()]
        lines += table(["arm", *names], rows)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--within", action="store_true")
    args = parser.parse_args()
    if args.json:
        print(json.dumps({**report(), "pass@k": pass_at_k()}, indent=2))
    elif args.within:
        found = report(within=True)
        print("\n".join(line for world in frontier.WORLDS for line in budgets_table(found, world)))
    else:
        print(markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
