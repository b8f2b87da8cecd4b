"""Context samplers against plain loops over slots, and the distributions of their draws."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import Objective
from tabom.objectives.presets import build_objective

Maker = Callable[..., TrajectoryBatch]


def _in_order(batch: TrajectoryBatch, b: int) -> list[int]:
    """Slots of response b in the order of their reveal, by a plain loop."""
    assert batch.order_BN is not None
    order = batch.order_BN[b].tolist()
    takes_part = [n for n in range(len(order)) if batch.slot_BN[b, n] and order[n] >= 0]
    return sorted(takes_part, key=lambda n: order[n])


def _may(batch: TrajectoryBatch, b: int, filler: str, k: int = 0) -> set[int]:
    end = {"supervise": 10**6, "ignore": 0, "first_k": k}[filler] + int(batch.length_B[b])
    return {n for n in range(batch.slot_BN.shape[1]) if n < end}


def _visible(batch: TrajectoryBatch, context: Context, b: int) -> set[int]:
    shown = context.input_ids_BN[b] != batch.mask_id
    assert torch.equal(context.input_ids_BN[b][shown], batch.response_ids_BN[b][shown])
    return set(shown.nonzero().flatten().tolist())


def _targets(context: Context, b: int) -> dict[int, float]:
    """slot -> weight of the response's target rows."""
    rows = zip(
        context.row_batch_R.tolist(),
        context.row_slot_R.tolist(),
        context.ce_weight_R.tolist(),
        strict=True,
    )
    return {slot: weight for owner, slot, weight in rows if owner == b and weight > 0}


def _window(context: Context, b: int) -> list[int]:
    rows = [r for r in context.window_BW[b].tolist() if r >= 0]
    assert all(context.row_batch_R[r] == b for r in rows)
    return [int(context.row_slot_R[r]) for r in rows]


def _draw(objective: Objective, batch: TrajectoryBatch, **kwargs: Any) -> Context:
    context = objective.draw(batch, **{"seed": 1, "step": 2, **kwargs})
    pair = context.row_batch_R * batch.slot_BN.shape[1] + context.row_slot_R
    assert (pair[1:] > pair[:-1]).all(), "rows are sorted by (batch, slot), each once"
    assert torch.equal(
        context.label_R, batch.response_ids_BN[context.row_batch_R, context.row_slot_R]
    )
    return context


def _uniformity(counts: Counter[int], outcomes: range) -> float:
    """Chi-square statistic divided by its degrees of freedom: near 1 for a uniform draw."""
    total = sum(counts.values())
    assert set(counts) <= set(outcomes)
    expected = total / len(outcomes)
    return sum((counts[o] - expected) ** 2 / expected for o in outcomes) / (len(outcomes) - 1)


