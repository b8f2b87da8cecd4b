"""`tabom compare RUN...`: what changed, how sure that is, and whether it was measured alike."""

import argparse
import shlex
import sys
from pathlib import Path

from tabom.cli import flags

_RUNS = (
    "output folders of `tabom run` or `tabom evaluate`, or NAME=FOLDER; several folders of one "
    "name are seeds of one arm"
)
_IN_DOMAIN = "sets that are in domain, the others are not (default: as recorded)"
_OUTPUT = "for compare.md, .csv, .json and .html (default: a folder compare in the first)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom compare`."""
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help=_RUNS)
    add("--base", metavar="ARM", help="what to compare with (default: the untrained or first arm)")
    add("--in_domain", nargs="+", default=[], metavar="SET", help=_IN_DOMAIN)
    add("--k", nargs="+", type=int, metavar="K", help="of pass@k (default: powers of two)")
    add("--level", type=float, default=0.95, help="of the intervals (default: 0.95)")
    add("--output_dir", metavar="DIR", help=_OUTPUT)


def run(args: argparse.Namespace) -> int:
    """Print the tables and write them."""
    from tabom.core import env
    from tabom.core.atomic import write_json, write_text
    from tabom.core.errors import ConfigError
    from tabom.report import contents, words
    from tabom.report.build import build_report
    from tabom.report.data import Report
    from tabom.report.tables import show
    from tabom.stages.runs import compare_folders, named_folder
    from tabom.stages.summary import now

    if not 0 < args.level < 1:
        raise ConfigError(f"--level must be between 0 and 1, got {args.level}")
    comparison = compare_folders(
        args.runs,
        base=args.base,
        in_domain=flags.words(args.in_domain),
        ks=args.k,
        level=args.level,
    )
    keys, names = contents.paper_keys(comparison), comparison.arms
    report = Report(
        name=" against ".join(names) if len(names) <= 3 else f"{len(names)} arms compared",
        comparison=comparison,
        columns=keys,
        created=now(),
        command=shlex.join(["tabom", *sys.argv[1:]]),
        versions=env.versions(),
    )
    tables = [contents.arms_table(report, keys, title="Accuracy", has_seeds=True)]
    tables += contents.comparison_tables(report)
    says = [*words.alarms(report), words.headline(report)]
    folder = Path(args.output_dir or named_folder(args.runs[0])[1] / "compare")
    text = "\n".join(
        [*(f"{line}\n" for line in says if line), *(t.markdown() for t in tables if t)]
    )
    write_text(folder / "compare.md", f"# {' and '.join(args.runs)}\n\n{text}")
    write_text(folder / "compare.csv", contents.estimates_csv(comparison))
    write_json(folder / "compare.json", comparison)
    build_report(report, path=folder / "compare.html")
    show(*says, *tables)
    for line in words.warnings(comparison):
        print(f"warning: {line}", file=sys.stderr)
    print(f"output: {folder}")
    return 0
