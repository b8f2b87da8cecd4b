"""`tabom convert`: trajectory files of others into a collection, and a collection into a file."""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from tabom.cli import flags
from tabom.core.errors import ConfigError
from tabom.trajectory.convert import FORMATS

NATIVE = "native"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom convert`."""
    from tabom.stages.convert import Convert

    add = parser.add_argument
    add("source", help="a file, or the folder of a collection (native)")
    add("destination", help="the folder of a collection, or a .jsonl file")
    formats = (NATIVE, *FORMATS)
    add("--from", dest="format", choices=formats, required=True, help="format of the source")
    written = (NATIVE, "tabom_jsonl")
    add("--to", choices=written, help="format of the destination; it follows from --from")
    model = "checkpoint that made the trajectories: its tokenizer and ids (no weights are read)"
    add("--model_name_or_path", metavar="MODEL", help=model)
    add("--mask_token_id", type=int, metavar="ID", help="overrides the checkpoint's mask id")
    ltr = "take rows without a decoding order as decoded left to right"
    add("--allow_ltr", action="store_true", help=ltr)
    for name in ("on_error", "reference_column", "method"):
        flags.add_field(parser, Convert, name)
    add("--verdicts", metavar="DIR", help="of a collection: carry over accepted ones only")
    judged = "the file is judged already: also write DESTINATION-verdicts, for `tabom train`"
    add("--accept_all", action="store_true", help=judged)
    add("--overwrite", action="store_true", help="replace the destination")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was read, written and dropped.

    Raises: ConfigError for what cannot become the other, or would overwrite its own source.
    """
    if Path(args.source).resolve() == Path(args.destination).resolve():
        raise ConfigError(f"{args.destination} is the source, too; name another destination")
    is_export = args.format == NATIVE
    is_file = args.destination.endswith((".jsonl", ".jsonl.gz"))
    is_other = args.to not in (None, "tabom_jsonl" if is_export else NATIVE)
    if is_other or is_export != is_file or (args.accept_all if is_export else args.verdicts):
        raise ConfigError(
            f"--from {args.format}: a file becomes the folder of a collection (with --accept_all "
            f"if you like), and a collection ({NATIVE}) becomes a .jsonl or .jsonl.gz file (with "
            "--verdicts); convert twice for file to file"
        )
    return _export(args) if is_export else _import(args)


def _import(args: argparse.Namespace) -> int:
    """A file as a collection, and as verdicts where it is judged already."""
    from tabom.cli.sections import show
    from tabom.models.config import ModelConfig
    from tabom.stages.convert import AcceptConverted, Convert

    name = flags.need(args.model_name_or_path, "--model_name_or_path", "it has tokenizer and ids")
    own = ("format", "allow_ltr", "on_error", "reference_column", "method")
    stage = Convert(
        folder=Path(args.destination),
        path=args.source,
        model=ModelConfig(model_name_or_path=name, mask_token_id=args.mask_token_id),
        **{key: getattr(args, key) for key in own if hasattr(args, key)},
    )
    show(stage, stage.run(overwrite=args.overwrite))
    if args.accept_all:
        folder = stage.folder.with_name(f"{stage.folder.name}-verdicts")
        judged = AcceptConverted(folder=folder, trajectories=stage.output)
        show(judged, judged.run(overwrite=args.overwrite))
    return 0


def _export(args: argparse.Namespace) -> int:
    """A collection, or its accepted part, as one file."""
    from tabom.core.atomic import replacing
    from tabom.models.checkpoint import load_ids
    from tabom.stages.stage import load_output
    from tabom.stages.verify import VERDICTS
    from tabom.trajectory.convert.tabom_jsonl import write
    from tabom.trajectory.store import TrajectoryStore
    from tabom.trajectory.verdicts import read_verdicts

    path = Path(args.destination)
    if path.exists() and not args.overwrite:
        raise ConfigError(f"{path} exists; name another file, or pass --overwrite")
    name = args.model_name_or_path
    end_ids = () if name is None else load_ids(name, mask_token_id=args.mask_token_id).eos
    verdicts = None
    if args.verdicts is not None:
        verdicts = read_verdicts(load_output(args.verdicts, "verify").checked() / VERDICTS)
    store, num_written = TrajectoryStore(args.source), 0
    with replacing(path) as temporary, temporary.open("wb") as raw:
        # No name and no time in the gzip header: equal rows give equal files.
        file: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        for t in store:
            if verdicts is None or (t.id in verdicts and verdicts[t.id].is_accepted):
                cells = write(t, end_ids=end_ids)
                file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                num_written += 1
        if file is not raw:
            file.close()
    print(f"written: {num_written} of {len(store)}")
    if not end_ids:
        print("non_ltr_positions: left out, the end tokens are unknown (--model_name_or_path)")
    print(f"output: {path}")
    return 0
