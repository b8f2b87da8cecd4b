"""`tabom convert`: trajectory files of others into a collection, and a collection into a file."""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from tabom.core.errors import ConfigError
from tabom.trajectory.convert import FORMATS

NATIVE, EXPORT = "native", "tabom_jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom convert`."""
    add = parser.add_argument
    add("source", help="a file, or the folder of a collection (native)")
    add("destination", help="the folder of a collection, or a .jsonl file")
    add(
        "--from",
        dest="format",
        choices=(NATIVE, *FORMATS),
        required=True,
        help=f"format of the source; a file becomes {NATIVE}, a collection {EXPORT}",
    )
    add("--to", choices=(NATIVE, EXPORT), help="may be said, and follows from --from")
    add(
        "--model_name_or_path",
        metavar="MODEL",
        help="checkpoint that made the trajectories: its tokenizer and ids (no weights are read)",
    )
    add("--mask_token_id", type=int, metavar="ID", help="overrides the checkpoint's mask id")
    add(
        "--allow_ltr",
        action="store_true",
        help="take rows without a decoding order as decoded left to right",
    )
    add(
        "--on_error",
        choices=("stop", "drop"),
        default="stop",
        help="at a malformed row: stop with its file, row and field, or drop and count it",
    )
    add(
        "--reference_column",
        metavar="COLUMN",
        help="column of the source's rows that holds the gold answer, for `tabom verify`",
    )
    add("--method", default="", metavar="NAME", help="decoding policy of rows that name none")
    add("--verdicts", metavar="DIR", help="of a collection: carry over accepted ones only")
    add(
        "--accept_all",
        action="store_true",
        help="the file is judged already: also write DESTINATION-verdicts, for `tabom train`",
    )
    add("--overwrite", action="store_true", help="replace the destination")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was read, written and dropped."""
    is_export = args.format == NATIVE
    if args.to not in (None, EXPORT if is_export else NATIVE):
        raise ConfigError(
            f"--from {args.format} --to {args.to}: a file becomes {NATIVE}, and a "
            f"collection {EXPORT}; convert twice to go from file to file"
        )
    if args.accept_all and is_export:
        raise ConfigError("--accept_all writes verdicts on a collection; it needs a file as source")
    if args.verdicts and not is_export:
        raise ConfigError("--verdicts are of a collection; they go with --from native")
    if Path(args.source).resolve() == Path(args.destination).resolve():
        raise ConfigError(f"{args.destination} is the source, too; name another destination")
    return _export(args) if is_export else _import(args)


def _import(args: argparse.Namespace) -> int:
    from tabom.cli.flags import need
    from tabom.cli.sections import show
    from tabom.models.config import ModelConfig
    from tabom.stages.convert import AcceptConverted, Convert

    name = need(args.model_name_or_path, "--model_name_or_path", "it has the tokenizer and the ids")
    folder = Path(args.destination)
    stage = Convert(
        folder=folder,
        path=args.source,
        format=args.format,
        model=ModelConfig(model_name_or_path=name, mask_token_id=args.mask_token_id),
        allow_ltr=args.allow_ltr,
        reference_column=args.reference_column,
        method=args.method,
        on_error=args.on_error,
    )
    show(stage, stage.run(overwrite=args.overwrite))
    if args.accept_all:
        verdicts = folder.with_name(f"{folder.name}-verdicts")
        judged = AcceptConverted(folder=verdicts, trajectories=stage.output)
        show(judged, judged.run(overwrite=args.overwrite))
    return 0


def _export(args: argparse.Namespace) -> int:
    from tabom.core.atomic import replacing
    from tabom.models.checkpoint import load_ids
    from tabom.stages.verify import VERDICTS, Verify
    from tabom.trajectory.convert.tabom_jsonl import write
    from tabom.trajectory.store import TrajectoryStore
    from tabom.trajectory.verdicts import read_verdicts

    path = Path(args.destination)
    if path.exists() and not args.overwrite:
        raise ConfigError(f"{path} exists; name another file, or pass --overwrite")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ConfigError(f"{path}: name the file .jsonl or .jsonl.gz")
    end_ids: tuple[int, ...] = ()
    if args.model_name_or_path is not None:
        end_ids = load_ids(args.model_name_or_path, mask_token_id=args.mask_token_id).eos
    verdicts = None
    if args.verdicts is not None:
        verdicts = read_verdicts(Verify.load(args.verdicts).folder / VERDICTS)
    num_written = num_left_out = 0
    with replacing(path) as temporary, temporary.open("wb") as raw:
        # No name and no time in the gzip header: equal rows give equal files.
        file: Any = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        for t in TrajectoryStore(args.source):
            if verdicts is not None and not (t.id in verdicts and verdicts[t.id].is_accepted):
                num_left_out += 1
                continue
            cells = write(t, end_ids=end_ids)
            file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            num_written += 1
        if file is not raw:
            file.close()
    print(f"num_written: {num_written}\nnum_not_accepted: {num_left_out}")
    if not end_ids:
        print("non_ltr_positions: left out, the end tokens are unknown (--model_name_or_path)")
    print(f"output: {path}")
    return 0
