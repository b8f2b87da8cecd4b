"""`tabom random-model FOLDER --family dream ...`: a tiny random checkpoint in a family's layout."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom random-model`."""
    parser.add_argument("folder", help="where to write it (must be new or empty)")
    parser.add_argument("--family", required=True, help="toy, dream, llada or sdar")
    parser.add_argument(
        "--tokenizer", help="folder with the tokenizer's files; left out: a model without one"
    )
    parser.add_argument("--vocab_size", "--vocab-size", type=int, help="the family's if left out")
    parser.add_argument("--hidden_size", "--hidden-size", type=int, default=64)
    parser.add_argument("--intermediate_size", "--intermediate-size", type=int, default=128)
    parser.add_argument("--num_layers", "--num-layers", type=int, default=2)
    parser.add_argument("--num_heads", "--num-heads", type=int, default=4)
    parser.add_argument("--num_kv_heads", "--num-kv-heads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from tabom.core.errors import ModelError
    from tabom.models.random_checkpoint import write_random_checkpoint

    folder = Path(args.folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty; name a new folder")
    options = {k: v for k, v in vars(args).items() if k not in ("verb", "folder", "tokenizer")}
    if options["vocab_size"] is None:
        del options["vocab_size"]
    write_random_checkpoint(folder, tokenizer_path=args.tokenizer, **options)
    print(folder)
    return 0
