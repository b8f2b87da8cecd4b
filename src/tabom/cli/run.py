"""`tabom run RECIPE`: the whole path of the data."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tabom.cli.flags import add_common, add_section, command, overrides_of
from tabom.cli.sections import SHARD, shard_of
from tabom.stages.launch import job_script
from tabom.stages.launch_config import LaunchConfig

if TYPE_CHECKING:
    from tabom.report.data import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom run`."""
    add_common(
        parser, "recipe", "--set", "--output_dir", "--storage_options", "--overwrite", "--quiet"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="the recipe's if left")
    parser.add_argument("--num_workers", type=int, help="stages side by side, a process each")
    parser.add_argument("--shard", metavar="K/N", help=SHARD)
    add_section(parser, LaunchConfig, "launch")
    parser.add_argument(
        "--plan", action="store_true", help="list the stages and what is complete, then stop"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, and report."""
    from tabom.stages.preflight import preflight
    from tabom.stages.recipe import load_recipe
    from tabom.stages.run import run_recipe
    from tabom.stages.study import pending_stages, plan_study

    flagged = {
        "output_dir": args.output_dir,
        "storage_options": args.storage_options,
        "seeds": args.seeds,
        "study.num_workers": args.num_workers,
    }
    given = [(key, value) for key, value in flagged.items() if value is not None]
    recipe = load_recipe(args.recipe, overrides=[*overrides_of(args), *given])
    if recipe.launch.launcher == "slurm":
        print(job_script(args.arguments, recipe.launch))
        return 0
    if args.plan:
        plan = plan_study(recipe)
        todo = pending_stages(plan)
        for stage in plan.stages:
            state = "to do" if stage in todo else "complete"
            print(f"{state:<9} {stage.label:<34} {stage.folder}")
        preflight(todo)  # after the list, which says where a problem lies
        return 0
    report, page = run_recipe(
        recipe,
        command=command(),
        share=shard_of(args.shard),
        is_quiet=args.quiet,
        overwrite=args.overwrite,
    )
    show_report(report, page)
    return 0


def show_report(report: "Report", page: Path) -> None:
    """Print what was found, the table of the arms, and where the page is."""
    from tabom.report.contents import arms_table
    from tabom.report.tables import show
    from tabom.report.words import alarms, facts, headline

    show(
        f"{report.name}: {', '.join(facts(report).values())}",
        *alarms(report),
        headline(report),
        arms_table(report, report.columns),
    )
    print(f"\nreport: {page}")
