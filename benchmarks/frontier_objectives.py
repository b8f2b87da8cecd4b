"""A control of the study: two contexts that learn an order which no decoder took."""

from dataclasses import replace
from typing import Any

import torch

from tabom.core import keys
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.mixture import Mixture
from tabom.objectives.options import TwoContextOptions
from tabom.objectives.presets import two_contexts


def shuffled(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The batch with the revealed slots of each response in a random order, the same every time."""
    assert batch.order_BN is not None
    revealed_BN = batch.order_BN >= 0
    slot_N = torch.arange(batch.num_slots)
    draw_BN = keys.uniform(keys.text_key("shuffled"), batch.key_B.unsqueeze(1), slot_N)
    place_BN = draw_BN.masked_fill(~revealed_BN, 2.0).argsort(1).argsort(1)
    order_BN = place_BN.masked_fill(~revealed_BN, -1)
    return replace(batch, order_BN=order_BN, step_BN=order_BN, entropy_BN=None)


class Shuffled(Mixture):
    """A mixture whose every context follows the shuffled order."""

    def draw(self, batch: TrajectoryBatch, **settings: Any) -> Context:
        return super().draw(shuffled(batch), **settings)


def shuffled_contexts(options: TwoContextOptions) -> Shuffled:
    """`two_contexts` under a shuffled order: as many forward passes, nothing true to learn."""
    return Shuffled(parts=two_contexts(options).parts)
