"""`tabom push FOLDER REPO`: an adapter, a model or a collection to the Hugging Face hub."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom push`."""
    parser.add_argument("folder", help="of `tabom train`, `tabom merge` or `tabom collect`")
    parser.add_argument("repo_id", help="NAME/REPO on the hub")
    parser.add_argument("--base_model", help="the base's id there, where it was a local folder")
    parser.add_argument("--license", help="for the card, such as apache-2.0")
    parser.add_argument(
        "--results", action="append", default=[], help="a `tabom evaluate` folder (repeatable)"
    )
    parser.add_argument("--verdicts", help="what `tabom verify` wrote of a collection")
    parser.add_argument("--public", action="store_true", help="a repository that is made is public")
    parser.add_argument("--dry_run", action="store_true", help="show what would go, send nothing")


def run(args: argparse.Namespace) -> int:
    """Show the files; send them unless it is a dry run."""
    from tabom.stages.hub import prepared, push

    with prepared(
        Path(args.folder),
        base_model=args.base_model,
        license=args.license,
        results=args.results,
        verdicts=Path(args.verdicts) if args.verdicts else None,
    ) as publication:
        for name, path in publication.files.items():
            print(f"{path.stat().st_size:>14,}  {name}")
        print(f"{publication.num_bytes:>14,}  bytes as {publication.repo_type} {args.repo_id}")
        if args.dry_run:
            print("\n" + publication.files["README.md"].read_text())
            return 0
        print(push(publication, args.repo_id, private=not args.public))
    return 0
