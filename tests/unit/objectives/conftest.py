"""Batches of made-up trajectories."""

from collections.abc import Callable

import pytest
import torch

from tabom.objectives.batch import TrajectoryBatch

MASK = 99
Maker = Callable[..., TrajectoryBatch]


def _make(
    *,
    size: int = 4,
    num_slots: int = 12,
    seed: int = 0,
    tokens_per_step: int = 1,
    never: int = 0,
    entropy: bool = True,
    lengths: list[int] | None = None,
) -> TrajectoryBatch:
    """Responses revealed in random order; row b leaves up to `never` slots unrevealed."""
    generator = torch.Generator().manual_seed(seed)
    order_BN = torch.full((size, num_slots), -1)
    step_BN = torch.full((size, num_slots), -1)
    entropy_BN = torch.full((size, num_slots), torch.nan)
    for b in range(size):
        hidden = int(torch.randint(0, never + 1, (), generator=generator))
        slots = torch.randperm(num_slots, generator=generator)[: num_slots - hidden]
        order_BN[b, slots] = torch.arange(len(slots))
        step_BN[b, slots] = torch.arange(len(slots)) // tokens_per_step
        entropy_BN[b, slots] = torch.rand(len(slots), generator=generator).sort().values
    return TrajectoryBatch(
        prompt_ids_BP=torch.zeros(size, 3, dtype=torch.int64),
        prompt_mask_BP=torch.ones(size, 3, dtype=torch.int64),
        response_ids_BN=torch.randint(0, 10, (size, num_slots), generator=generator),
        key_B=torch.randint(0, 2**62, (size,), generator=generator),
        slot_BN=order_BN >= 0,
        length_B=torch.tensor(lengths or [num_slots] * size),
        mask_id=MASK,
        order_BN=order_BN,
        step_BN=step_BN,
        entropy_BN=entropy_BN if entropy else None,
    )


@pytest.fixture(scope="session")
def make_batch() -> Maker:
    return _make
