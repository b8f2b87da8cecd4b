"""The terms against values worked by hand, plain loops in float64, and naive autograd."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows
from tabom.objectives.terms import CrossEntropy, Ranking
from tabom.objectives.terms_order import NextSlot

Maker = Callable[..., TrajectoryBatch]


def _context(
    window: list[list[int]],
    *,
    rows: int,
    weights: list[float] | None = None,
    masked: list[list[int]] | None = None,
    following: list[int] | None = None,
    pair: Tensor | None = None,
) -> Context:
    zero = torch.zeros(rows, dtype=torch.int64)
    return Context(
        input_ids_BN=torch.zeros(len(window), 1, dtype=torch.int64),
        row_batch_R=zero,
        row_slot_R=zero,
        label_R=zero,
        ce_weight_R=torch.tensor(weights or [1.0] * rows),
        window_BW=torch.tensor(window),
        pair_BWW=pair,
        masked_BM=None if masked is None else torch.tensor(masked),
        next_B=None if following is None else torch.tensor(following),
    )


def _doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_ranking_worked_by_hand() -> None:
    """Entropies .5, .4, .9 in order, margin .2.

    Pairs: max(0, .5 - .4 + .2) = .3; max(0, .5 - .9 + .2) = 0; max(0, .4 - .9 + .2) = 0. Mean .1.
    """
    entropy = _doubles(0.5, 0.4, 0.9)
    context = _context([[0, 1, 2]], rows=3)
    total, metrics = Ranking(margin=0.2).value(Rows(ce_R=entropy * 0, entropy_R=entropy), context)
    assert total.item() == pytest.approx(0.1, abs=1e-12)
    total.backward()
    assert entropy.grad is not None
    assert entropy.grad.tolist() == pytest.approx([1 / 3, -1 / 3, 0.0])
    assert [float(x) for x in metrics["hinge_active"]] == [1.0, 3.0]
    assert [float(x) for x in metrics["order_agreement"]] == [2.0, 3.0]


@pytest.mark.parametrize(("side", "signs"), [("later", [0, -1, 0]), ("earlier", [1, 0, 0])])
def test_one_sided_ranking_moves_one_side(side: Any, signs: list[int]) -> None:
    entropy = _doubles(0.5, 0.4, 0.9)
    total, _ = Ranking(margin=0.2, side=side).value(
        Rows(ce_R=entropy * 0, entropy_R=entropy), _context([[0, 1, 2]], rows=3)
    )
    assert total.item() == pytest.approx(0.1, abs=1e-12)  # the value does not depend on the side
    total.backward()
    assert entropy.grad is not None
    assert entropy.grad.tolist() == pytest.approx([s / 3 for s in signs])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    margin=st.sampled_from([0.0, 0.1, 0.3]),
    side=st.sampled_from(["both", "later", "earlier"]),
    drops=st.booleans(),
)
def test_ranking_is_the_loop(
    seed: int, sizes: list[int], margin: float, side: Any, drops: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    permutation = torch.randperm(rows, generator=generator).tolist()
    window = [[permutation.pop() for _ in range(size)] + [-1] * (7 - size) for size in sizes]
    pair = torch.rand(len(sizes), 7, 7, generator=generator) < 0.7 if drops else None
    value = torch.rand(rows, generator=generator, dtype=torch.float64)
    entropy = value.clone().requires_grad_()
    total, metrics = Ranking(margin=margin, side=side).value(
        Rows(ce_R=entropy * 0, entropy_R=entropy), _context(window, rows=rows, pair=pair)
    )
    total.backward()
    expected, active, agree, count = 0.0, 0, 0, 0
    grad = [0.0] * rows
    for b, order in enumerate(window):
        found = [
            (i, j)
            for i, j in itertools.combinations(range(sizes[b]), 2)
            if pair is None or pair[b, i, j]
        ]
        for i, j in found:
            gap = float(value[order[i]] - value[order[j]])
            hinge = max(0.0, gap + margin)
            expected += hinge / len(found)
            active += hinge > 0
            agree += gap < 0
            count += 1
            if hinge > 0:
                grad[order[i]] += (side != "later") / len(found)
                grad[order[j]] -= (side != "earlier") / len(found)
    assert total.item() == pytest.approx(expected, abs=1e-12)
    assert entropy.grad is not None
    assert entropy.grad.tolist() == pytest.approx(grad, abs=1e-12)
    assert [float(x) for x in metrics["hinge_active"]] == [active, count]
    assert [float(x) for x in metrics["order_agreement"]] == [agree, count]


def test_cross_entropy_worked_by_hand() -> None:
    """Weights 1/2, 1/2 and 0: (1 + 3) / 2, and the row of weight 0 may hold anything."""
    ce, entropy = _doubles(1.0, 3.0, math.nan), _doubles(0.2, 0.4, 0.9)
    context = _context([[0, 1, -1], [1, -1, -1]], rows=3, weights=[0.5, 0.5, 0.0])
    total, metrics = CrossEntropy().value(Rows(ce_R=ce, entropy_R=entropy), context)
    assert total.item() == pytest.approx(2.0)
    total.backward()
    assert ce.grad is not None
    assert ce.grad.tolist() == [0.5, 0.5, 0.0]
    assert [float(x) for x in metrics["ce_token"]] == [4.0, 2.0]
    sums, counts = metrics["entropy_by_position"]
    assert sums.tolist() == pytest.approx([0.2 + 0.4, 0.4, 0.0])
    assert counts.tolist() == [2, 1, 0]
    assert not sums.requires_grad


def test_next_slot_worked_by_hand() -> None:
    """Entropies ln 1, ln 2, ln 4, beta 1: exp(-h) = 1, 1/2, 1/4, so p(second) = (1/2) / (7/4)."""
    entropy = _doubles(0.0, math.log(2), math.log(4))
    context = _context([[0]], rows=3, masked=[[0, 1, 2]], following=[1])
    total, metrics = NextSlot().value(Rows(ce_R=entropy * 0, entropy_R=entropy), context)
    assert total.item() == pytest.approx(math.log(3.5), abs=1e-12)
    total.backward()
    assert entropy.grad is not None
    # d/dh_r = [r = r*] - p_r
    assert entropy.grad.tolist() == pytest.approx([-4 / 7, 1 - 2 / 7, -1 / 7])
    assert [float(x) for x in metrics["next_slot_probability"]] == pytest.approx([2 / 7, 1.0])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    beta=st.sampled_from([0.5, 1.0, 5.0]),
)
def test_next_slot_gradient_is_that_of_a_naive_softmax(
    seed: int, sizes: list[int], beta: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    permutation = torch.randperm(rows, generator=generator).tolist()
    masked = [[permutation.pop() for _ in range(size)] for size in sizes]
    following = [row[seed % len(row)] if row else -1 for row in masked]
    value = torch.rand(rows, generator=generator, dtype=torch.float64)
    padded = [row + [-1] * (6 - len(row)) for row in masked]
    ours, naive = value.clone().requires_grad_(), value.clone().requires_grad_()
    total, metrics = NextSlot(beta=beta).value(
        Rows(ce_R=ours * 0, entropy_R=ours),
        _context([[]] * len(sizes), rows=rows, masked=padded, following=following),
    )
    parts = [
        -(-beta * naive[row]).log_softmax(0)[row.index(nxt)]
        for row, nxt in zip(masked, following, strict=True)
        if row
    ]
    assert total.item() == pytest.approx(sum(p.item() for p in parts), abs=1e-12)
    total.backward()
    assert ours.grad is not None
    assert ours.grad.isfinite().all()
    if parts:
        torch.stack(parts).sum().backward()
        assert torch.allclose(ours.grad, naive.grad, atol=1e-12)  # type: ignore[arg-type]
        probability = sum(math.exp(-float(p.detach())) for p in parts)
        assert float(metrics["next_slot_probability"][0]) == pytest.approx(probability)
    assert int(metrics["next_slot_probability"][1]) == len(parts)


def _fixed_entropy(batch: TrajectoryBatch, context: Context, h_BN: Tensor) -> Tensor:
    return h_BN[context.row_batch_R, context.row_slot_R]


def test_the_product_over_a_trajectory_is_plackett_luce(make_batch: Maker) -> None:
    """With entropies that do not depend on the context, and over all orders it sums to one."""
    beta = 1.7
    h_BN = torch.tensor([[0.3, 1.2, 0.0, 0.7]], dtype=torch.float64)
    total_probability = 0.0
    for order in itertools.permutations(range(4)):
        batch = make_batch(size=1, num_slots=4)
        batch = replace(batch, order_BN=torch.tensor([order]), step_BN=torch.tensor([order]))
        objective = build_objective("boltzmann", window=2, beta=beta)
        nll = 0.0
        for cut in range(4):
            context = objective.draw(batch, seed=0, step=0, cut_B=torch.tensor([cut]))
            entropy_R = _fixed_entropy(batch, context, h_BN)
            nll += float(
                objective.term_sums(Rows(ce_R=entropy_R, entropy_R=entropy_R), context).sums[
                    "next_slot"
                ]
            )
        slots = sorted(range(4), key=lambda n: order[n])
        left, expected = list(range(4)), 1.0
        for slot in slots:
            weights = {n: math.exp(-beta * float(h_BN[0, n])) for n in left}
            expected *= weights[slot] / sum(weights.values())
            left.remove(slot)
        assert math.exp(-nll) == pytest.approx(expected, rel=1e-9)
        total_probability += math.exp(-nll)
    assert total_probability == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    never=st.integers(0, 8),
    filler=st.sampled_from(["supervise", "ignore"]),
    candidates=st.sampled_from(["all", "eligible"]),
    context_name=st.sampled_from(["order_prefix", "step_prefix", "segment"]),
)
def test_next_slot_candidates_are_all_masked_slots(
    make_batch: Maker, seed: int, never: int, filler: str, candidates: str, context_name: str
) -> None:
    batch = make_batch(num_slots=8, seed=seed, never=never, lengths=[1, 3, 6, 8], tokens_per_step=2)
    objective = build_objective(
        "boltzmann", window=2, filler=filler, candidates=candidates, context=context_name
    )
    context = objective.draw(batch, seed=0, step=seed)
    assert context.masked_BM is not None
    assert context.next_B is not None
    assert batch.order_BN is not None
    num_next = 0
    for b in range(4):
        order = batch.order_BN[b].tolist()
        hidden = context.input_ids_BN[b] == batch.mask_id
        expected = [n for n in range(8) if hidden[n] and order[n] >= 0]
        if candidates == "eligible" and filler == "ignore":
            expected = [n for n in expected if n < int(batch.length_B[b])]
        rows = [r for r in context.masked_BM[b].tolist() if r >= 0]
        got = [int(context.row_slot_R[r]) for r in rows]
        assert all(context.row_batch_R[r] == b for r in rows)
        if not (context.window_BW[b] >= 0).any():
            assert got == []
            assert context.next_B[b] == -1
            continue
        num_next += 1
        assert got == expected
        following = int(context.row_slot_R[context.next_B[b]])
        assert following == min(expected, key=lambda n: order[n])
    assert context.counts["next_slot"] == num_next


def test_tied_pairs_follow_recorded_entropy_or_are_left_out(make_batch: Maker) -> None:
    """Four tokens in two steps: 6 pairs, of which 2 share a step."""
    options = {"window": 4, "margin": 0.1}
    cut_B = torch.zeros(1, dtype=torch.int64)
    known = make_batch(size=1, num_slots=4, tokens_per_step=2)
    objective = build_objective("tabom", **options)
    draws = {"seed": 0, "step": 0, "cut_B": cut_B}
    assert objective.draw(known, **draws).pair_BWW is None
    unknown = replace(known, entropy_BN=None)
    context = objective.draw(unknown, **draws)
    assert context.pair_BWW is not None
    kept = {(i, j) for i, j in itertools.combinations(range(4), 2) if context.pair_BWW[0, i, j]}
    assert kept == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert known.entropy_BN is not None
    partly = known.entropy_BN.clone()
    partly[known.order_BN == 1] = torch.nan
    context = objective.draw(replace(known, entropy_BN=partly), **draws)
    assert context.pair_BWW is not None
    kept = {(i, j) for i, j in itertools.combinations(range(4), 2) if context.pair_BWW[0, i, j]}
    assert kept == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    # One step holds everything and nothing is known: no pair, so the response does not count.
    one_step = replace(make_batch(size=1, num_slots=4, tokens_per_step=4), entropy_BN=None)
    context = objective.draw(one_step, **draws)
    assert context.counts == {"ce": 1.0, "rank": 0.0}


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="margin"):
        Ranking(margin=-0.1)
    with pytest.raises(ConfigError, match="beta"):
        NextSlot(beta=0.0)
    with pytest.raises(ObjectiveError, match="masked_BM"):
        NextSlot().value(
            Rows(ce_R=torch.zeros(1), entropy_R=torch.zeros(1)), _context([[0]], rows=1)
        )
