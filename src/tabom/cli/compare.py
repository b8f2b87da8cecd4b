"""`tabom compare RUN...`: what changed, how sure that is, and whether it was measured alike."""

import argparse
import sys
from dataclasses import dataclass
from typing import Annotated

from tabom.cli import flags
from tabom.core.configs import Bound, Count, Settings


@dataclass(frozen=True, kw_only=True)
class Compare(Settings):
    """How runs are compared."""

    base: str | None = None
    """The arm to compare with; left out: the untrained or the first."""
    in_domain: tuple[str, ...] = ()
    """Sets that are in domain, the others are not; left out: as recorded."""
    k: tuple[Count, ...] | None = None
    """Of pass@k; left out: powers of two."""
    level: Annotated[float, Bound(">", 0), Bound("<", 1)] = 0.95
    """Of the intervals."""
    output_dir: str | None = None
    """For compare.md, .csv, .json and .html; left out: a folder compare in the first run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom compare`."""
    runs = "NAME=FOLDER or FOLDER of a `tabom run` or `tabom evaluate`; one name: seeds of one arm"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    flags.add_section(parser, Compare, "compare")
    flags.add_common(parser, "--storage_options")


def run(args: argparse.Namespace) -> int:
    """Print the tables and write them."""
    from tabom.core import env
    from tabom.core.atomic import write_json, write_text
    from tabom.core.place import place
    from tabom.report import contents, words
    from tabom.report.build import build_report
    from tabom.report.data import Report
    from tabom.report.tables import show
    from tabom.stages.runs import compare_folders, named_folder
    from tabom.stages.summary import now

    given = flags.build(Compare, args, "compare")
    comparison = compare_folders(
        args.runs,
        base=given.base,
        in_domain=flags.words(given.in_domain),
        ks=given.k,
        level=given.level,
        storage_options=args.storage_options,
    )
    keys, names = contents.paper_keys(comparison), comparison.arms
    report = Report(
        name=" against ".join(names) if len(names) <= 3 else f"{len(names)} arms compared",
        comparison=comparison,
        columns=keys,
        created=now(),
        command=flags.command(),
        versions=env.versions(),
    )
    tables = [contents.arms_table(report, keys, title="Accuracy", has_seeds=True)]
    tables += contents.comparison_tables(report)
    says = [*words.alarms(report), words.headline(report)]
    options = args.storage_options
    folder = place(given.output_dir or named_folder(args.runs[0], options)[1] / "compare", options)
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
