"""Why a path went wrong: was a token revealed before what it depends on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabom.toyworld.alphabet import BLANK, NUM_SLOTS, START
from tabom.toyworld.tasks import num_carries, pad

TASKS_WITH_PATH = ("chain", "hops")


def premature_commit(
    *, row: Mapping[str, str], slots: Sequence[str], step: Sequence[int]
) -> bool | None:
    """Whether the first wrong token was a commitment made too early.

    A node of the path depends on the node before it, the answer on the path's last node. The
    first wrong token (by step) is premature if what it depends on was not visible yet: revealed
    later, or in the same step. The path's first node depends on the prompt alone; signs and the
    EOS filler are no commitments to a node.

    Args:
        row: a row of `tasks.prompts`.
        slots: the text of each of the 16 slots, EOS slots shown as `EOS_CHAR`.
        step: the step that revealed each slot, -1 for never.

    Returns:
        None for a task without a path, False for a right response, else the finding. Where
        several wrong tokens share the first step, one premature token is enough.
    """
    if row["task"] not in TASKS_WITH_PATH:
        return None
    if len(slots) != NUM_SLOTS or len(step) != NUM_SLOTS:
        raise ValueError(f"expected {NUM_SLOTS} slots, got {len(slots)} and {len(step)} steps")
    # A response counts as written in the surface whose sign follows its answer.
    surface = "ground_truth" if slots[1] == START else "reference"
    wanted = pad(row[surface])
    revealed = [value if value >= 0 else NUM_SLOTS for value in step]
    wrong = [slot for slot in range(NUM_SLOTS) if slots[slot] != wanted[slot]]
    if not wrong:
        return False
    needs = _dependencies(row[surface])
    first = min(revealed[slot] for slot in wrong)
    return any(
        revealed[slot] == first and slot in needs and revealed[slot] <= revealed[needs[slot]]
        for slot in wrong
    )


def difficulty(
    *, row: Mapping[str, str], slots: Sequence[str], step: Sequence[int]
) -> float | None:
    """Hops of a path, or the longest run of carries of an addition. None for other tasks."""
    if row["task"] in ("addition", "sums"):
        return float(num_carries(row["prompt"]))
    return float(row["prompt"][-1]) if row["task"] in TASKS_WITH_PATH else None


def _dependencies(text: str) -> dict[int, int]:
    """Slot -> the slot it depends on: the answer (slot 0) on the path's end, a node on the last."""
    end = len(text.rstrip(BLANK))
    return {0: end - 1} | {slot: slot - 1 for slot in range(3, end)}
