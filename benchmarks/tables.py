"""Rewrite the tables of docs/benchmarks.md, and ratios.json, from results/*.json.

    python benchmarks/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between them is replaced.
A result that is missing leaves a line that says so.
"""

import argparse
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import HERE, RESULTS, load

PAGE = HERE.parent / "docs" / "benchmarks.md"
RATIOS = HERE / "ratios.json"
# Results that make claims.
NAMES = ("head", "head_floor", "ranking", "step", "collector", "official_schedules", "loading")
Record = Mapping[str, Any]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, without an exponent where a reader can do without."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 1 else 3 - len(str(int(abs(value))))
    return f"{value:.{digits}f}"


def spread(ratio: Mapping[str, float]) -> str:
    """Median, and the range if there is one."""
    if ratio["low"] == ratio["high"]:
        return number(ratio["median"])
    return f"{number(ratio['median'])} [{number(ratio['low'])}, {number(ratio['high'])}]"


def source(record: Record) -> str:
    """Where a table comes from."""
    machine = f"{record['hardware']['cpu']}, {record['hardware']['num_cores']} cores"
    parts = [f"`{record['command']}`", record["date"]]
    if "rounds" in record:
        parts.append(f"{record['rounds']} rounds")
    parts.append(f"one thread, {machine} (load average {record['load_average']:g})")
    parts.append(f"torch {record['versions']['torch']}, seed {record['seed']}")
    if "cpu_seconds" in record:
        parts.append(f"{record['cpu_seconds']:.0f} CPU seconds without the memory figures")
    return ", ".join(parts) + "."


# ---- claims ----


def claims_of(record: Record) -> list[dict[str, Any]]:
    """What a result claims; the collector's sections are read as claims too."""
    payload = record["results"]
    found: list[dict[str, Any]] = list(payload.get("claims", []))
    for case in _collector_cases(payload):
        words = f"{case['title']}: a run, time"
        found.append(
            {
                "name": words,
                "unit": "x less time",
                "bar": case["bar"],
                "at_most": False,
                **case["ratio"],
                "holds": case["is_met"],
            }
        )
    if "padding" in payload:
        share = payload["padding"]["all prompts by length"]
        found.append(
            {
                "name": "padded over real tokens, lengths of mean 150 and cv 0.6",
                "unit": "",
                "bar": payload["padding"]["bar"],
                "at_most": True,
                "median": share,
                "low": share,
                "high": share,
                "holds": payload["padding"]["is_met"],
            }
        )
    return found


