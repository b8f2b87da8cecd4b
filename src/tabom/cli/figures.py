"""`tabom figures RUN`: figures as SVG and PDF, tables as CSV and LaTeX."""

import argparse

from tabom.cli.flags import add_common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom figures`."""
    parser.add_argument("run_dir", help="the output folder of a finished `tabom run`")
    parser.add_argument("--output_dir", help="where they go (default: figures in RUN)")
    add_common(parser, "--storage_options")
    parser.add_argument(
        "--format",
        action="append",
        help="svg, pdf, csv or tex alone (repeatable; default: all; pdf needs tabom[figures])",
    )


def run(args: argparse.Namespace) -> int:
    """Write them, and print where they are."""
    from tabom.core.place import place
    from tabom.report.export import FORMATS, export
    from tabom.stages.run import report_folder

    report, page = report_folder(args.run_dir, storage_options=args.storage_options)
    folder = place(args.output_dir or page.parent / "figures", args.storage_options)
    for path in export(report, folder, formats=args.format or FORMATS):
        print(path)
    return 0
