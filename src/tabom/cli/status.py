"""`tabom status DIR`: how far chunks are, and whether anybody works on them."""

import argparse
from pathlib import Path

from tabom.cli.flags import add_common
from tabom.core.chunks import PLAN, Chunks, Status
from tabom.core.errors import StageError
from tabom.core.manifest import STARTED, read_manifest
from tabom.core.place import place
from tabom.core.text import duration
from tabom.stages.stage import UNFINISHED

COMPLETE, RUNNING, STOPPED = 0, 3, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tabom status`."""
    parser.epilog = (
        "Exit status: 0 complete, 3 somebody works on it, 4 nobody does, 2 there is nothing."
    )
    parser.add_argument("folder", metavar="DIR|URL", help="the --output_dir of the command")
    add_common(parser, "--storage_options")


def run(args: argparse.Namespace) -> int:
    """Print a line for each stage that began. Returns: the exit status, see `--help`."""
    root = place(args.folder, args.storage_options)
    marks = [p for pattern in ("manifest.json", STARTED) for p in root.glob(f"**/{pattern}")]
    folders = sorted({mark.parent for mark in marks if UNFINISHED not in mark.parts}, key=str)
    if not folders:
        raise StageError(f"{root}: nothing of tabom's was begun there")
    return max(_show(folder, str(folder)) for folder in folders)


def _show(folder: Path, name: str) -> int:
    if (found := read_manifest(folder)) is not None:
        print(f"{name}: {found.stage} complete")
        return COMPLETE
    planned = [p for p in (folder, folder / UNFINISHED) if (p / PLAN).is_file()]
    if not planned:
        print(f"{name}: begun, not in chunks")
        return STOPPED
    status = Chunks(planned[0]).status()
    print(f"{name}: {describe(status)}")
    return RUNNING if status.num_running else STOPPED


def describe(status: Status) -> str:
    """One line on some chunks."""
    words = [
        f"{status.num_rows_done:,} of {status.num_rows:,} rows",
        f"{status.num_done:,} of {status.num_chunks:,} chunks done",
        f"{status.num_running} running",
    ]
    for word in ("lost", "slow", "split", "failed"):
        if number := getattr(status, f"num_{word}"):
            words.append(f"{number} {word}")
    if status.rows_per_hour:
        words.append(f"{status.rows_per_hour:,.0f} rows an hour")
    if status.seconds_left is not None:
        words.append(f"{duration(status.seconds_left)} left")
    return ", ".join(words)