def _collector_cases(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [case for section, case in payload.items() if section.startswith("steps ")]


def claims_table(record: Record) -> str:
    rows = [
        [
            one["name"],
            f"{'at most' if one['at_most'] else 'at least'} {one['bar']:g} {one['unit']}".strip(),
            spread(one),
            "yes" if one["holds"] else "**no**",
        ]
        for one in claims_of(record)
    ]
    return table(["what", "bar", "measured, median [range]", "holds"], rows)


# ---- one function per table ----


def head_table(record: Record) -> str:
    cases = record["results"]["cases"]
    parts = [claims_table(record)]
    variants = list(next(iter(cases.values()))["seconds"])
    rows, space = [], []
    for name, case in cases.items():
        times = {v: statistics.median(case["seconds"][v]) for v in variants}
        rows.append([name, *(number(times[v]) for v in variants)])
        if case["peak_bytes"]:
            space.append([name, *(number(case["peak_bytes"][v] / 1e6) for v in variants)])
    parts.append("CPU seconds, forward and backward, median:")
    parts.append(table(["case", *variants], rows))
    if space:
        parts += ["Extra peak memory, MB, one process each:", table(["case", *variants], space)]
    off = [
        f"{v} {difference['hidden gradient']['rel']:.1e}" for v, difference in _worst(cases).items()
    ]
    parts.append(
        "Largest error of the hidden gradient against float64, over its largest entry: "
        + ", ".join(off)
        + "."
    )
    for variant, why in record["results"]["missing"].items():
        parts.append(f"{variant}: {why}.")
    return "\n\n".join(parts)


def _worst(cases: Mapping[str, Any]) -> dict[str, Any]:
    worst: dict[str, Any] = {}
    for case in cases.values():
        for variant, found in case["differences_from_float64"].items():
            old = worst.get(variant)
            if old is None or found["hidden gradient"]["rel"] > old["hidden gradient"]["rel"]:
                worst[variant] = found
    return worst


def ranking_table(record: Record) -> str:
    rows = []
    for name, case in record["results"]["cases"].items():
        rows.append(
            [
                name,
                *(
                    number(1e6 * statistics.median(case["seconds"][way]))
                    for way in ("ours", "loop over responses", "loop over pairs")
                ),
            ]
        )
    header = ["responses", "ours, us", "loop over responses, us", "loop over pairs, us"]
    return "\n\n".join([claims_table(record), table(header, rows)])


def step_table(record: Record) -> str:
    rows, parts = [], [claims_table(record)]
    for name, case in record["results"]["cases"].items():
        bound, times = case["bound"], case["seconds"]
        memory = case.get("peak_bytes")
        rows.append(
            [
                name,
                *(number(statistics.median(times[way])) for way in ("usual", "ours", "body alone")),
                spread(bound["measured"]),
                number(bound["usual over body alone"]),
                f"{number(memory['usual'] / 1e6)} / {number(memory['ours'] / 1e6)}"
                if memory
                else "not measured",
            ]
        )
    header = [
        "case",
        "usual, s",
        "ours, s",
        "body alone, s",
        "usual / body alone",
        "the same by FLOPs",
        "peak MB, usual / ours",
    ]
    return "\n\n".join([*parts, table(header, rows)])


def loading_table(record: Record) -> str:
    payload = record["results"]
    rows = [
        [name, number(payload["per_second"][name]), number(value)]
        for name, value in payload["milliseconds_per_response"].items()
    ]
    step = number(payload["training_step_milliseconds_per_response"])
    return "\n\n".join(
        [
            claims_table(record),
            table(["stage", "responses per CPU second", "ms per response"], rows),
            f"{payload['num_trajectories']:,} responses of {payload['num_slots']} slots. A "
            f"training step of the 1:12 network takes {step} ms per response here.",
        ]
    )


def scaling_table(record: Record) -> str:
    rows = []
    for curve in record["results"]["curves"]:
        is_time = curve["unit"] == "seconds"
        values = [v if is_time else v / 1e6 for v in curve["y"]]
        bends = curve["bends_at"]
        rows.append(
            [
                curve["what"] + (", s" if is_time else ", MB"),
                ", ".join(f"{x:g}: {number(y)}" for x, y in zip(curve["x"], values, strict=True)),
                f"{curve['r2']:.3f}",
                "straight" if bends is None else f"at {bends:g}",
            ]
        )
    return table(["curve", "size: cost", "R2 of a line", "bends"], rows)


def collector_table(record: Record) -> str:
    payload, parts = record["results"], [claims_table(record)]
    cases = _collector_cases(payload)
    if cases:
        rows = [[case["title"], spread(case["bound, the layers alone"])] for case in cases]
        parts.append("The usual run over one that asks the layers alone:")
        parts.append(table(["case", "bound"], rows))
    if "memory" in payload:
        rows = [
            [f"{row['batch']} x {row['slots']}"]
            + [
                number(row[key]) if key in row else "not measured"
                for key in ("usual MiB", "ours MiB", "body MiB")
            ]
            for row in payload["memory"]["steps"]
        ]
        header = ["batch x slots", "usual, MiB", "ours, MiB", "layers alone, MiB"]
        words = f"Extra peak memory of the first step, V={payload['memory']['vocabulary']}:"
        parts += [words, table(header, rows)]
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[Record], str]] = {
    "head": head_table,
    "head_floor": claims_table,
    "official_schedules": claims_table,
    "ranking": ranking_table,
    "step": step_table,
    "collector": collector_table,
    "scaling": scaling_table,
    "loading": loading_table,
}


# ---- files ----


def render(name: str, *, folder: Path) -> str:
    """The text between the markers of one table."""
    record = load(name, folder=folder)
    if record is None:
        return f"Not measured yet: there is no `benchmarks/results/{name}.json`."
    return f"{TABLES[name](record)}\n\n{source(record)}"


def rewrite(page: str, *, folder: Path = RESULTS) -> str:
    """The page with every table made anew; raises ValueError for a table that is not known."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n\n{render(name, folder=folder)}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w-]+) -->.*?<!-- end -->", replace, page, flags=re.DOTALL)


def collect_ratios(*, folder: Path = RESULTS) -> dict[str, dict[str, float]]:
    """Every claimed ratio: "<result>: <claim>" -> bar, median, low, high."""
    found = {}
    for name in NAMES:
        record = load(name, folder=folder)
        for one in claims_of(record) if record else []:
            keys = ("bar", "median", "low", "high")
            found[f"{name}: {one['name']}"] = {key: one[key] for key in keys}
    return found


def write_ratios(changes: Mapping[str, Any], *, path: Path = RATIOS) -> None:
    """Replace parts ("full", "quick") of ratios.json."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**old, **changes}, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--ratios", type=Path, default=RATIOS)
    args = parser.parse_args(argv)
    page = args.page.read_text(encoding="utf-8")
    args.page.write_text(rewrite(page, folder=args.results), encoding="utf-8")
    write_ratios({"full": collect_ratios(folder=args.results)}, path=args.ratios)
    print(f"wrote {args.page.name} and {args.ratios.name}")


if __name__ == "__main__":
    main()
