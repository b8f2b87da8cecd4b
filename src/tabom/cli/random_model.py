"""`tabom random-model FOLDER --family dream ...`: a tiny random checkpoint in a family's layout."""

import argparse
from pathlib import Path

# flag -> (default, help); None: the family's own.
SIZES = {
    "vocab_size": (None, "tokens in the vocabulary (default: the family's)"),
    "hidden_size": (64, "width of the hidden states (default: 64)"),
    "intermediate_size": (128, "width inside the feed-forward layers (default: 128)"),
    "num_layers": (2, "number of layers (default: 2)"),
    "num_heads": (4, "attention heads (default: 4)"),
    "num_kv_heads": (2, "heads of keys and values (default: 2)"),
    "mask_token_id": (None, "the mask token, where the tokenizer does not name one"),
    "seed": (0, "key of the random weights (default: 0)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom random-model`."""
    parser.add_argument("folder", help="where to write it (must be new or empty)")
    parser.add_argument("--family", required=True, help="toy, dream, llada or sdar")
    parser.add_argument(
        "--tokenizer", help="folder with the tokenizer's files; left out: a model without one"
    )
    for name, (default, text) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="INT", help=text)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint."""
    from tabom.core.errors import ModelError
    from tabom.models.random_checkpoint import write_random_checkpoint

    folder = Path(args.folder)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty; name a new folder")
    options = {name: getattr(args, name) for name in ("family", *SIZES)}
    if options["vocab_size"] is None:
        del options["vocab_size"]
    write_random_checkpoint(folder, tokenizer_path=args.tokenizer, **options)
    print(folder)
    return 0
