"""`tabom convert`: trajectory files of others into a collection, and a collection into a file."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tabom._version import __version__
from tabom.core.errors import ConfigError
from tabom.stages.stage import Counts, Done, Output, Stage
from tabom.trajectory.convert import NAMES, NATIVE

if TYPE_CHECKING:
    from tabom.trajectory.convert.run import Report
    from tabom.trajectory.convert.vocabulary import Vocabulary

EXPORT = "tabom_jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom convert`."""
    parser.add_argument("source", help="a file, or the folder of a collection (native)")
    parser.add_argument("destination", help="the folder of a collection, or a .jsonl file")
    parser.add_argument(
        "--from", dest="source_format", choices=NAMES, required=True, help="format of the source"
    )
    parser.add_argument(
        "--to",
        dest="destination_format",
        choices=(NATIVE, EXPORT),
        help=f"format of the destination (default: {NATIVE}, what every verb reads; of a native "
        f"source {EXPORT})",
    )
    parser.add_argument(
        "--model_name_or_path",
        metavar="MODEL",
        help="checkpoint that made the trajectories: its tokenizer and ids (no weights are read)",
    )
    parser.add_argument(
        "--mask_token_id", type=int, metavar="ID", help="overrides the checkpoint's mask id"
    )
    parser.add_argument(
        "--allow_ltr",
        action="store_true",
        help="take rows without a decoding order as decoded left to right, and count them",
    )
    parser.add_argument(
        "--on_error",
        choices=("stop", "drop"),
        default="stop",
        help="at a malformed row: stop with its file, row and field, or drop and count it",
    )
    parser.add_argument(
        "--reference_column",
        metavar="COLUMN",
        help="column of the source's rows that holds the gold answer, for `tabom verify`",
    )
    parser.add_argument(
        "--method", default="", metavar="NAME", help="decoding policy of rows that do not name one"
    )
    parser.add_argument(
        "--verdicts", metavar="DIR", help="of a native source: carry over accepted ones only"
    )
    parser.add_argument(
        "--accept_all",
        action="store_true",
        help="the file is judged already: also write DESTINATION-verdicts, for `tabom train`",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the destination")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was read, written and dropped."""
    from tabom.core.identity import identity
    from tabom.models.config import ModelConfig
    from tabom.trajectory.convert.fields import ConvertOptions
    from tabom.trajectory.convert.run import export, import_file

    is_export = args.source_format == NATIVE
    if args.destination_format not in (None, EXPORT if is_export else NATIVE):
        raise ConfigError(
            f"--from {args.source_format} --to {args.destination_format}: a collection becomes "
            f"{EXPORT}, and a file becomes {NATIVE}; convert twice to go from file to file"
        )
    if args.accept_all and is_export:
        raise ConfigError("--accept_all writes verdicts on a collection; it goes with --to native")
    if args.verdicts and not is_export:
        raise ConfigError("--verdicts are of a collection; they go with --from native")
    source, destination = Path(args.source), Path(args.destination)
    if source.resolve() == destination.resolve():
        raise ConfigError(f"{destination} is the source, too; name another destination")
    name, mask = args.model_name_or_path, args.mask_token_id
    options = ConvertOptions(
        vocabulary=_vocabulary(name, mask),
        allow_ltr=args.allow_ltr,
        on_error=args.on_error,
        reference_column=args.reference_column,
        method=args.method,
        accepted=_accepted(args.verdicts),
    )
    if is_export:
        report = export(source, destination, options=options, overwrite=args.overwrite)
    else:
        model = None if name is None else identity(ModelConfig(model_name_or_path=name))
        report = import_file(
            source,
            destination,
            source_format=args.source_format,
            options=options,
            settings={"tabom": __version__, "model": model, "mask_token_id": mask},
            overwrite=args.overwrite,
        )
    _show(report)
    if is_export and not options.vocabulary.end_ids:
        print("non_ltr_positions: not computed, the end tokens are unknown (--model_name_or_path)")
    print(f"output: {destination}")
    if args.accept_all:
        from tabom.stages.collect import Collect

        stage = AcceptConverted(
            folder=destination.with_name(f"{destination.name}-verdicts"),
            trajectories=Collect.load(destination),
        )
        if args.overwrite:
            from tabom.core import manifest

            manifest.reset(stage.folder)
        stage.run(lambda *_: None)
        print(f"verdicts: {stage.folder}")
    return 0


def _show(report: "Report") -> None:
    print("complete already, nothing was done" if report.is_old else f"rows: {report.num_rows}")
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


def _vocabulary(name: str | None, mask_token_id: int | None) -> "Vocabulary":
    """Tokenizer and ids of the checkpoint, without its weights."""
    from tabom.trajectory.convert.vocabulary import Vocabulary

    if name is None:
        return Vocabulary(mask_id=mask_token_id)
    from tabom.models.ids import Checkpoint

    checkpoint = Checkpoint.find(name, weights=False)
    ids, published = checkpoint.ids(mask_token_id=mask_token_id), checkpoint.config
    return Vocabulary(
        tokenizer=checkpoint.tokenizer(),
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


@dataclass(frozen=True, kw_only=True)
class AcceptConverted(Stage):
    """A finished `tabom verify` that accepts what the converted file did not call wrong."""

    kind: ClassVar[str] = "verify"

    trajectories: Output
    verifier: str = "accept_all (tabom convert)"

    def work(self, report: Done) -> Counts:
        from tabom.stages.verify import VERDICTS
        from tabom.trajectory.store import TrajectoryStore
        from tabom.trajectory.verdicts import Verdict, count_reasons, write_verdicts

        verdicts = {}
        for t in TrajectoryStore(self.trajectories.folder):
            # d3LLM's own judgement, and dLLM-RL's; both are kept in the row.
            is_wrong = any(t.row.get(name) is False for name in ("is_correct", "correctness"))
            reason = "wrong" if is_wrong else "accepted"
            detail = "the converted file says so" if is_wrong else ""
            verdicts[t.id] = Verdict(reason, detail, self.verifier)
        write_verdicts(self.folder / VERDICTS, verdicts)
        return {"num_verdicts": len(verdicts), **count_reasons(verdicts.values())}
