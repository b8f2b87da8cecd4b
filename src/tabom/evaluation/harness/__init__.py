"""The model as lm-eval's harness sees it. Needs `pip install 'tabom[eval]'`."""

from pathlib import Path


def folder() -> Path:
    """Where the task files of our benchmarks lie: for lm-eval's `--include_path`."""
    return Path(__file__).parent / "tasks"
