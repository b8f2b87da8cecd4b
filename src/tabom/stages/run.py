"""Run a recipe from end to end, or report on what a run left."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tabom.core import configs
from tabom.core.atomic import only_one, write_json, write_text
from tabom.core.errors import StageError
from tabom.core.manifest import write_sealed
from tabom.core.place import place
from tabom.core.plain import fingerprint
from tabom.report.build import build_report
from tabom.report.data import Report
from tabom.stages.held_out import check_held_out
from tabom.stages.pool import run_stages
from tabom.stages.preflight import preflight
from tabom.stages.recipe import Recipe
from tabom.stages.runs import HELD_OUT, RECIPE, read_held_out
from tabom.stages.study import Plan, pending_stages, plan_study
from tabom.stages.summary import summarize_study

SUMMARY = "summary.json"
REPORT = "report.html"


def run_recipe(
    recipe: Recipe,
    *,
    command: str,
    is_quiet: bool = False,
    overwrite: bool = False,
    share: tuple[int, int] = (0, 1),
) -> tuple[Report, Path]:
    """Run every stage that is not complete, then write the summary and the report.

    share: (K, N), this is process K of N that run the recipe together.
    Returns: the report, and the path of its page.
    Raises: TabomError of the first stage that cannot go on; what was complete stays. DataError
        before anything starts if `evaluation.held_out_check` is error and a prompt is not held out.
    """
    root = recipe.root
    plan = plan_study(recipe)
    # Another recipe's results are refused before all else.
    preflight(plan.stages if overwrite else pending_stages(plan))
    found = check_held_out(recipe, known=read_held_out(root))
    if not is_quiet and any(s["num_exact"] + s["num_near"] for s in found["sets"]):
        print("\n".join(found["notes"]), file=sys.stderr)
    with only_one(root, is_shared=share[1] > 1):  # before anything there is removed or written
        if overwrite:
            for stage in plan.stages:
                stage.make_way()
        todo = pending_stages(plan, overwrite=overwrite)
        if not is_quiet and len(todo) < len(plan.stages):
            print(f"{len(plan.stages) - len(todo)} of {len(plan.stages)} stages are complete")
        settings = yaml.safe_dump(recipe.public(), sort_keys=False, allow_unicode=True)
        # Written before the first stage, so that a run that fails can be looked into and go on.
        write_text(root / RECIPE, settings)
        write_sealed(root / HELD_OUT, {**found, "recipe": fingerprint(settings)})
        run_stages(
            todo,
            study=recipe.study,
            launch=recipe.launch,
            is_quiet=is_quiet,
            overwrite=overwrite,
            share=share,
        )
        return _report(recipe, plan, command)


def report_folder(
    folder: str | Path, *, storage_options: Mapping[str, Any] | None = None
) -> tuple[Report, Path]:
    """Write the summary and the report of a finished run again. folder: see `core.place.place`."""
    folder = place(folder, storage_options)
    if not (folder / RECIPE).is_file():
        raise StageError(f"{folder}: no {RECIPE} there; give the output folder of `tabom run`")
    written = read_held_out(folder).get("recipe")
    if written not in (None, fingerprint((folder / RECIPE).read_text("utf-8", "replace"))):
        print(f"{folder / RECIPE}: changed since the run; the report goes by it", file=sys.stderr)
    given = {"output_dir": str(folder), "storage_options": storage_options or {}}
    recipe = configs.build(
        Recipe,
        {**configs.load_yaml(folder / RECIPE), **given},
        source=lambda key: str(folder / RECIPE),
    )
    plan = plan_study(recipe)
    missing = [stage.label for stage in plan.stages if not stage.is_complete()]
    if missing:
        raise StageError(
            f"{folder}: {len(missing)} stages are not complete (first: {missing[0]}); "
            f"finish the run first: tabom run {folder / RECIPE}"
        )
    # What makes the same results again; the page is only written anew.
    return _report(recipe, plan, f"tabom run {folder / RECIPE}")


def _report(recipe: Recipe, plan: Plan, command: str) -> tuple[Report, Path]:
    root = recipe.root
    report = summarize_study(recipe, plan, command=command, held_out=read_held_out(root))
    write_json(root / SUMMARY, report.to_json())
    return report, build_report(report, path=root / REPORT)
