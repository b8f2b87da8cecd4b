"""The five tasks of the paper as files for lm-eval, with their prompts, budgets and metrics."""

from pathlib import Path

NAMES = ("gsm8k_tabom", "math500_tabom", "humaneval_tabom", "mbpp_tabom", "ifeval_tabom")


def folder() -> Path:
    """Where the task files lie: for lm-eval's `--include_path`."""
    return Path(__file__).parent