FILLERS = [("supervise", 0), ("ignore", 0), ("first_k", 2)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_slots=st.integers(1, 14),
    window=st.integers(1, 16),
    never=st.integers(0, 14),
    per_step=st.integers(1, 4),
    filler=st.sampled_from(FILLERS),
    cut_rule=st.sampled_from(["shortened", "full_window"]),
    data=st.data(),
)
def test_order_prefix_is_the_loop(
    make_batch: Maker,
    seed: int,
    num_slots: int,
    window: int,
    never: int,
    per_step: int,
    filler: tuple[str, int],
    cut_rule: str,
    data: st.DataObject,
) -> None:
    lengths = [data.draw(st.integers(1, num_slots)) for _ in range(4)]
    batch = make_batch(
        num_slots=num_slots,
        seed=seed,
        never=min(never, num_slots),
        tokens_per_step=per_step,
        lengths=lengths,
    )
    forced = data.draw(st.booleans())
    cut_B = torch.tensor([data.draw(st.integers(0, num_slots)) for _ in range(4)])
    objective = build_objective(
        "trajectory_ce", window=window, cut_rule=cut_rule, filler=filler[0], filler_k=filler[1]
    )
    context = _draw(objective, batch, step=seed, cut_B=cut_B if forced else None)
    assert context.window_BW.shape == (4, window)
    with_target = 0
    for b in range(4):
        order, may = _in_order(batch, b), _may(batch, b, *filler)
        visible = _visible(batch, context, b)
        cut = len(visible)
        assert visible == set(order[:cut])
        if forced:
            assert cut == min(int(cut_B[b]), len(order))
        expected = [n for n in order[cut:] if n in may][:window]
        assert _window(context, b) == expected
        assert set(_targets(context, b)) == set(expected)
        assert sum(_targets(context, b).values()) == pytest.approx(1.0 if expected else 0.0)
        with_target += bool(expected)
        eligible = [n for n in order if n in may]
        if not forced:
            # Every draw asks for something, at a state in which an eligible token comes next.
            assert bool(expected) == bool(eligible)
            if eligible:
                assert order[cut] == expected[0]
            if cut_rule == "full_window":
                assert len(expected) == min(window, len(eligible))
    assert context.counts == {"ce": float(with_target)}
    assert context.stats["skipped_responses"] == (4.0 - with_target, 4.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_slots=st.integers(1, 14),
    window=st.integers(1, 16),
    never=st.integers(0, 14),
    per_step=st.integers(1, 4),
    filler=st.sampled_from(FILLERS),
    context_name=st.sampled_from(["step_prefix", "segment"]),
    data=st.data(),
)
def test_step_prefix_and_segment_are_the_loop(
    make_batch: Maker,
    seed: int,
    num_slots: int,
    window: int,
    never: int,
    per_step: int,
    filler: tuple[str, int],
    context_name: str,
    data: st.DataObject,
) -> None:
    lengths = [data.draw(st.integers(1, num_slots)) for _ in range(4)]
    batch = make_batch(
        num_slots=num_slots,
        seed=seed,
        never=min(never, num_slots),
        tokens_per_step=per_step,
        lengths=lengths,
    )
    forced = data.draw(st.booleans())
    cut_B = torch.tensor([data.draw(st.integers(0, num_slots)) for _ in range(4)])
    objective = build_objective(
        "trajectory_ce",
        window=window,
        context=context_name,
        filler=filler[0],
        filler_k=filler[1],
    )
    context = _draw(objective, batch, step=seed, cut_B=cut_B if forced else None)
    assert batch.step_BN is not None
    for b in range(4):
        order, may = _in_order(batch, b), _may(batch, b, *filler)
        steps = [int(batch.step_BN[b, n]) for n in order]
        boundaries = {i for i in range(len(order) + 1) if i in (0, len(order))} | {
            i for i in range(1, len(order)) if steps[i] != steps[i - 1]
        }
        visible = _visible(batch, context, b)
        cut = len(visible)
        assert visible == set(order[:cut])
        assert cut in boundaries, "never inside a step"
        if forced:
            assert cut == max(i for i in boundaries if i <= int(cut_B[b]))
        remaining = [n for n in order[cut:] if n in may]
        got = _window(context, b)
        assert set(_targets(context, b)) == set(got)
        assert got == remaining[: len(got)]
        assert bool(got) == bool(remaining)
        if not forced:
            assert bool(got) == any(n in may for n in order)
        if context_name == "step_prefix":
            assert len(got) == min(window, len(remaining))
        elif 0 < len(got) < len(remaining):
            cut_at = order.index(remaining[len(got)])
            assert steps[cut_at] != int(batch.step_BN[b, got[-1]]), "ends between steps"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_slots=st.integers(1, 14),
    never=st.integers(0, 14),
    kind=st.sampled_from(["uniform_mask", "bernoulli"]),
    filler=st.sampled_from(FILLERS),
    data=st.data(),
)
def test_random_masks_hide_only_what_takes_part(
    make_batch: Maker,
    seed: int,
    num_slots: int,
    never: int,
    kind: str,
    filler: tuple[str, int],
    data: st.DataObject,
) -> None:
    lengths = [data.draw(st.integers(1, num_slots)) for _ in range(4)]
    batch = make_batch(num_slots=num_slots, seed=seed, never=min(never, num_slots), lengths=lengths)
    batch = replace(batch, order_BN=None, step_BN=None, entropy_BN=None)  # ground truth
    forced = data.draw(st.booleans())
    cut_B = torch.tensor([data.draw(st.integers(0, num_slots)) for _ in range(4)])
    objective = build_objective("nelbo", context=kind, filler=filler[0], filler_k=filler[1])
    context = _draw(objective, batch, step=seed, cut_B=cut_B if forced else None)
    assert context.window_BW.shape == (4, 0)
    for b in range(4):
        takes_part = set(batch.slot_BN[b].nonzero().flatten().tolist())
        visible = _visible(batch, context, b)
        assert visible <= takes_part
        if forced:
            assert len(visible) == min(int(cut_B[b]), len(takes_part))
        elif kind == "uniform_mask" and takes_part:
            assert len(visible) < len(takes_part), "at least one slot is masked"
        assert set(_targets(context, b)) == (takes_part - visible) & _may(batch, b, *filler)


