"""`tabom random-model FOLDER --family dream ...`: a tiny random checkpoint in a family's layout."""

import argparse
from pathlib import Path

SIZES = {
    "vocab_size": "tokens in the vocabulary (default: the family's)",
    "hidden_size": "width of the hidden states (default: 64)",
    "intermediate_size": "width inside the feed-forward layers (default: 128)",
    "num_layers": "number of layers (default: 2)",
    "num_heads": "attention heads (default: 4)",
    "num_kv_heads": "heads of keys and values (default: 2)",
    "mask_token_id": "the mask token, where the tokenizer does not name one",
    "seed": "key of the random weights (default: 0)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom random-model`."""
    add = parser.add_argument
    add("folder", help="where to write it (must be new or empty)")
    add("--family", required=True, help="toy, dream, llada or sdar")
    add("--tokenizer", help="folder with the tokenizer's files; left out: a model without one")
    for name, text in SIZES.items():
        add(f"--{name}", type=int, default=argparse.SUPPRESS, metavar="INT", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from tabom.core.errors import ModelError
    from tabom.models.random_checkpoint import write_random_checkpoint

    folder = Path(args.folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty; name a new folder")
    options = {name: value for name, value in vars(args).items() if name in SIZES}
    write_random_checkpoint(folder, family=args.family, tokenizer_path=args.tokenizer, **options)
    print(folder)
    return 0
