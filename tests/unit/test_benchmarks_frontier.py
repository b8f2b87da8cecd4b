"""The study's arithmetic: what is chosen, what is read off a frontier, and its control."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import frontier
import frontier_tables as tables
from frontier_objectives import shuffled, shuffled_contexts
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.options import TwoContextOptions


def cell(phase: str, arm: str, lr: float, seed: int, lost: float, right: float) -> dict[str, Any]:
    others = {f"{name}@1": 100.0 - lost for name in frontier.OTHER_SETS}
    setting = None if arm == frontier.BASE else {"lr": lr, "objective": "nelbo", "options": {}}
    return {
        "phase": phase, "world": "toy-base", "arm": arm, "setting": setting, "seed": seed,
        "accuracy": {"chain@1": right, **others}, "cpu_seconds": 1.0,
    }  # fmt: skip


def tuned(curve: dict[float, tuple[float, float]]) -> list[dict[str, Any]]:
    """Cells of SFT-SD: by learning rate (forgetting, in-domain), under two seeds around it."""
    cells = []
    for seed, shift in ((100, 0.5), (101, -0.5)):
        cells.append(cell("tune", frontier.BASE, 0, seed, 0.0, 20.0))
        for lr, (lost, right) in curve.items():
            cells.append(cell("tune", "SFT-SD", lr, seed, lost + shift, right - shift))
    return cells


def test_the_best_within_each_budget_is_chosen_and_one_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curve = {1.0: (1.0, 30.0), 2.0: (2.9, 29.0), 3.0: (9.9, 50.0), 4.0: (12.0, 45.0),
             5.0: (13.0, 60.0), 6.0: (30.0, 90.0)}  # fmt: skip
    monkeypatch.setattr(frontier, "ARMS", {"SFT-SD": [{}] * len(curve)})
    rates = [s["lr"] for s in frontier.choose("toy-base", tuned(curve))["SFT-SD"]]
    assert rates == [1.0, 3.0]
    beyond = frontier.choose("toy-base", tuned(curve), beyond=True)["SFT-SD"]
    # 4.0 forgets less than 5.0 and gains less than what is chosen already.
    assert [s["lr"] for s in beyond] == [1.0, 3.0, 5.0]
    forgets = {1.0: (11.0, 50.0), 2.0: (20.0, 40.0)}
    monkeypatch.setattr(frontier, "ARMS", {"SFT-SD": [{}] * len(forgets)})
    chosen = frontier.choose("toy-base", tuned(forgets), beyond=True)["SFT-SD"]
    assert [s["lr"] for s in chosen] == [1.0]  # no setting keeps a budget: the least forgetful
    monkeypatch.setattr(frontier, "ARMS", {"SFT-SD": [{}] * 3})
    assert frontier.choose("toy-base", tuned(forgets)) == {}  # a setting is missing


def test_a_frontier_is_read_between_its_points() -> None:
    pairs = [(0.0, 20.0), (4.0, 40.0), (6.0, 35.0), (12.0, 60.0)]
    assert tables.at_budget(pairs, 3.0) == pytest.approx(35.0)
    assert tables.at_budget(pairs, 10.0) == pytest.approx(55.0)  # (6, 35) is beaten by (4, 40)
    assert tables.at_budget(pairs, 99.0) == 60.0
    assert tables.at_budget([(0.0, 20.0), (-1.0, 50.0)], 3.0) == 50.0  # nothing was forgotten
    assert tables.at_budget([(0.0, 20.0), (5.0, 10.0)], 10.0) == 20.0  # the base is a point


def test_intervals_are_of_differences_within_a_seed() -> None:
    values = {"A": {1: 10.0, 2: 90.0, 3: 50.0}, "B": {1: 9.0, 2: 88.0}}
    mean, low, high = tables.lead(values, "A", "B")  # type: ignore[misc]
    assert mean == pytest.approx(1.5)
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)  # t at 0.975 with one degree of freedom
    assert (low, high) == pytest.approx((1.5 - half, 1.5 + half), rel=1e-4)
    assert tables.lead(values, "A", "C") is None


@pytest.mark.parametrize(
    ("leads", "said"),
    [
        ([(1, -1, 3), (2, 0.5, 4)], "holds"),
        ([(1, -1, 3), (2, -0.5, 4)], "level with SFT-SD"),
        ([(5, 4, 6), (-1, -3, 1)], "below SFT-SD somewhere, within the interval"),
        ([(5, 4, 6), (-2, -3, -1)], "below SFT-SD somewhere"),
    ],
)
def test_an_arm_holds_if_it_is_nowhere_below(leads: list[Any], said: str) -> None:
    found = {
        f"world {i}, 3 points": {"arm": {"lead": {"SFT-SD": one}}} for i, one in enumerate(leads)
    }
    assert tables.holds({"cells": 3, **found}) == {"arm": said}


def test_the_control_shuffles_what_was_revealed_and_nothing_else() -> None:
    order_BN = torch.tensor([[3, 1, 0, 2, -1, 4], [0, 1, 2, -1, -1, -1]])
    batch = TrajectoryBatch(
        prompt_ids_BP=torch.ones(2, 1, dtype=torch.long),
        prompt_mask_BP=torch.ones(2, 1, dtype=torch.long),
        response_ids_BN=torch.arange(12).reshape(2, 6),
        key_B=torch.tensor([7, 8]),
        slot_BN=order_BN >= 0,
        length_B=torch.tensor([6, 3]),
        mask_id=99,
        order_BN=order_BN,
        step_BN=order_BN,
        entropy_BN=torch.zeros(2, 6),
    )
    once, again = shuffled(batch), shuffled(batch.take(torch.tensor([1, 0])))
    assert once.order_BN is not None
    assert again.order_BN is not None
    assert torch.equal(once.order_BN, again.order_BN.flip(0))  # of the response, not of the batch
    assert not torch.equal(once.order_BN, order_BN)
    assert torch.equal(once.order_BN.sort(1).values, order_BN.sort(1).values)
    assert torch.equal(once.order_BN < 0, order_BN < 0)
    objective = shuffled_contexts(TwoContextOptions(share=0.0, window=2))
    context = objective.draw(batch, seed=1, step=0)
    same = objective.draw(once, seed=1, step=0)
    assert torch.equal(context.label_R, same.label_R)  # shuffling twice is shuffling once
