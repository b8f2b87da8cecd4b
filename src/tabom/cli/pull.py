"""`tabom pull REPO FOLDER`: an adapter, a model or a collection from the Hugging Face hub."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom pull`."""
    parser.add_argument("repo_id", help="NAME/REPO on the hub")
    parser.add_argument("folder", help="where it goes; not there yet, or empty")
    parser.add_argument("--dataset", action="store_true", help="it is a collection")
    parser.add_argument("--revision", help="a branch, tag or commit")


def run(args: argparse.Namespace) -> int:
    """Get it, and say where it is."""
    from tabom.stages.hub import pull

    repo_type = "dataset" if args.dataset else "model"
    print(pull(args.repo_id, Path(args.folder), repo_type=repo_type, revision=args.revision))
    return 0
