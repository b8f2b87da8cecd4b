"""Likelihoods of an order against sums over all orders, in float64."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows
from tabom.objectives.terms_order import NextSlot, OrderLikelihood, RevealedSet

Maker = Callable[..., TrajectoryBatch]


def _context(num_rows: int, *, window: list[int], now: list[int]) -> Context:
    """One response with every row masked, the first of the window next."""
    is_now_R = torch.zeros(num_rows, dtype=torch.bool)
    is_now_R[now] = True
    return Context(
        input_ids_BN=torch.zeros(1, num_rows, dtype=torch.int64),
        row_batch_R=torch.zeros(num_rows, dtype=torch.int64),
        row_slot_R=torch.arange(num_rows),
        label_R=torch.zeros(num_rows, dtype=torch.int64),
        ce_weight_R=torch.zeros(num_rows),
        window_BW=torch.tensor([window]),
        masked_BM=torch.arange(num_rows)[None],
        next_B=torch.tensor([window[0]]),
        sets={"next_step": is_now_R},
    )


def _rows(entropy_R: Tensor) -> Rows:
    return Rows(ce_R=entropy_R, entropy_R=entropy_R)


def _ordered(score: list[float], order: tuple[int, ...] | list[int]) -> float:
    """The probability that exactly these are drawn first, in this order."""
    weight = [math.exp(s) for s in score]
    left, probability = list(range(len(weight))), 1.0
    for i in order:
        probability *= weight[i] / sum(weight[j] for j in left)
        left.remove(i)
    return probability


entropies = st.lists(st.floats(0, 12), min_size=3, max_size=6)


@given(entropies, st.integers(1, 3), st.floats(0.2, 4))
def test_the_first_draws_in_order(values: list[float], draws: int, beta: float) -> None:
    entropy_R = torch.tensor(values, dtype=torch.float64)
    window = list(range(len(values)))[::-1][:3]
    term = OrderLikelihood(beta=beta, draws=draws)
    total, _ = term.value(_rows(entropy_R), _context(len(values), window=window, now=[0]))
    expected = _ordered([-beta * v for v in values], window[:draws])
    assert float(total) * draws == pytest.approx(-math.log(expected), abs=1e-6)


@given(entropies, st.integers(1, 3), st.floats(0.2, 3))
def test_a_set_is_the_sum_over_its_orders(values: list[float], size: int, beta: float) -> None:
    """Also where rates differ by e^36, and where nothing is left beside the set."""
    size = min(size, len(values))
    entropy_R = torch.tensor(values, dtype=torch.float64)
    now = list(range(size))
    total, _ = RevealedSet(beta=beta).value(
        _rows(entropy_R), _context(len(values), window=now, now=now)
    )
    scores = [-beta * v for v in values]
    expected = sum(_ordered(scores, order) for order in permutations(now))
    assert (-float(total) * size) == pytest.approx(math.log(expected), rel=1e-7, abs=1e-8)


def test_gradients_of_a_set_are_exact() -> None:
    entropy_R = torch.tensor([0.1, 3.0, 0.7, 2.0], dtype=torch.float64, requires_grad=True)
    context = _context(4, window=[0, 2], now=[0, 2])

    def value(h_R: Tensor) -> Tensor:
        return RevealedSet().value(_rows(h_R), context)[0]

    assert torch.autograd.gradcheck(value, (entropy_R,), atol=1e-8)
    assert torch.autograd.gradcheck(
        lambda h_R: OrderLikelihood().value(_rows(h_R), context)[0], (entropy_R,), atol=1e-8
    )


@pytest.mark.parametrize("values", [[0.3, 1.0, 2.0], [0.0, 0.0, 9.0]])
def test_one_draw_is_the_next_slot(values: list[float]) -> None:
    context = _context(3, window=[1, 0], now=[1])
    rows = _rows(torch.tensor(values, dtype=torch.float64))
    expected = NextSlot(beta=1.5).value(rows, context)[0]
    for term in (OrderLikelihood(beta=1.5, draws=1), RevealedSet(beta=1.5)):
        assert float(term.value(rows, context)[0]) == pytest.approx(float(expected), abs=1e-9)


def test_a_wrong_answers_decision_becomes_less_likely() -> None:
    """Below 0 the advantage turns the gradient and the loss stays bounded, as p goes to 0 or 1."""
    context = _context(3, window=[1], now=[1])
    context.advantage_B = torch.tensor([-0.5])
    for lead, bound in ((-30.0, 1e-6), (0.0, 2.0), (30.0, 20.0)):
        entropy_R = torch.tensor([1.0, 1.0 - lead, 1.0], dtype=torch.float64, requires_grad=True)
        loss = NextSlot().value(_rows(entropy_R), context)[0]
        loss.backward()
        assert 0 <= float(loss.detach()) <= bound
        assert entropy_R.grad is not None
        assert entropy_R.grad.isfinite().all()
    context.advantage_B = torch.tensor([2.0])
    rows = _rows(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
    assert float(NextSlot().value(rows, context)[0]) == pytest.approx(2 * 1.0986123, abs=1e-6)


@pytest.mark.parametrize("sets", [False, True])
def test_a_preset_asks_for_all_masked_slots(make_batch: Maker, sets: bool) -> None:
    batch = make_batch(size=5, num_slots=10, tokens_per_step=3)
    objective = build_objective("boltzmann_listwise", window=4, sets=sets)
    context = objective.draw(batch, seed=0, step=0, cut_B=torch.tensor([0, 3, 4, 6, 9]))
    masked = (context.input_ids_BN == batch.mask_id).sum(1)
    assert (context.masked_BM >= 0).sum(1).tolist() == masked.tolist()
    if sets:
        assert batch.step_BN is not None
        now_R = context.sets["next_step"]
        for b in range(5):
            rows = now_R & (context.row_batch_R == b)
            steps = batch.step_BN[b, context.row_slot_R[rows]]
            left = batch.step_BN[b][context.input_ids_BN[b] == batch.mask_id]
            assert set(steps.tolist()) == {int(left.min())}
            assert int(rows.sum()) == int((left == left.min()).sum())


def test_settings_that_cannot_be(make_batch: Maker) -> None:
    bad: list[Callable[[], Any]] = [
        lambda: OrderLikelihood(beta=0),
        lambda: OrderLikelihood(draws=-1),
        lambda: RevealedSet(beta=-1),
    ]
    for make in bad:
        with pytest.raises(ConfigError, match=r"beta|draws"):
            make()
    plain = build_objective("tabom", window=2).draw(make_batch(), seed=0, step=0)
    for term in (OrderLikelihood(), RevealedSet()):
        with pytest.raises(ObjectiveError, match="masked_BM"):
            term.value(_rows(torch.zeros(len(plain.label_R))), plain)
