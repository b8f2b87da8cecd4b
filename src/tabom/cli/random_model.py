"""`tabom random-model FOLDER --family dream ...`: a tiny random checkpoint in a family's layout."""

import argparse
from pathlib import Path

from tabom.cli import flags
from tabom.models.config import RandomSizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom random-model`."""
    add = parser.add_argument
    add("folder", help="where to write it (must be new or empty)")
    add("--family", required=True, help="toy, dream, llada or sdar")
    add("--tokenizer", help="folder with the tokenizer's files; left out: a model without one")
    add("--mask_token_id", type=int, help="the mask, where the tokenizer does not name one")
    add("--seed", type=int, default=0, help="key of the random weights (default: 0)")
    flags.add_section(parser, RandomSizes, "sizes")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from tabom.core.errors import ModelError
    from tabom.models.random_checkpoint import write_random_checkpoint

    folder = Path(args.folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty; name a new folder")
    options = {name: getattr(args, name) for name in ("family", "mask_token_id", "seed")}
    sizes = {key.partition(".")[2]: v for key, v in vars(args).items() if "." in key}
    write_random_checkpoint(folder, tokenizer_path=args.tokenizer, **options, **sizes)
    print(folder)
    return 0