def _many(make_batch: Maker, count: int, **kwargs: Any) -> TrajectoryBatch:
    """The same response under many keys."""
    one = make_batch(size=1, **kwargs)
    fields = {
        name: value.expand(count, -1) if value.ndim == 2 else value.expand(count)
        for name, value in vars(one).items()
        if isinstance(value, Tensor)
    }
    return replace(one, **{**fields, "key_B": torch.arange(count) * 7919 + 13})


def _num_visible(batch: TrajectoryBatch, context: Context) -> Tensor:
    return (context.input_ids_BN != batch.mask_id).sum(1)


@pytest.mark.parametrize(
    ("name", "options", "outcomes"),
    [
        ("trajectory_ce", {"window": 4}, range(10)),  # 0..n-1
        ("trajectory_ce", {"window": 4, "cut_rule": "full_window"}, range(7)),  # 0..n-W
        ("trajectory_ce", {"window": 4, "context": "step_prefix"}, range(0, 10, 2)),
        ("trajectory_ce", {"window": 3, "cut_rule": "release"}, range(0, 4, 2)),
        ("nelbo", {}, range(10)),  # k ~ U{1..n} masked
        ("tabom", {"window": 99}, range(10)),
    ],
)
def test_cuts_are_uniform(
    make_batch: Maker, name: str, options: dict[str, Any], outcomes: range
) -> None:
    """4000 fixed draws: a right sampler exceeds 3 x its degrees of freedom less than once in 1e3.

    Release: steps 0..4 (two tokens each), cut ~ U{0..4-3} steps, so 0 or 2 visible tokens.
    """
    batch = _many(make_batch, 4000, num_slots=10, tokens_per_step=2)
    context = build_objective(name, **options).draw(batch, seed=0, step=5)
    counts = Counter(_num_visible(batch, context).tolist())
    limit = 11.0 if len(outcomes) == 2 else 3.0
    assert _uniformity(counts, outcomes) < limit


def test_random_subsets_are_uniform_given_their_size(make_batch: Maker) -> None:
    batch = _many(make_batch, 6000, num_slots=4)
    context = build_objective("nelbo").draw(batch, seed=0, step=1, cut_B=torch.full((6000,), 2))
    shown = (context.input_ids_BN != batch.mask_id).long() * torch.tensor([1, 2, 4, 8])
    counts = Counter(shown.sum(1).tolist())
    subsets = [3, 5, 6, 9, 10, 12]
    assert set(counts) == set(subsets)
    assert _uniformity(Counter({i: counts[s] for i, s in enumerate(subsets)}), range(6)) < 3.0


def test_segments_are_every_unordered_pair_of_states_alike(make_batch: Maker) -> None:
    """5 steps have 6 states and 15 pairs; the mean number of tokens between is (n + 2) / 3."""
    batch = _many(make_batch, 6000, num_slots=5)
    context = build_objective("dinfer").draw(batch, seed=0, step=1)
    cut_B = _num_visible(batch, context)
    size_B = (context.window_BW >= 0).sum(1)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 6)]
    counts = Counter(
        pairs.index((c, c + s)) for c, s in zip(cut_B.tolist(), size_B.tolist(), strict=True)
    )
    assert _uniformity(counts, range(15)) < 3.0
    assert size_B.double().mean().item() == pytest.approx(7 / 3, abs=0.05)


def test_a_forced_cut_leaves_the_segment_end_uniform(make_batch: Maker) -> None:
    batch = _many(make_batch, 4000, num_slots=6)
    context = build_objective("dinfer").draw(batch, seed=0, step=1, cut_B=torch.full((4000,), 2))
    sizes = Counter((context.window_BW >= 0).sum(1).tolist())
    assert _uniformity(sizes, range(1, 5)) < 4.0


def test_bernoulli_masks_half_on_average_and_never_less_than_eps(make_batch: Maker) -> None:
    batch = _many(make_batch, 4000, num_slots=20)
    context = build_objective("nelbo", context="bernoulli", eps=0.5).draw(batch, seed=0, step=1)
    masked_B = 20 - _num_visible(batch, context)
    assert masked_B.double().mean().item() == pytest.approx(15.0, abs=0.25)  # t ~ U[.5, 1]


def test_draws_change_with_seed_step_and_id_only(make_batch: Maker) -> None:
    batch = make_batch(size=64, num_slots=16, seed=3)
    for name in ("nelbo", "trajectory_ce", "dinfer"):
        objective = build_objective(name)

        def ids(objective: Objective = objective, **kwargs: int) -> Tensor:
            return objective.draw(batch, **kwargs).input_ids_BN

        assert torch.equal(ids(seed=0, step=1), ids(seed=0, step=1))
        assert not torch.equal(ids(seed=0, step=1), ids(seed=1, step=1))
        assert not torch.equal(ids(seed=0, step=1), ids(seed=0, step=2))


