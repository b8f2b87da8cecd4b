"""`tabom compare RUN...`: what changed, how sure that is, and whether it was measured alike."""

import argparse
import shlex
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output folders of `tabom run` or `tabom evaluate`, or NAME=FOLDER; several folders "
        "of one name are seeds of one arm",
    )
    parser.add_argument(
        "--base", metavar="ARM", help="the arm to compare with (default: the untrained or first)"
    )
    parser.add_argument(
        "--in_domain",
        "--in-domain",
        nargs="+",
        default=[],
        metavar="SET",
        help="sets that are in domain, the others are not (default: as recorded)",
    )
    parser.add_argument(
        "--k", nargs="+", type=int, metavar="K", help="of pass@k (default: powers of two)"
    )
    parser.add_argument(
        "--level", type=float, default=0.95, help="of the intervals (default: 0.95)"
    )
    parser.add_argument(
        "--output_dir",
        "--output-dir",
        metavar="DIR",
        help="where to write compare.md, .csv and .html (default: a folder compare in the first)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables and write them."""
    from tabom.core.atomic import write_text
    from tabom.core.errors import ConfigError
    from tabom.evaluation.table import to_csv
    from tabom.pipeline import compare_text
    from tabom.pipeline.compare import compare_runs, default_folder, report_summary
    from tabom.report.build import build_report
    from tabom.report.data import clean

    if not 0 < args.level < 1:
        raise ConfigError(f"--level must be between 0 and 1, got {args.level}")
    comparison = compare_runs(
        args.runs,
        base=args.base,
        in_domain=[name for text in args.in_domain for name in text.split(",") if name],
        ks=args.k,
        level=args.level,
    )
    folder = Path(args.output_dir) if args.output_dir else default_folder(args.runs)
    text = compare_text.to_text(comparison)
    write_text(folder / "compare.md", f"# {' and '.join(args.runs)}\n\n{text}")
    write_text(folder / "compare.csv", to_csv(comparison.rows))
    write_text(folder / "compare_details.csv", compare_text.to_rows(comparison))
    names = [row.arm for row in comparison.rows]
    summary = report_summary(
        comparison,
        name=" against ".join(names) if len(names) <= 3 else f"{len(names)} arms compared",
        command=shlex.join(["tabom", *sys.argv[1:]]),
    )
    build_report(clean(summary), path=folder / "compare.html")
    print(text)
    for line in compare_text.warnings(comparison):
        print(f"warning: {line}", file=sys.stderr)
    print(f"output: {folder}")
    return 0
