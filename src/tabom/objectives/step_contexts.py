"""Contexts at states of the recorded decoding: a horizon of steps, groups of steps, hints.

Legend: B batch, N response slots.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.contexts import Sample
from tabom.objectives.slots import CUT, SUBSET, Draws, Filler


def _check_steps(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")


def _dense_steps(batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
    """int64 [B, N]: the number of each slot's step among the steps that reveal something, -1 for
    slots that none does; and [B], how many such steps there are."""
    assert batch.step_BN is not None
    step_BN = batch.step_BN.masked_fill(~batch.slot_BN, -1)
    sorted_BN, by_BN = step_BN.sort(dim=1, stable=True)
    is_new_BN = torch.ones_like(sorted_BN)
    is_new_BN[:, 1:] = (sorted_BN[:, 1:] != sorted_BN[:, :-1]).long()
    rank_BN = (is_new_BN * (sorted_BN >= 0)).cumsum(1) - 1
    dense_BN = torch.full_like(step_BN, -1).scatter(1, by_BN, rank_BN)
    dense_BN = dense_BN.masked_fill(step_BN < 0, -1)
    return dense_BN, dense_BN.amax(1) + 1


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """A state of the decoding: targets are what its next steps reveal, the rest is "far".

    steps: of the horizon. The state is uniform over all of a response but the last.
    Source: TAD; a window in steps on a visited state.
    """

    needs_order: ClassVar[bool] = True
    steps: int = 8
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        _check_steps("steps", self.steps)

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        """cut_B: the number of steps that the state has behind it."""
        step_BN, num_B = _dense_steps(batch)
        state_B = draws.below(num_B, CUT) if cut_B is None else torch.minimum(cut_B, num_B)
        state_B1 = state_B.unsqueeze(1)
        may_BN = (step_BN >= state_B1) & self.filler.eligible(batch)
        is_near_BN = step_BN < state_B1 + self.steps
        return Sample.of(
            (step_BN >= 0) & (step_BN < state_B1),
            may_BN & is_near_BN,
            sets={"far": may_BN & ~is_near_BN},
            cut_B=state_B,
        )


@dataclass(frozen=True, kw_only=True)
class StepGroups:
    """A response's steps in groups of a few; one group is asked, those before it are visible.

    group: steps of a group. One group that has a target is drawn per response and step, where the
        published scripts ask all groups at once: the same mean, one context at a time.
    order: "recorded", or "left_to_right" (a slot a step, whatever the recorded order).
    Source: TraceRL (recorded), JustGRPO (left to right, groups of 1). Slots that were never
    revealed are never asked, as against TraceRL's script.
    """

    group: int = 8
    order: Literal["recorded", "left_to_right"] = "recorded"
    filler: Filler = field(default_factory=lambda: Filler(policy="ignore"))

    def __post_init__(self) -> None:
        _check_steps("group", self.group)

    @property
    def needs_order(self) -> bool:
        return self.order == "recorded"

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        """cut_B: the number of the group."""
        if self.order == "recorded":
            step_BN, _ = _dense_steps(batch)
        else:
            step_BN = torch.where(batch.slot_BN, batch.slot_BN.cumsum(1) - 1, -1)
        takes_part_BN = step_BN >= 0
        group_BN = step_BN.div(self.group, rounding_mode="floor")
        may_BN = takes_part_BN & self.filler.eligible(batch)
        num_groups = int(group_BN.max()) + 1 if group_BN.numel() else 0
        of_group_BNG = group_BN.unsqueeze(2) == torch.arange(max(num_groups, 1))
        is_used_BG = (of_group_BNG & may_BN.unsqueeze(2)).any(1)
        if cut_B is None:
            place_B = draws.below(is_used_BG.sum(1), CUT)
            cut_B = (is_used_BG.cumsum(1) <= place_B.unsqueeze(1)).sum(1)
        cut_B1 = cut_B.unsqueeze(1)
        return Sample.of(
            takes_part_BN & (group_BN < cut_B1), may_BN & (group_BN == cut_B1), cut_B=cut_B
        )


@dataclass(frozen=True, kw_only=True)
class HintedState:
    """A state of block-wise decoding whose reference also sees some of the later tokens.

    block: slots of a block of the decoding. tokens: that the next decision reveals. share: of the
    slots of the block after the present one, whose finished tokens the reference is shown, chosen
    at random, as long as that block begins before the end of the response.
    Targets are the next `tokens` in the recorded order; "block" holds the masked slots of the
    present block, of which a reference may choose.
    Source: d-OPSD.
    """

    needs_order: ClassVar[bool] = True
    block: int = 32
    tokens: int = 2
    share: float = 0.25
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        _check_steps("block", self.block)
        _check_steps("tokens", self.tokens)
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must be in [0, 1], got {self.share}")

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        step_BN, num_B = _dense_steps(batch)
        state_B = draws.below(num_B, CUT) if cut_B is None else torch.minimum(cut_B, num_B)
        visible_BN = (step_BN >= 0) & (step_BN < state_B.unsqueeze(1))
        masked_BN = batch.slot_BN & (step_BN >= 0) & ~visible_BN
        slot_N = torch.arange(batch.num_slots)
        block_N = slot_N.div(self.block, rounding_mode="floor")
        # The present block is the one whose slot comes next.
        last = torch.iinfo(torch.int64).max
        next_B = step_BN.masked_fill(~masked_BN, last).argmin(1)
        present_B1 = block_N[next_B].unsqueeze(1)
        here_BN = masked_BN & (block_N == present_B1) & self.filler.eligible(batch)
        place_BN = step_BN.masked_fill(~here_BN, last).argsort(dim=1, stable=True).argsort(1)
        first_later_B = (present_B1.squeeze(1) + 1) * self.block
        later_BN = batch.slot_BN & (block_N == present_B1 + 1)
        later_BN = later_BN & (first_later_B < batch.length_B).unsqueeze(1)
        draw_BN = draws.uniform_slots(batch.num_slots, SUBSET).masked_fill(~later_BN, 2.0)
        number_B1 = (self.share * later_BN.sum(1)).long().unsqueeze(1)
        shown_BN = later_BN & (draw_BN.argsort(1).argsort(1) < number_B1)
        return Sample.of(
            visible_BN,
            here_BN & (place_BN < self.tokens),
            cut_B=state_B,
            sets={"block": here_BN},
            reference_ids_BN=batch.response_ids_BN.masked_fill(
                ~(visible_BN | shown_BN), batch.mask_id
            ),
        )
