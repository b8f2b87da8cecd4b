"""`tabom convert`: trajectory files of others into a collection, and back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabom.models.config import ModelConfig
    from tabom.trajectory.convert.vocabulary import Vocabulary

_VERIFIER = "accept_all (tabom convert)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom convert`."""
    from tabom.trajectory.convert.run import NAMES, NATIVE

    parser.add_argument("source", help="a file, or the folder of a collection (native)")
    parser.add_argument("destination", help="a file, or the folder of a collection (native)")
    parser.add_argument(
        "--from", dest="source_format", choices=NAMES, required=True, help="format of the source"
    )
    parser.add_argument(
        "--to",
        dest="destination_format",
        choices=NAMES,
        default=NATIVE,
        help=f"format of the destination (default: {NATIVE}, what every verb reads)",
    )
    parser.add_argument(
        *_both("model_name_or_path"),
        metavar="MODEL",
        help="checkpoint that made the trajectories: its tokenizer and ids (no weights are read)",
    )
    parser.add_argument(
        *_both("mask_token_id"), type=int, metavar="ID", help="overrides the checkpoint's mask id"
    )
    parser.add_argument(
        *_both("allow_ltr"),
        action="store_true",
        help="take rows without a decoding order as decoded left to right, and count them",
    )
    parser.add_argument(
        *_both("on_error"),
        choices=("stop", "drop"),
        default="stop",
        help="at a malformed row: stop with its file, row and field, or drop and count it",
    )
    parser.add_argument(
        *_both("reference_column"),
        metavar="COLUMN",
        help="column of the source's rows that holds the gold answer, for `tabom verify`",
    )
    parser.add_argument(
        "--method",
        default="",
        metavar="NAME",
        help="decoding policy of rows that do not name one; the authors' trainer takes rows with "
        "entropy (Dream), default or credit (LLaDA) and leaves out the others",
    )
    parser.add_argument(
        "--verdicts", metavar="DIR", help="of a native source: carry over accepted ones only"
    )
    parser.add_argument(
        *_both("accept_all"),
        action="store_true",
        help="the file is judged already: also write DESTINATION-verdicts, for `tabom train`",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the destination")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was read, written and dropped."""
    from tabom._version import __version__
    from tabom.core.errors import ConfigError
    from tabom.core.identity import identity
    from tabom.models.config import ModelConfig
    from tabom.trajectory.convert.fields import ConvertOptions
    from tabom.trajectory.convert.run import NATIVE, convert

    if args.accept_all and args.destination_format != NATIVE:
        raise ConfigError("--accept_all writes verdicts on a collection; it goes with --to native")
    if args.verdicts and args.source_format != NATIVE:
        raise ConfigError("--verdicts are of a collection; they go with --from native")
    model = None
    if args.model_name_or_path is not None:
        model = ModelConfig(
            model_name_or_path=args.model_name_or_path, mask_token_id=args.mask_token_id
        )
    vocabulary = _vocabulary(model, args.mask_token_id)
    destination = Path(args.destination)
    report = convert(
        Path(args.source),
        destination,
        source_format=args.source_format,
        destination_format=args.destination_format,
        options=ConvertOptions(
            vocabulary=vocabulary,
            allow_ltr=args.allow_ltr,
            on_error=args.on_error,
            reference_column=args.reference_column,
            method=args.method,
            accepted=_accepted(args.verdicts),
        ),
        settings={
            "tabom": __version__,
            "model": None if model is None else identity(model),
            "mask_token_id": args.mask_token_id,
        },
        overwrite=args.overwrite,
    )
    if report.is_old:
        print("complete already, nothing was done")
    else:
        print(f"rows: {report.num_rows}")
    print(f"written: {report.num_written}")
    for reason, number in report.dropped.most_common():
        print(f"dropped, {reason}: {number}")
    for example in report.examples:
        print(f"  {example}")
    if report.num_ltr:
        print(f"without an order, taken as left to right: {report.num_ltr}")
    if len(report.num_slots) > 1:
        sizes = ", ".join(f"{n} slots: {count}" for n, count in sorted(report.num_slots.items()))
        print(f"canvases differ in size ({sizes}); training takes one size at a time")
    if args.destination_format == "tabom_jsonl" and not vocabulary.end_ids:
        print("non_ltr_positions: not computed, the end tokens are unknown (--model_name_or_path)")
    print(f"output: {destination}")
    if args.accept_all:
        print(f"verdicts: {_accept_all(destination, overwrite=args.overwrite)}")
    return 0


def _both(name: str) -> list[str]:
    return [f"--{name}", f"--{name.replace('_', '-')}"]


def _vocabulary(model: "ModelConfig | None", mask_token_id: int | None) -> "Vocabulary":
    """Tokenizer and ids of the checkpoint, without its weights."""
    from tabom.trajectory.convert.vocabulary import Vocabulary

    if model is None:
        return Vocabulary(mask_id=mask_token_id)
    from tabom.models.families import detect_family
    from tabom.models.folders import read_config, resolve_folder
    from tabom.models.ids import load_ids
    from tabom.models.loading import load_tokenizer

    folder = resolve_folder(model.model_name_or_path, weights=False)
    published: dict[str, Any] = read_config(folder)
    family = detect_family(published, where=str(folder))
    tokenizer = load_tokenizer(family, folder, required=True)
    ids = load_ids(folder, mask_token_id=mask_token_id)
    return Vocabulary(
        tokenizer=tokenizer,
        mask_id=ids.mask,
        end_ids=ids.eos,
        # LLaDA's vocab_size is the tokenizer's, embedding_size the table's.
        size=published.get("embedding_size") or published.get("vocab_size"),
    )


def _accepted(folder: str | None) -> frozenset[str] | None:
    if folder is None:
        return None
    from tabom.stages.verify import VERDICTS, Verify
    from tabom.trajectory.verdicts import read_verdicts

    verdicts = read_verdicts(Verify.load(folder).folder / VERDICTS)
    return frozenset(key for key, verdict in verdicts.items() if verdict.is_accepted)


def _accept_all(collected: Path, *, overwrite: bool) -> Path:
    """The folder of a finished `tabom verify` that accepts what the file did not call wrong."""
    from tabom._version import __version__
    from tabom.core import configs, manifest
    from tabom.stages.verify import VERDICTS
    from tabom.trajectory.store import TrajectoryStore
    from tabom.trajectory.verdicts import Verdict, count_reasons, write_verdicts

    folder = collected.with_name(f"{collected.name}-verdicts")
    store = TrajectoryStore(collected)
    assert store.manifest is not None
    settings = {
        "tabom": __version__,
        "trajectories": store.manifest.fingerprint,
        "verifier": {"type": "accept_all", "by": "tabom convert"},
    }
    digest = configs.fingerprint(settings)
    if overwrite:
        manifest.reset(folder)
    manifest.begin(folder, stage="verify", fingerprint=digest, settings=settings)
    verdicts = {}
    for t in store:
        # d3LLM's own judgement, and dLLM-RL's; both are kept in the row.
        is_wrong = any(t.row.get(name) is False for name in ("is_correct", "correctness"))
        reason = "wrong" if is_wrong else "accepted"
        detail = "the converted file says so" if is_wrong else ""
        verdicts[t.id] = Verdict(reason, detail, _VERIFIER)
    write_verdicts(folder / VERDICTS, verdicts)
    counts = {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}
    manifest.write_manifest(
        folder, stage="verify", fingerprint=digest, counts=counts, settings=settings, seconds=0.0
    )
    return folder
