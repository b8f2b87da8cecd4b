"""`tabom completion SHELL`: a script that completes verbs and flags."""

import argparse

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom completion`."""
    parser.add_argument("shell", choices=SHELLS, help="whose script is printed")
    parser.epilog = "bash: tabom completion bash > ~/.local/share/bash-completion/completions/tabom"


def run(args: argparse.Namespace) -> int:
    """Print the script for the shell."""
    import shtab

    from tabom.cli.main import VERBS, build_parser

    print(shtab.complete(build_parser(*VERBS), shell=args.shell))
    return 0
