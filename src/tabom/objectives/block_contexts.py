"""Contexts inside one block of the response, and the complement of another context.

Legend: B batch, N response slots, G blocks.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.contexts import Sample, Sampler
from tabom.objectives.slots import CUT, NOISE, SUBSET, TIME, TOKEN, Draws, Filler


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must be in [0, 1], got {value}")


@dataclass(frozen=True, kw_only=True)
class BlockMask:
    """A part of one block is masked and asked for; blocks before it are visible, later ones hidden.

    block: slots of a block, of which one that has a possible target is drawn. None: the response.
    end_block: blocks of this size at the end of training; sizes between by the progress. None: the
        same all the time.
    order: whether the slots that the decoder reveals last are masked, or each one by chance.
    ratio, end_ratio: the masked share (its chance, where drawn) is uniform in
        [ratio * progress, end_ratio]; without end_ratio it is `ratio`.
    release: with `order`, one slot fewer is masked, as d3LLM's states (kept after each step) have.
    Source: dParallel (by chance, .5 * .999 + .001), d3LLM (order, U(.8 progress, .8)); both draw
    blocks that may be empty and then learn nothing, which ours does not.
    """

    block: int | None = 32
    end_block: int | None = None
    order: bool = False
    ratio: float = 0.5
    end_ratio: float | None = None
    release: bool = False
    filler: Filler = field(default_factory=Filler)

    @property
    def needs_order(self) -> bool:
        return self.order

    def __post_init__(self) -> None:
        for size in (self.block, self.end_block):
            if size is not None and size < 1:
                raise ConfigError(f"block must be at least 1 slot, got {size}")
        if self.end_block is not None and self.block is None:
            raise ConfigError("end_block needs block, the size at the start of training")
        _check_share("ratio", self.ratio)
        _check_share("end_ratio", self.end_ratio or 0.0)
        if self.release and not self.order:
            raise ConfigError("release goes with order: only recorded states have one more slot")

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        """cut_B: the slots visible before the block."""
        may_BN = batch.slot_BN & self.filler.eligible(batch)
        block_BN = self._block(may_BN, draws, cut_B)
        before_BN = batch.slot_BN & (block_BN.cumsum(1) == 0) & block_BN.any(1, keepdim=True)
        low = self.ratio if self.end_ratio is None else self.ratio * draws.progress
        high = self.ratio if self.end_ratio is None else self.end_ratio
        ratio_B = low + (high - low) * draws.uniform(TIME)
        if self.order:
            masked_BN = self._last(batch, block_BN, ratio_B)
        else:
            masked_BN = draws.uniform_slots(may_BN.shape[1], SUBSET) < ratio_B.unsqueeze(1)
        masked_BN = masked_BN & block_BN
        return Sample.of(
            before_BN | (block_BN & batch.slot_BN & ~masked_BN),
            masked_BN & may_BN,
            sets={"block": block_BN & may_BN},
            time_B=ratio_B,
        )

    def _block(self, may_BN: Tensor, draws: Draws, cut_B: Tensor | None) -> Tensor:
        """bool [B, N]: the block of each response."""
        batch_size, num_slots = may_BN.shape
        if self.block is None:
            return torch.ones_like(may_BN)
        size = self.block
        if self.end_block is not None:
            size = int(size + (self.end_block - size) * draws.progress)
        num_blocks = -(-num_slots // size)
        padded_BN = torch.nn.functional.pad(may_BN, (0, num_blocks * size - num_slots))
        is_used_BG = padded_BN.view(batch_size, num_blocks, size).any(2)
        if cut_B is None:
            place_B = draws.below(is_used_BG.sum(1), CUT)
            block_B = (is_used_BG.cumsum(1) <= place_B.unsqueeze(1)).sum(1)
        else:
            block_B = cut_B // size
        slot_N = torch.arange(num_slots)
        return slot_N.div(size, rounding_mode="floor") == block_B.unsqueeze(1)

    def _last(self, batch: TrajectoryBatch, block_BN: Tensor, ratio_B: Tensor) -> Tensor:
        """The slots of the block that are revealed last, a share of it; never-revealed ones too."""
        assert batch.order_BN is not None
        last = torch.iinfo(torch.int64).max
        is_never_BN = ~batch.slot_BN | (batch.order_BN < 0)
        order_BN = batch.order_BN.masked_fill(is_never_BN, last - 1).masked_fill(~block_BN, last)
        place_BN = order_BN.argsort(dim=1, stable=True).argsort(1)
        visible_B = ((1 - ratio_B) * block_BN.sum(1)).long() + int(self.release)
        return place_BN >= visible_B.unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Complement:
    """The context of another sampler with targets and visible slots of its block exchanged.

    of: a sampler with a set "block" (`BlockMask`), or random masks (then the response).
    """

    of: Sampler

    @property
    def filler(self) -> Filler:
        return self.of.filler

    @property
    def needs_order(self) -> bool:
        return self.of.needs_order

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        first = self.of.sample(batch, draws, cut_B)
        may_BN = batch.slot_BN & self.filler.eligible(batch)
        block_BN = first.sets.get("block", may_BN)
        target_BN = block_BN & ~first.target_BN
        visible_BN = (first.visible_BN & ~target_BN) | first.target_BN
        time_B = None if first.time_B is None else 1 - first.time_B
        return Sample.of(visible_BN, target_BN, sets=first.sets, time_B=time_B)


@dataclass(frozen=True, kw_only=True)
class EarliestMasked:
    """In each block the slots revealed FIRST are hidden, some as random tokens; all are asked.

    block: slots of a block. ratios, chances: a share of each block is hidden, drawn per response.
    noise: this share of the hidden slots (at least one) shows a random token instead of the mask.
    level: slots of a level of the path: level g holds each block's first (g + 1) * level slots,
        and a target weighs the mean over levels of one over the slots in them, so that early
        slots, which are in more levels, weigh more.
    Targets are the path's slots, hidden or not; the set "ddo" holds the hidden ones.
    filler: slots that are never asked. "first_k" leaves k in "ddo"; the path leaves out all.
    Source: T3D's code. Its intent and its code differ in which slots are hidden; this is the code.
    """

    needs_order: ClassVar[bool] = True
    block: int = 8
    ratios: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    chances: tuple[float, ...] = (1.0, 0.100112915, 0.00390625, 1.52587890625e-05)
    noise: float = 0.1
    level: int = 4
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        if self.block < 1 or self.level < 1:
            raise ConfigError(f"block and level must be at least 1, got {self.block}, {self.level}")
        if len(self.ratios) != len(self.chances) or not self.ratios or min(self.chances) < 0:
            raise ConfigError("ratios and chances must be as many, and no chance below 0")
        for ratio in (*self.ratios, self.noise):
            _check_share("ratio", ratio)

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        if cut_B is not None:
            raise ObjectiveError("this context has no cut to force")
        assert batch.order_BN is not None
        place_BN, size_BN = self._places(batch.order_BN, batch.slot_BN)
        chance_K = torch.tensor(self.chances, dtype=torch.float64)
        bound_K = (chance_K / chance_K.sum()).cumsum(0)
        ratio_K = torch.tensor(self.ratios, dtype=torch.float64)
        ratio_B = ratio_K[torch.bucketize(draws.uniform(TIME), bound_K[:-1], right=True)]
        hidden_BN = batch.slot_BN & (place_BN < (ratio_B.unsqueeze(1) * size_BN).floor())
        noisy_BN = self._noisy(hidden_BN, draws)
        input_ids_BN = batch.response_ids_BN.masked_fill(hidden_BN | ~batch.slot_BN, batch.mask_id)
        input_ids_BN = torch.where(noisy_BN, self._tokens(batch, draws), input_ids_BN)
        path_BN = batch.slot_BN & Filler(policy="ignore").eligible(batch)
        weight_BN = path_weights(place_BN, path_BN, level=self.level, block=self.block)
        return Sample.of(
            batch.slot_BN & ~hidden_BN,
            path_BN & (weight_BN > 0),
            sets={"ddo": hidden_BN & self.filler.eligible(batch)},
            weight_BN=weight_BN,
            input_ids_BN=input_ids_BN,
        )

    def _places(self, order_BN: Tensor, slot_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Each slot's place in the order of its block, and the revealed slots of that block."""
        batch_size, num_slots = order_BN.shape
        num_blocks = -(-num_slots // self.block)
        last = torch.iinfo(torch.int64).max
        order_BN = order_BN.masked_fill(~slot_BN | (order_BN < 0), last)
        spare = num_blocks * self.block - num_slots
        padded = torch.nn.functional.pad(order_BN, (0, spare), value=last)
        by_block = padded.view(batch_size, num_blocks, self.block)
        place = (
            by_block.argsort(dim=2, stable=True).argsort(dim=2).view(batch_size, -1)[:, :num_slots]
        )
        size = (by_block < last).sum(2, keepdim=True).expand_as(by_block)
        return place, size.reshape(batch_size, -1)[:, :num_slots]

    def _noisy(self, hidden_BN: Tensor, draws: Draws) -> Tensor:
        """A random share of the hidden slots, one at least."""
        if not self.noise:
            return torch.zeros_like(hidden_BN)
        draw_BN = draws.uniform_slots(hidden_BN.shape[1], NOISE).masked_fill(~hidden_BN, 2.0)
        number_B = (self.noise * hidden_BN.sum(1)).floor().clamp(min=1)
        return hidden_BN & (draw_BN.argsort(1).argsort(1) < number_B.unsqueeze(1))

    def _tokens(self, batch: TrajectoryBatch, draws: Draws) -> Tensor:
        """Random tokens below the mask's id, which is the first that no text holds."""
        draw_BN = draws.uniform_slots(batch.num_slots, TOKEN)
        return (draw_BN * batch.mask_id).long().clamp(max=max(batch.mask_id - 1, 0))


def path_weights(place_BN: Tensor, path_BN: Tensor, *, level: int, block: int) -> Tensor:
    """float64 [B, N]: mean over the levels that have a slot of one over the slots in them.

    place_BN: each slot's place in the order of its block. path_BN: the slots that count.
    """
    num_levels = -(-block // level)
    weight_BN = torch.zeros_like(place_BN, dtype=torch.float64)
    used_B = torch.zeros(len(place_BN), dtype=torch.float64)
    for g in range(num_levels):
        in_level_BN = path_BN & (place_BN < (g + 1) * level)
        size_B = in_level_BN.sum(1)
        weight_BN += in_level_BN / size_B.clamp(min=1).unsqueeze(1)
        used_B += size_B > 0
    return weight_BN / used_B.clamp(min=1).unsqueeze(1)
