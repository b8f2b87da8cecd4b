"""The context of the authors' training script, for exact comparison with it.

Legend: B batch, N response slots, W window.

It differs from the paper's equation 9 and from our default; docs/objectives.md lists how.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.contexts import Sample
from tabom.objectives.slots import CUT, Draws, Filler, compact


@dataclass(frozen=True, kw_only=True)
class ReleasePrefix:
    """Cut and windows in STEPS: targets are the eligible slots with step in [cut, cut + window).

    window: supervision window in steps. rank_window: steps of it whose slots are ranked; None:
        all. cut ~ U{0..s - window}, s the largest step of an eligible slot; a response with
        s < window is skipped (all masked, no target). A forced cut is a step, too, and is not
        used for skipped responses.
    Source: the authors' release; slots that share a step are ranked in the order of its argsort.
    """

    needs_order: ClassVar[bool] = True
    window: int = 32
    rank_window: int | None = None
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        for name in ("window", "rank_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1 step, got {value}")

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        assert batch.step_BN is not None  # `Objective` has looked
        step_BN = batch.step_BN.masked_fill(~batch.slot_BN, -1)
        eligible_BN = (step_BN >= 0) & self.filler.eligible(batch)
        last_step_B = step_BN.masked_fill(~eligible_BN, -1).amax(1)
        is_used_B = last_step_B >= self.window
        if cut_B is None:
            cut_B = draws.below(last_step_B - self.window + 1, CUT)
        cut_B = cut_B.masked_fill(~is_used_B, 0)
        cut_B1, is_used_B1 = cut_B.unsqueeze(1), is_used_B.unsqueeze(1)
        target_BN = (
            eligible_BN & is_used_B1 & (step_BN >= cut_B1) & (step_BN < cut_B1 + self.window)
        )
        rank_window = self.window if self.rank_window is None else self.rank_window
        return Sample(
            visible_BN=is_used_B1 & (step_BN >= 0) & (step_BN < cut_B1),
            target_BN=target_BN,
            window_slot_BW=_argsort_window(step_BN, target_BN & (step_BN < cut_B1 + rank_window)),
            cut_B=cut_B,
            is_short_B=torch.zeros_like(is_used_B),
            ties_ordered=True,
        )


def _argsort_window(step_BN: Tensor, inside_BN: Tensor) -> Tensor:
    """Slots [B, N] by step, -1 padding; ties as `torch.argsort` of the steps leaves them.

    The release sorts float32 steps with the default, unstable sort. Up to 16 values that is the
    order of the slots; above, it depends on the processor, so it is reproduced by the same call
    on the same values, for the (rare) rows that have ties.
    """
    num_slots = step_BN.shape[1]
    last = torch.iinfo(torch.int64).max
    by_step_BN = step_BN.masked_fill(~inside_BN, last).argsort(dim=1, stable=True)
    window_slot_BN = compact(by_step_BN, inside_BN.gather(1, by_step_BN), num_slots)
    sorted_BN = step_BN.gather(1, window_slot_BN.clamp(min=0))
    tie_BN = (sorted_BN[:, 1:] == sorted_BN[:, :-1]) & (window_slot_BN[:, 1:] >= 0)
    for b in tie_BN.any(1).nonzero().flatten().tolist():
        slot_W = inside_BN[b].nonzero().flatten()
        window_slot_BN[b, : len(slot_W)] = slot_W[step_BN[b, slot_W].float().argsort()]
    return window_slot_BN
