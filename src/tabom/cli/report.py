"""`tabom report RUN`: write summary.json and report.html of a run folder again."""

import argparse

from tabom.cli.flags import add_common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom report`."""
    parser.add_argument("run_dir", help="the output folder of a `tabom run`")
    add_common(parser, "--storage_options")


def run(args: argparse.Namespace) -> int:
    """Build the report from what is on disk."""
    from tabom.cli.run import show_report
    from tabom.stages.run import report_folder

    show_report(*report_folder(args.run_dir, storage_options=args.storage_options))
    return 0
