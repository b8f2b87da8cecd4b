"""Slots in decoding order, which of them may be targets, and the keyed draws over them.

Legend: B batch, N response slots, W window.

Everything is vectorised over the batch. A slot "participates" if the decoder revealed it (or, in
data without an order, if the data gave it); all others are masked in every input and never used.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tabom.core import keys
from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch

# Different draws, different streams. Two arms of a study that draw a cut draw the same one.
CUT, END, SUBSET, TIME, PART, NOISE, TOKEN = 1, 2, 3, 4, 5, 6, 7


@dataclass(frozen=True, kw_only=True)
class Filler:
    """Which participating slots may be targets; filler is what follows the first end token.

    policy: "supervise": all. "ignore": only up to and including the first end token. "first_k": k
        more than that. "not_pad": every slot whose token is not `pad_id` (the release, without
        its flag for padding; this leaves out the first end token too where it is the pad token).
    Ignored slots are never a target nor in a pair; they are visible or masked as their order says.
    """

    policy: Literal["supervise", "ignore", "first_k", "not_pad"] = "supervise"
    k: int = 0
    pad_id: int | None = None

    def __post_init__(self) -> None:
        if self.policy == "first_k" and self.k < 1:
            raise ConfigError(
                f"filler 'first_k' needs filler_k of at least 1, got {self.k}; for none of the "
                "filler use filler 'ignore'"
            )
        if self.policy == "not_pad" and self.pad_id is None:
            raise ConfigError(
                "supervise_padding false needs pad_id, the token id that is never a target"
            )

    def eligible(self, batch: TrajectoryBatch) -> Tensor:
        """Slots that may be targets, as far as their place and token decide."""
        response_BN = batch.response_ids_BN
        if self.policy == "supervise":
            return torch.ones_like(response_BN, dtype=torch.bool)
        if self.policy == "not_pad":
            assert self.pad_id is not None
            return response_BN != self.pad_id
        extra = self.k if self.policy == "first_k" else 0
        slot_N = torch.arange(response_BN.shape[1])
        return slot_N < (batch.length_B + extra).unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Keyed draws for the responses of a batch: a pure function of (seed, step, response).

    progress: share of the training that is done, in [0, 1], for contexts that change with it.
    """

    seed: int
    step: int
    key_B: Tensor
    progress: float = 0.0

    def below(self, bound_B: Tensor, stream: int) -> Tensor:
        """int64 [B] in [0, bound); 0 where the bound is below 1."""
        draw_B: Tensor = keys.below(bound_B.clamp(min=1), self.seed, self.step, self.key_B, stream)
        return draw_B

    def uniform(self, stream: int) -> Tensor:
        """float64 [B] in [0, 1)."""
        draw_B: Tensor = keys.uniform(self.seed, self.step, self.key_B, stream)
        return draw_B

    def uniform_slots(self, num_slots: int, stream: int) -> Tensor:
        """float64 [B, N] in [0, 1); a slot's draw does not depend on N."""
        slot_N = torch.arange(num_slots)
        key_B1 = self.key_B.unsqueeze(1)
        draw_BN: Tensor = keys.uniform(self.seed, self.step, key_B1, stream, slot_N)
        return draw_BN


@dataclass(frozen=True, kw_only=True)
class OrderedSlots:
    """The slots of every response in decoding order; "place" is the index into that order.

    slot_BN: int64, the slot at each place, participating ones first.
    place_BN: int64, the place of each slot. num_B: participating slots.
    eligible_BN: bool by PLACE: participates and may be a target.
    """

    slot_BN: Tensor
    place_BN: Tensor
    num_B: Tensor
    eligible_BN: Tensor

    @classmethod
    def of(cls, batch: TrajectoryBatch, filler: Filler) -> "OrderedSlots":
        """Sort the slots of a batch that has an order."""
        assert batch.order_BN is not None  # `Objective` has looked
        order_BN = batch.order_BN
        participates_BN = batch.slot_BN & (order_BN >= 0)
        last = torch.iinfo(torch.int64).max
        slot_BN = order_BN.masked_fill(~participates_BN, last).argsort(dim=1, stable=True)
        may_BN = participates_BN & filler.eligible(batch)
        return cls(
            slot_BN=slot_BN,
            place_BN=slot_BN.argsort(dim=1),
            num_B=participates_BN.sum(1),
            eligible_BN=may_BN.gather(1, slot_BN),
        )

    def places(self) -> Tensor:
        """int64 [N]: 0, 1, ..., N - 1."""
        return torch.arange(self.slot_BN.shape[1])

    def visible(self, cut_B: Tensor) -> Tensor:
        """By slot: revealed among the first `cut` ones."""
        return self.place_BN < torch.minimum(cut_B, self.num_B).unsqueeze(1)

    def place_of_eligible(self, count_B: Tensor) -> Tensor:
        """The place of the eligible slot that has `count` eligible ones before it; N if none."""
        return (self.eligible_BN.cumsum(1) <= count_B.unsqueeze(1)).sum(1)

    def window(self, start_B: Tensor, end_B: Tensor, width: int) -> Tensor:
        """Slots [B, width] of the next eligible places in [start, end), in order; -1 padding."""
        inside_BN = (
            self.eligible_BN
            & (self.places() >= start_B.unsqueeze(1))
            & (self.places() < end_B.unsqueeze(1))
        )
        return compact(self.slot_BN, inside_BN, width)


def compact(value_BN: Tensor, keep_BN: Tensor, width: int) -> Tensor:
    """The first `width` kept values of each row, moved to its start; -1 where there are fewer."""
    num_columns = keep_BN.shape[1]
    places_N = torch.arange(num_columns)
    chosen_BW = torch.where(keep_BN, places_N, num_columns).sort(dim=1).values[:, :width]
    padded_BN = torch.nn.functional.pad(value_BN, (0, 1), value=-1)
    out_BW = padded_BN.gather(1, chosen_BW)
    return torch.nn.functional.pad(out_BW, (0, width - out_BW.shape[1]), value=-1)


def scatter_slots(slot_BW: Tensor, num_slots: int) -> Tensor:
    """bool [B, N]: the slots listed in `slot_BW` (-1 is no slot)."""
    marked_BN = torch.zeros(slot_BW.shape[0], num_slots + 1, dtype=torch.bool)
    marked_BN.scatter_(1, slot_BW.masked_fill(slot_BW < 0, num_slots), True)
    return marked_BN[:, :num_slots]
