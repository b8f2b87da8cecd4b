"""The entry point: a static table of verbs, each imported only when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module

from tabom._version import __version__
from tabom.cli.flags import Parser
from tabom.core.configs import nearest
from tabom.core.errors import TabomError

# verb -> (module, help); a module has `add_arguments(parser)` and `run(args) -> int`.
VERBS = {
    "run": ("tabom.cli.run", "run a recipe: collect, verify, train, evaluate, diagnose, report"),
    "collect": ("tabom.cli.collect", "decode prompts and store the trajectories"),
    "verify": ("tabom.cli.verify", "judge stored trajectories against their references"),
    "train": ("tabom.cli.train", "train an adapter on accepted trajectories or ground truth"),
    "evaluate": ("tabom.cli.evaluate", "measure a model or an adapter on held-out prompts"),
    "compare": ("tabom.cli.compare", "runs side by side: changes, intervals, tests, pass@k"),
    "convert": ("tabom.cli.convert", "read and write the trajectory files of other projects"),
    "diagnose": ("tabom.cli.diagnose", "order agreement, loss ratio and TDS of a model"),
    "report": ("tabom.cli.report", "write the summary, the table and the HTML report of a run"),
    "view": ("tabom.cli.view", "look through a collection or a run in a browser"),
    "figures": ("tabom.cli.figures", "figures as SVG and PDF, tables as CSV and LaTeX"),
    "status": ("tabom.cli.status", "how far chunks are, who works on them, how long it takes"),
    "plan": ("tabom.cli.plan", "what a run would do and cost, before anything starts"),
    "doctor": ("tabom.cli.doctor", "check a model, and estimate the memory it needs"),
    "generate": ("tabom.cli.generate", "decode prompts with a model and print the responses"),
    "chat": ("tabom.cli.chat", "talk to a model and watch it decode"),
    "merge": ("tabom.cli.merge", "write a base and its adapter as one checkpoint, or export it"),
    "push": ("tabom.cli.push", "an adapter, a model or a collection to the Hugging Face hub"),
    "pull": ("tabom.cli.pull", "an adapter, a model or a collection from the hub"),
    "recipes": ("tabom.cli.recipes", "list, show or copy the recipes of the package"),
    "random-model": ("tabom.cli.random_model", "write a tiny random checkpoint of a family"),
    "toyworld": ("tabom.cli.toyworld", "pretrain the embedded toy base model again"),
    "completion": ("tabom.cli.completion", "print a script that completes verbs and flags"),
    "env": ("tabom.cli.env", "versions and hardware, for a bug report"),
}
OWN_STAGE = "tabom.cli.stage"  # the verb is then "package.module:Class"


def build_parser(*wanted: str | None) -> Parser:
    """The parser; only the called verb's own arguments are built (or those of several)."""
    parser = Parser(
        prog="tabom",
        description="Post-train masked diffusion language models on their decoding trajectories.",
        epilog="`tabom VERB --help` tells a verb's flags. Start with `tabom run toy-quick`.",
    )
    parser.add_argument("--version", action="version", version=f"tabom {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    # Only the verb that was called is imported: `tabom --help` must not load them all.
    for name, (module, text) in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text)
        if name in wanted:
            import_module(module).add_arguments(sub)
    for verb in wanted:
        if verb is not None and ":" in verb:
            import_module(OWN_STAGE).add_arguments(verbs.add_parser(verb))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit status: 0 done, 1 a bug or an interruption, 2 the user's to mend."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    verb = next((a for a in arguments if not a.startswith("-")), None)
    try:
        parser = build_parser(verb)
        if verb is not None and verb not in VERBS and ":" not in verb:
            parser.error(f"there is no verb {verb!r}{nearest(verb, VERBS)}")
        args = parser.parse_args(arguments)
        args.arguments = arguments
        module, _ = VERBS.get(args.verb, (OWN_STAGE, ""))
        return int(import_module(module).run(args))
    except TabomError as error:
        why = str(error)
    except BrokenPipeError:
        return 1
    except OSError as error:  # no space, no permission, a vanished folder
        why = f"{error.filename}: " if error.filename else ""
        why += error.strerror or str(error)
    except KeyboardInterrupt:
        print(f"\ntabom {verb}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"tabom {verb}: error: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
