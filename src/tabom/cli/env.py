"""`tabom env`: versions and hardware, for a bug report."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`tabom env` has no flags."""


def run(args: argparse.Namespace) -> int:
    """Print one `name: value` a line."""
    from tabom.core.env import hardware, versions

    for name, value in {**versions(), **hardware()}.items():
        print(f"{name}: {value}")
    return 0
