"""`tabom recipes ls | show NAME | cp NAME [DEST]`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom recipes`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("ls", help="list the recipes of the package")
    show = actions.add_parser("show", help="print one")
    show.add_argument("name", metavar="NAME", help="one that `ls` lists")
    copy = actions.add_parser("cp", help="copy one, to edit it")
    copy.add_argument("name", metavar="NAME", help="one that `ls` lists")
    copy.add_argument("destination", nargs="?", help="a file or a folder (default: here)")


def run(args: argparse.Namespace) -> int:
    """List, show or copy."""
    from tabom.core.atomic import write_text
    from tabom.core.errors import ConfigError
    from tabom.stages.recipe import recipe_names, recipe_path

    if args.action == "ls":
        names = recipe_names()
        width = max(map(len, names))
        for name in names:
            print(f"{name:<{width}}  {recipe_path(name).read_text().splitlines()[0].lstrip('# ')}")
        return 0
    text = recipe_path(args.name).read_text(encoding="utf-8")
    if args.action == "show":
        print(text, end="")
        return 0
    target = Path(args.destination or ".")
    if target.is_dir():
        target = target / f"{args.name}.yaml"
    if target.exists():
        raise ConfigError(f"{target} exists; name another destination")
    write_text(target, text)
    print(target)
    return 0
