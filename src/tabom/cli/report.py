"""`tabom report RUN`: write summary.json and report.html of a run folder again."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom report`."""
    parser.add_argument("run_dir", help="the output folder of a `tabom run`")


def run(args: argparse.Namespace) -> int:
    """Build the report from what is on disk."""
    from tabom.cli.run import show_report
    from tabom.stages.run import report_folder

    show_report(*report_folder(args.run_dir))
    return 0
