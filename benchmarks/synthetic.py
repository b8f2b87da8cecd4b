"""Made-up trajectories for benchmarks: random tokens, revealed in a random order.

Legend: B batch, P prompt, N response slots.
"""

import torch

from tabom.objectives.batch import TrajectoryBatch


def make_batch(
    size: int,
    *,
    num_prompt: int,
    num_slots: int,
    vocab_size: int,
    mask_id: int | None = None,
    min_prompt: int | None = None,
    seed: int = 0,
) -> TrajectoryBatch:
    """A collated batch in which every slot was revealed, one a step.

    vocab_size: tokens are drawn below its last 16 ids, where the special ones are.
    min_prompt: prompts are this long to num_prompt, left-padded (default: all num_prompt).
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(width: int) -> torch.Tensor:
        return torch.randint(0, vocab_size - 16, (size, width), generator=generator)

    length_B = torch.linspace(min_prompt or num_prompt, num_prompt, size).round().long()
    order_BN = torch.rand(size, num_slots, generator=generator).argsort(1)
    entropy_BN = 3 * (order_BN + torch.rand(size, num_slots, generator=generator)) / num_slots
    return TrajectoryBatch(
        prompt_ids_BP=ids(num_prompt),
        prompt_mask_BP=(torch.arange(num_prompt) >= num_prompt - length_B.unsqueeze(1)).long(),
        response_ids_BN=ids(num_slots),
        key_B=torch.randint(0, 2**62, (size,), generator=generator),
        slot_BN=torch.ones(size, num_slots, dtype=torch.bool),
        length_B=torch.full((size,), num_slots),
        mask_id=vocab_size - 2 if mask_id is None else mask_id,
        order_BN=order_BN,
        step_BN=order_BN.clone(),
        entropy_BN=entropy_BN,
    )
