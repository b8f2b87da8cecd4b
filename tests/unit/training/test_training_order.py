import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.training.order import StepSampler


def order(
    lengths: list[int], *, micro: int, step: int, group: bool = False, epoch: int = 0, seed: int = 5
) -> list[int]:
    sampler = StepSampler(
        lengths, num_taken=len(lengths) // micro * micro, step_batch=step, group_by_length=group,
        seed=seed, epoch=lambda: epoch,
    )  # fmt: skip
    shown = list(sampler)
    assert len(sampler) == len(shown)
    return shown


def steps(shown: list[int], size: int) -> list[set[int]]:
    return [set(shown[i : i + size]) for i in range(0, len(shown), size)]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=70),
    micro=st.integers(1, 4),
    turns=st.integers(1, 4),
    group=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_epoch_shows_what_fills_micro_batches_and_a_step_is_sorted(
    lengths: list[int], micro: int, turns: int, group: bool, epoch: int
) -> None:
    step = micro * turns
    shown = order(lengths, micro=micro, step=step, group=group, epoch=epoch)
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(5 + epoch))
    num_taken = len(lengths) // micro * micro
    num_whole = num_taken // step * step
    # What no micro-batch takes is as the shuffle has it: sorted, it would be the longest.
    assert sorted(shown) == sorted(shuffled[:num_taken].tolist())
    assert set(shown[num_whole:num_taken]) == set(shuffled[num_whole:num_taken].tolist())
    for i in range(0, num_taken, step):
        part = [lengths[j] for j in shown[i : min(i + step, num_taken)]]
        assert part == sorted(part)
    if not group:  # sorting decides who stands beside whom, never who is in a step
        assert steps(shown[:num_whole], step) == steps(shuffled[:num_whole].tolist(), step)


@pytest.mark.parametrize("group", [False, True])
def test_how_a_step_is_cut_up_does_not_change_the_order(group: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 99, 64).tolist()
    orders = [order(lengths, micro=m, step=8, group=group) for m in (1, 2, 4, 8)]
    assert all(o == orders[0] for o in orders)
    assert order(lengths, micro=4, step=8, group=group, epoch=1) != orders[0]
    assert order(lengths, micro=4, step=8, group=group, seed=6) != orders[0]


def test_padding_that_is_saved() -> None:
    """Lengths of mean 150 and cv 0.6, micro-batches of 4, 8 of them a step."""
    rng = np.random.default_rng(0)
    spread = np.sqrt(np.log(1 + 0.6**2))
    lengths = rng.lognormal(np.log(150) - spread**2 / 2, spread, 4096).round().clip(1)

    def padded(shown: list[int]) -> float:
        rows = lengths[shown].reshape(-1, 4)
        return float(4 * rows.max(1).sum() / rows.sum())

    whole = lengths.astype(int).tolist()
    assert padded(list(range(4096))) > 1.55  # as they come
    assert padded(order(whole, micro=4, step=32)) < 1.18
    assert padded(order(whole, micro=4, step=32, group=True)) < 1.02


def test_grouped_steps_come_in_no_order_of_length() -> None:
    lengths = list(range(400))
    shown = order(lengths, micro=4, step=4, group=True)
    firsts = [lengths[i] for i in shown[::4]]
    assert firsts != sorted(firsts)
    assert abs(float(np.corrcoef(range(len(firsts)), firsts)[0, 1])) < 0.4