@pytest.mark.parametrize("name", ["nelbo", "trajectory_ce", "dinfer", "tabom", "tabom_release"])
def test_a_wider_canvas_changes_no_draw(make_batch: Maker, name: str) -> None:
    """Slots appended that take no part: the same slots are shown and asked for."""
    batch = make_batch(size=8, num_slots=40, never=3)
    wider = replace(
        batch,
        **{
            key: torch.nn.functional.pad(value, (0, 5), value=fill)
            for key, value, fill in (
                ("response_ids_BN", batch.response_ids_BN, 0),
                ("slot_BN", batch.slot_BN, False),
                ("order_BN", batch.order_BN, -1),
                ("step_BN", batch.step_BN, -1),
                ("entropy_BN", batch.entropy_BN, torch.nan),
            )
        },
    )
    objective = build_objective(name)
    a = objective.draw(batch, seed=0, step=0)
    b = objective.draw(wider, seed=0, step=0)
    assert torch.equal(a.input_ids_BN, b.input_ids_BN[:, :40])
    assert (b.input_ids_BN[:, 40:] == batch.mask_id).all()
    assert torch.equal(a.row_slot_R, b.row_slot_R)
    assert torch.equal(a.ce_weight_R, b.ce_weight_R)


def _release_loop(
    batch: TrajectoryBatch, b: int, cut: int, window: int, rank_window: int
) -> tuple[set[int], set[int], list[int]] | None:
    """The release's rule for one response: (visible, targets, ranked in order); None: skipped."""
    assert batch.step_BN is not None
    step = batch.step_BN[b]
    if int(step.max()) < window:
        return None
    visible = set(((step >= 0) & (step < cut)).nonzero().flatten().tolist())
    target = (step >= cut) & (step < cut + window)
    ranked = (target & (step < cut + rank_window)).nonzero().flatten()
    ranked = ranked[torch.argsort(step[ranked].to(torch.float32))]
    return visible, set(target.nonzero().flatten().tolist()), ranked.tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_slots=st.integers(1, 48),
    window=st.integers(1, 12),
    rank_window=st.integers(1, 14),
    per_step=st.integers(1, 5),
    never=st.integers(0, 10),
)
def test_release_prefix_is_the_loop_ties_included(
    make_batch: Maker,
    seed: int,
    num_slots: int,
    window: int,
    rank_window: int,
    per_step: int,
    never: int,
) -> None:
    batch = make_batch(
        num_slots=num_slots, seed=seed, tokens_per_step=per_step, never=min(never, num_slots)
    )
    assert batch.step_BN is not None
    objective = build_objective("tabom_release", window=window, rank_window=rank_window)
    drawn = _draw(objective, batch)
    cut_B = torch.tensor([seed % 3, 0, 1, 2])
    for context, forced in ((drawn, None), (_draw(objective, batch, cut_B=cut_B), cut_B)):
        num_targets = 0
        for b in range(4):
            visible = _visible(batch, context, b)
            cut = 1 + max((int(batch.step_BN[b, n]) for n in visible), default=-1)
            if forced is not None:
                cut = int(forced[b])
            else:
                assert cut <= max(0, int(batch.step_BN[b].max()) - window)
            expected = _release_loop(batch, b, cut, window, rank_window)
            if expected is None:
                expected = (set(), set(), [])
            num_targets += len(expected[1])
            assert visible == expected[0]
            assert set(_targets(context, b)) == expected[1]
            assert _window(context, b) == expected[2]
        assert context.counts["ce"] == num_targets


def test_release_ties_of_many_tokens_are_those_of_argsort(make_batch: Maker) -> None:
    """32 tokens in 8 steps: above 16 values the default argsort is not by slot on most CPUs."""
    batch = make_batch(size=4, num_slots=40, tokens_per_step=4)
    cut_B = torch.tensor([0, 1, 1, 0])
    context = _draw(build_objective("tabom_release", window=8), batch, cut_B=cut_B)
    for b in range(4):
        expected = _release_loop(batch, b, int(cut_B[b]), 8, 8)
        assert expected is not None
        assert len(expected[2]) == 32
        assert _window(context, b) == expected[2]


def test_release_without_padding_drops_every_pad_token(make_batch: Maker) -> None:
    batch = make_batch(num_slots=20)
    batch.response_ids_BN[:, ::3] = 7
    objective = build_objective("tabom_release", window=5, supervise_padding=False, pad_id=7)
    context = _draw(objective, batch)
    assert len(context.label_R) > 0
    assert (context.label_R != 7).all()
