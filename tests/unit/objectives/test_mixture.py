"""Mixtures: shares by key, pooled sums, complements, and what a recipe may write."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.mixture import Mixture
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows

Maker = Callable[..., TrajectoryBatch]


def _big(make_batch: Maker, size: int) -> TrajectoryBatch:
    return make_batch(size=size, num_slots=8, tokens_per_step=2)


def test_shares_are_drawn_by_key(make_batch: Maker) -> None:
    """3 of 4 responses on average; the same response in any batch, another at another step."""
    batch = _big(make_batch, 2000)
    objective = build_objective("two_contexts")

    def at_random(context: Any) -> Tensor:
        return context.response_C[: context.parts[0].size]

    first = objective.draw(batch, seed=0, step=0)
    assert at_random(first).numel() / 2000 == pytest.approx(0.75, abs=0.03)
    assert sorted(first.response_C.tolist()) == list(range(2000))
    part = objective.draw(batch.take(torch.arange(1990, 2000)), seed=0, step=0)
    expected = [i - 1990 for i in at_random(first).tolist() if i >= 1990]
    assert at_random(part).tolist() == expected
    other = objective.draw(batch, seed=0, step=1)
    assert set(at_random(other).tolist()) != set(at_random(first).tolist())


def test_the_loss_is_worked_by_hand(make_batch: Maker) -> None:
    """Pooled cross-entropy over all responses, the order term over those that have one."""
    batch = _big(make_batch, 40)
    objective = build_objective("two_contexts", share=0.5, window=2, next_slot_weight=0.3)
    context = objective.draw(batch, seed=2, step=5)
    ce_R = torch.rand(len(context.label_R), dtype=torch.float64)
    entropy_R = torch.rand_like(ce_R)
    sums = objective.term_sums(Rows(ce_R=ce_R, entropy_R=entropy_R), context).sums
    found = float(objective.total(sums, context.counts))
    content, along = context.parts
    start = len(content.row_slot_R)
    means, order = [], []
    for part, rows in ((content, slice(0, start)), (along, slice(start, None))):
        for b in range(part.size):
            here = part.row_batch_R == b
            target = here & (part.ce_weight_R > 0)
            means.append(float(ce_R[rows][target].mean()))
            if part is along:
                masked = entropy_R[rows][here]
                following = entropy_R[rows][part.next_B[b]]
                order.append(float(following + (-masked).logsumexp(0)))
    assert context.counts == {"ce": 40.0, "next_slot": float(along.size)}
    assert found == pytest.approx(sum(means) / 40 + 0.3 * sum(order) / len(order), abs=1e-6)


def test_a_batch_of_one_part_only_is_whole(make_batch: Maker) -> None:
    """One response: a part without any gives zero sums with a graph, under the same names."""
    objective = build_objective("two_contexts", share=0.5)
    seen = set()
    for step in range(8):
        context = objective.draw(_big(make_batch, 1), seed=0, step=step)
        seen.add(context.parts[0].size)
        h_R = torch.rand(len(context.label_R), requires_grad=True)
        sums = objective.term_sums(Rows(ce_R=h_R, entropy_R=h_R), context).sums
        assert set(sums) == set(context.counts) == {"ce", "next_slot"}
        objective.total(sums, context.counts).backward()
        assert h_R.grad is not None
    assert seen == {0, 1}


@pytest.mark.parametrize("name", ["dparallel", "d3llm"])
@pytest.mark.parametrize("filler", ["supervise", "ignore"])
def test_the_two_contexts_of_a_block_are_complements(
    make_batch: Maker, name: str, filler: str
) -> None:
    batch = make_batch(size=64, num_slots=14, never=4, lengths=[9] * 64)
    objective = build_objective(name, block=4, filler=filler)
    for progress in (0.0, 0.5, 1.0):
        context = objective.draw(batch, seed=0, step=1, progress=progress)
        first, second = context.parts
        for b in range(64):
            asked = [set(p.row_slot_R[p.row_batch_R == b].tolist()) for p in (first, second)]
            both = asked[0] | asked[1]
            assert asked[0].isdisjoint(asked[1])
            assert both  # no empty block is drawn
            block = min(both) // 4
            may = batch.slot_BN[b] & ((torch.arange(14) < 9) | (filler == "supervise"))
            inside = torch.arange(14) // 4 == block
            assert both == set((may & inside).nonzero().flatten().tolist())
            for part, own, other in ((first, *asked), (second, *asked[::-1])):
                shown = set((part.input_ids_BN[b] != batch.mask_id).nonzero().flatten().tolist())
                assert shown.isdisjoint(own)
                assert other <= shown
                assert all(slot < 4 * block + 4 for slot in shown)  # later blocks are hidden
                before = (batch.slot_BN[b] & (torch.arange(14) < 4 * block)).nonzero().flatten()
                assert set(before.tolist()) <= shown


def test_d3llm_hides_what_is_revealed_last(make_batch: Maker) -> None:
    batch = make_batch(size=50, num_slots=12)
    assert batch.order_BN is not None
    for release in (False, True):
        objective = build_objective("d3llm", block=6, ratio=0.5, release=release)
        context = objective.draw(batch, seed=0, step=0, progress=1.0)  # then exactly half
        first = context.parts[0]
        for b in range(50):
            hidden = first.row_slot_R[first.row_batch_R == b]
            block = torch.arange(6) + 6 * int(hidden[0] // 6)
            by_order = block[batch.order_BN[b, block].argsort()]
            assert set(hidden.tolist()) == set(by_order[3 + release :].tolist())


def test_a_recipe_writes_a_mixture_out(make_batch: Maker) -> None:
    """Written out part by part it is the preset."""
    written = build_objective(
        "mixture",
        parts=[
            {"share": 0.75, "objective": "nelbo"},
            {
                "share": 0.25,
                "context": {"kind": "order_prefix", "window": 4},
                "terms": [{"term": "ce"}, {"term": "next_slot", "weight": 0.5}],
            },
        ],
    )
    preset = build_objective("two_contexts")
    assert isinstance(written, Mixture)
    batch = _big(make_batch, 30)
    a, b = (o.draw(batch, seed=1, step=2) for o in (written, preset))
    assert torch.equal(a.input_ids_BN, b.input_ids_BN)
    assert torch.equal(a.row_slot_R, b.row_slot_R)
    assert a.counts == b.counts
    assert written.coefficients() == preset.coefficients() == {"ce": 1.0, "next_slot": 0.5}


def test_a_complement_and_a_reference_in_a_recipe(make_batch: Maker) -> None:
    objective = build_objective(
        "mixture",
        reference="base",
        parts=[
            {"context": {"kind": "block_mask", "block": 4}, "terms": [{"term": "ce"}]},
            {
                "label": "rest",
                "context": {"kind": "block_mask", "block": 4, "complement": True},
                "terms": [{"term": "ce"}, {"term": "kl", "weight": 0.2, "over": "block"}],
                "reduction": "token",
                "weighting": {"kind": "cart"},
            },
        ],
    )
    assert isinstance(objective, Mixture)
    assert objective.reference is not None
    context = objective.draw(_big(make_batch, 9), seed=0, step=0)
    assert set(context.counts) == {"ce", "ce_rest", "kl_rest"}
    assert context.size == 18


PART = {"objective": "nelbo"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": []}, "at least one part"),
        ({"parts": [{**PART, "share": 0.5}]}, "sum 1"),
        ({"parts": [{**PART, "share": 0.5}, PART]}, "all given|sum 1"),
        ({"parts": [{**PART, "share": 1.5}, {**PART, "share": -0.5}]}, "sum 1"),
        ({"parts": [{}]}, "either objective"),
        ({"parts": [{"objective": "nelbo", "terms": [{"term": "ce"}]}]}, "either objective"),
        ({"parts": [{"context": {"kind": "order"}, "terms": [{"term": "ce"}]}]}, "order_prefix"),
        ({"parts": [{"context": {"kind": "horizon"}, "terms": [{"term": "rnk"}]}]}, "rank"),
        ({"parts": [{"context": {"kind": "horizon", "stps": 1}, "terms": [{"term": "ce"}]}]},
         "steps"),
        ({"parts": [{"context": {"kind": "horizon"}, "terms": [{"term": "ce", "weight": "x"}]}]},
         "weight must be a number"),
        ({"parts": [{"objective": "two_contexts"}]}, "mixture itself"),
        ({"parts": [{"objective": "nelbo_kl"}, {"objective": "t3d"}]}, "different references"),
        ({"parts": [{**PART, "shar": 1}]}, "share"),
        ({"parts": [{"context": {"kind": "horizon"}, "terms": [{"term": "ce"}, {"term": "ce"}]}]},
         "twice"),
    ],
)  # fmt: skip
def test_what_a_recipe_gets_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective("mixture", **options)


def test_unequal_weights_of_one_name_need_a_label() -> None:
    part = {"context": {"kind": "horizon"}, "terms": [{"term": "ce", "weight": 2.0}]}
    with pytest.raises(ConfigError, match="label"):
        build_objective("mixture", parts=[PART, part])
    build_objective("mixture", parts=[PART, {**part, "label": "near"}])


def test_a_set_that_the_context_has_not(make_batch: Maker) -> None:
    part = {
        "context": {"kind": "order_prefix"},
        "terms": [{"term": "ce"}, {"term": "kl", "over": "far"}],
    }
    objective = build_objective("mixture", parts=[part], reference="base")
    with pytest.raises(ObjectiveError, match=r"'far'.*OrderPrefix.*target"):
        objective.draw(make_batch(), seed=0, step=0)


def test_data_without_an_order_is_refused_by_name(make_batch: Maker) -> None:
    batch = replace(make_batch(), order_BN=None, step_BN=None)
    with pytest.raises(ObjectiveError, match="two_contexts"):
        build_objective("two_contexts", share=0.0).draw(batch, seed=0, step=0)
