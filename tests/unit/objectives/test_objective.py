"""Whole objectives: identities between presets, invariances, reductions, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import OrderPrefix
from tabom.objectives.mixture import AnyObjective, describe
from tabom.objectives.presets import PRESETS, build_objective
from tabom.objectives.rows import Rows
from tabom.objectives.terms_order import NextSlot, OrderLikelihood

Maker = Callable[..., TrajectoryBatch]
TENSORS = ("response_ids_BN", "slot_BN", "length_B", "key_B", "order_BN", "step_BN", "entropy_BN")
V, D = 100, 6


def _take(batch: TrajectoryBatch, rows: list[int]) -> TrajectoryBatch:
    taken = {
        name: getattr(batch, name)[rows] for name in TENSORS if getattr(batch, name) is not None
    }
    prompts = {name: getattr(batch, name)[rows] for name in ("prompt_ids_BP", "prompt_mask_BP")}
    return replace(batch, **taken, **prompts)


class _Model:
    """Hidden states that depend on the visible context of their own response only."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.randn(V, D, generator=generator, dtype=torch.float64)
        self.place = torch.randn(64, D, generator=generator, dtype=torch.float64)
        self.head = torch.randn(V, D, generator=generator, dtype=torch.float64)
        self.mix = torch.randn(D, D, generator=generator, dtype=torch.float64).requires_grad_()

    def sums(self, objective: AnyObjective, context: Context) -> dict[str, Tensor]:
        embedded_BND = self.embed[context.input_ids_BN]
        num_slots = embedded_BND.shape[1]
        hidden_BND = torch.tanh(
            (embedded_BND + self.place[:num_slots] + embedded_BND.mean(1, keepdim=True)) @ self.mix
        )
        rows_RD = hidden_BND[context.row_batch_R, context.row_slot_R]
        rows = Rows.of_head(
            rows_RD, self.head, context.label_R, reference=(rows_RD.detach() * 0.7, self.head)
        )
        return objective.term_sums(rows, context).sums

    def step(self, objective: AnyObjective, contexts: list[Context]) -> tuple[float, Tensor]:
        """Loss and gradient of one optimiser step over micro-batches with global counts."""
        self.mix.grad = None
        counts: dict[str, float] = {}
        for context in contexts:
            for name, count in context.counts.items():
                counts[name] = counts.get(name, 0.0) + count
        loss = 0.0
        for context in contexts:
            part = objective.total(self.sums(objective, context), counts)
            part.backward()
            loss += part.item()
        assert self.mix.grad is not None
        return loss, self.mix.grad.clone()


ALL = [
    ("nelbo", {}),
    ("nelbo", {"reduction": "token"}),
    ("sft_llada", {}),
    ("sft_dream", {}),
    ("trajectory_ce", {"window": 3}),
    ("dinfer", {}),
    ("dinfer", {"reduction": "sum"}),
    ("tabom", {"window": 4}),
    ("tabom", {"context": "segment", "rank_side": "later"}),
    ("boltzmann", {"window": 3}),
    ("boltzmann", {"context": "step_prefix", "beta": 2.0}),
    ("tabom_release", {"window": 4, "rank_window": 3}),
    ("nelbo", {"weighting": "cart", "focal_gamma": 2.0}),
    ("nelbo_kl", {"kl_beta": 0.5}),
    ("sft_dllm", {"schedule": "cosine"}),
    ("boltzmann_listwise", {"window": 4}),
    ("boltzmann_listwise", {"sets": True}),
    ("two_contexts", {"share": 0.5, "rank_weight": 0.3}),
    ("t3d", {"block": 4, "level": 2}),
    ("dparallel", {"block": 4}),
    ("d3llm", {"block": 4, "ratio": 0.6}),
    ("tad", {"steps": 2}),
    ("tracerl", {"group": 2}),
    ("justgrpo", {}),
    ("d_opsd", {"block": 3, "positions": "student"}),
]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_batch_layout_and_order_change_nothing(
    make_batch: Maker, name: str, options: dict[str, Any]
) -> None:
    """Batch 8 == 8 batches of 1 == uneven micro-batches in another order."""
    batch = make_batch(size=8, num_slots=9, never=9, tokens_per_step=2, seed=4)
    objective, model = build_objective(name, **options), _Model()

    def draw(rows: list[int]) -> Context:
        return objective.draw(_take(batch, rows), seed=3, step=11)

    loss, grad = model.step(objective, [draw(list(range(8)))])
    assert loss != 0
    for layout in ([[i] for i in range(8)], [[7, 2, 4], [0], [6, 5, 3, 1]]):
        other_loss, other_grad = model.step(objective, [draw(rows) for rows in layout])
        assert other_loss == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(other_grad, grad, atol=1e-6)
    stats = objective.draw(batch, seed=3, step=11).stats
    summed = [draw([i]).stats for i in range(8)]
    for key, (total, count) in stats.items():
        assert sum(s[key][0] for s in summed) == pytest.approx(total)
        assert sum(s[key][1] for s in summed) == pytest.approx(count)


def _loss(objective: AnyObjective, batch: TrajectoryBatch, **kwargs: Any) -> tuple[float, Tensor]:
    context = objective.draw(batch, **{"seed": 0, "step": 0, **kwargs})
    return _Model().step(objective, [context])


def _same(a: tuple[float, Tensor], b: tuple[float, Tensor]) -> None:
    assert a[0] == pytest.approx(b[0], abs=1e-7)
    assert torch.allclose(a[1], b[1], atol=1e-7)


def test_tabom_without_ranking_over_the_whole_response_is_the_nelbo(make_batch: Maker) -> None:
    """W = n, lambda = 0, cut 0 == NELBO with every slot masked."""
    batch = make_batch(size=5, num_slots=9, never=3)
    nothing = torch.zeros(5, dtype=torch.int64)
    tabom = build_objective("tabom", window=9, rank_weight=0)
    _same(
        _loss(tabom, batch, cut_B=nothing),
        _loss(build_objective("nelbo"), batch, cut_B=nothing),
    )


def test_dinfer_with_a_fixed_end_is_trajectory_ce(make_batch: Maker) -> None:
    """Where the segment happens to have W tokens, the two are one; found among forced cuts."""
    batch = make_batch(size=64, num_slots=9)
    cut_B = torch.full((64,), 3)
    dinfer = build_objective("dinfer")
    context = dinfer.draw(batch, seed=0, step=0, cut_B=cut_B)
    rows = ((context.window_BW >= 0).sum(1) == 4).nonzero().flatten().tolist()
    assert len(rows) > 3
    part = _take(batch, rows)
    _same(
        _loss(dinfer, part, cut_B=cut_B[rows]),
        _loss(build_objective("trajectory_ce", window=4), part, cut_B=cut_B[rows]),
    )


def test_tabom_with_weight_zero_is_trajectory_ce_and_ranking_adds_to_it(make_batch: Maker) -> None:
    batch = make_batch(size=6, num_slots=9, never=2)
    plain = _loss(build_objective("trajectory_ce", window=4), batch)
    _same(_loss(build_objective("tabom", window=4, rank_weight=0), batch), plain)
    one = _loss(build_objective("tabom", window=4), batch)[0] - plain[0]
    two = _loss(build_objective("tabom", window=4, rank_weight=2), batch)[0] - plain[0]
    assert one > 0.01
    assert two == pytest.approx(2 * one, abs=1e-6)
    _same(_loss(build_objective("boltzmann", window=4, next_slot_weight=0), batch), plain)


def test_step_prefix_is_order_prefix_where_every_step_reveals_one_token(make_batch: Maker) -> None:
    batch = make_batch(size=6, num_slots=9, never=2)
    _same(
        _loss(build_objective("tabom", window=4, context="step_prefix"), batch),
        _loss(build_objective("tabom", window=4), batch),
    )


def _ce_sum(name: str, batch: TrajectoryBatch, context: Context, **options: Any) -> float:
    ones = torch.ones(len(context.label_R), dtype=torch.float64)
    objective = build_objective(name, **options)
    sums = objective.term_sums(Rows(ce_R=ones, entropy_R=ones), context).sums
    return float(objective.total(sums, context.counts))


def test_reductions_worked_by_hand(make_batch: Maker) -> None:
    """Two responses of 6 slots, cuts 1 and 4: 5 and 2 targets (window 8), every ce equal to 1."""
    batch = make_batch(size=2, num_slots=6)
    for name in ("trajectory_ce", "nelbo"):
        for reduction, expected, count in (
            ("response", 1.0, 2.0),
            ("token", 1.0, 7.0),
            ("sum", 3.5, 2.0),
            *([("length", (5 / 6 + 2 / 6) / 2, 2.0)] if name == "nelbo" else []),
        ):
            options: dict[str, Any] = {"reduction": reduction}
            if name == "trajectory_ce":
                options["window"] = 8
            context = build_objective(name, **options).draw(
                batch, seed=0, step=0, cut_B=torch.tensor([1, 4])
            )
            assert context.counts["ce"] == count
            assert _ce_sum(name, batch, context, **options) == pytest.approx(expected)
    # 1/p with p the share that was masked: every response weighs as if all its slots counted.
    options = {"reduction": "length", "weighting": "inv_p"}
    context = build_objective("nelbo", **options).draw(
        batch, seed=0, step=0, cut_B=torch.tensor([1, 4])
    )
    assert _ce_sum("nelbo", batch, context, **options) == pytest.approx(1.0)


def test_inverse_probability_weights_are_unbiased(make_batch: Maker) -> None:
    """E[(1/N) sum_masked ce / p] = 1 for ce = 1, at any number of slots (LLaDA's SFT)."""
    batch = make_batch(size=1, num_slots=8)
    many = replace(
        batch,
        **{
            name: getattr(batch, name).expand(3000, *getattr(batch, name).shape[1:])
            for name in TENSORS
            if name != "key_B"
        },
        key_B=torch.arange(3000),
    )
    context = build_objective("sft_llada", eps=0.1).draw(many, seed=0, step=0)
    assert context.counts["ce"] == 3000.0  # also responses of which nothing was masked
    assert _ce_sum("sft_llada", many, context, eps=0.1) == pytest.approx(1.0, abs=0.03)


def test_an_empty_context_keeps_the_graph(make_batch: Maker) -> None:
    """Nothing to learn from: loss 0, gradient 0, and backward runs (ranks must not differ)."""
    batch = make_batch(size=2, num_slots=5)
    batch = replace(
        batch,
        slot_BN=torch.zeros_like(batch.slot_BN),
        order_BN=torch.full_like(batch.slot_BN, -1, dtype=torch.int64),
    )
    for name in PRESETS:
        objective = build_objective(name)
        context = objective.draw(batch, seed=0, step=0)
        assert len(context.label_R) == 0
        assert set(context.counts.values()) == {0.0}
        assert context.stats["skipped_responses"] == (float(context.size),) * 2
        loss, grad = _Model().step(objective, [context])
        assert loss == 0.0
        assert (grad == 0).all()


def test_total_takes_tensor_counts_and_names_a_missing_one(make_batch: Maker) -> None:
    objective = build_objective("tabom", rank_weight=0.5)
    sums = {"ce": torch.tensor(6.0), "rank": torch.tensor(4.0)}
    assert objective.total(sums, {"ce": 3, "rank": torch.tensor(4)}).item() == pytest.approx(2.5)
    assert objective.total(sums, {"ce": 3.0, "rank": 0.0}).item() == pytest.approx(4.0)
    nothing = {"ce": torch.tensor(0.0), "rank": torch.tensor(0.0)}
    assert objective.total({k: v * 0 for k, v in sums.items()}, nothing).item() == 0.0
    with pytest.raises(KeyError, match="rank"):
        objective.total(sums, {"ce": 3.0})


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("nelbo", False),
        ("sft_llada", False),
        ("sft_dream", False),
        ("trajectory_ce", True),
        ("dinfer", True),
        ("tabom", True),
        ("boltzmann", True),
        ("tabom_release", True),
        ("nelbo_kl", False),
        ("sft_dllm", False),
        ("two_contexts", True),
        ("t3d", True),
        ("dparallel", False),
        ("d3llm", True),
        ("tad", True),
        ("tracerl", True),
        ("justgrpo", False),
        ("d_opsd", True),
    ],
)
def test_data_without_an_order(make_batch: Maker, name: str, needs: bool) -> None:
    batch = replace(make_batch(), order_BN=None, step_BN=None, entropy_BN=None)
    objective = build_objective(name)
    assert objective.requires_order is needs
    if needs:
        with pytest.raises(ObjectiveError, match=rf"'{name}'.*tabom collect.*'nelbo'"):
            objective.draw(batch, seed=0, step=0)
    else:
        assert len(objective.draw(batch, seed=0, step=0).label_R) > 0


def test_an_order_without_steps_is_no_order(make_batch: Maker) -> None:
    batch = replace(make_batch(), step_BN=None)
    for name in ("tabom", "dinfer", "tabom_release"):
        with pytest.raises(ObjectiveError, match="order"):
            build_objective(name).draw(batch, seed=0, step=0)


def test_forced_cuts_are_checked(make_batch: Maker) -> None:
    objective = build_objective("tabom")
    for cut_B in (torch.tensor([1, 2]), torch.tensor([0, 0, 0, -1]), torch.zeros(4)):
        with pytest.raises(ObjectiveError, match="cut_B"):
            objective.draw(make_batch(), seed=0, step=0, cut_B=cut_B)


@pytest.mark.parametrize("name", PRESETS)
def test_describe_is_plain_and_the_options_rebuild_it(name: str) -> None:
    objective = build_objective(name)
    described = describe(objective)
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == name
    assert build_objective(name, **described["options"]) == objective
    parts = described.get("parts", [described])
    assert all(part["terms"][0]["term"] in ("ce", "policy", "kl") for part in parts)


def test_the_defaults_of_the_paper_and_ours() -> None:
    tabom = describe(build_objective("tabom"))
    assert tabom["context"]["kind"] == "OrderPrefix"
    assert tabom["context"]["window"] == 32
    assert tabom["context"]["cut_rule"] == "shortened"
    assert tabom["terms"][1] == {"term": "rank", "weight": 1.0, "margin": 0.2, "side": "both"}
    assert tabom["reduction"] == "response"
    boltzmann = describe(build_objective("boltzmann"))["terms"][1]
    assert boltzmann == {"term": "next_slot", "weight": 1.0, "beta": 1.0, "candidates": "all"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tabon", {}, r"'tabon'; did you mean 'tabom'.*known: nelbo"),
        ("tabom", {"windw": 3}, r"'tabom.windw'; did you mean 'window'.*known: reduction"),
        ("nelbo", {"rank_weight": 1}, r"unknown key 'nelbo.rank_weight'"),
        ("dinfer", {"window": 3}, r"unknown key 'dinfer.window'"),
        ("tabom", {"window": 0}, r"window.*at least 1"),
        ("tabom", {"window": "many"}, r"tabom.window.*'many'"),
        ("tabom", {"margin": -1}, r"tabom: margin"),
        ("tabom", {"rank_weight": -1}, r"tabom: rank_weight"),
        ("tabom", {"rank_weight": float("nan")}, r"tabom\.rank_weight must be"),
        ("tabom", {"rank_side": "latter"}, r"did you mean 'later'"),
        ("tabom", {"cut_rule": "release", "context": "segment"}, r"cut_rule 'release' goes with"),
        ("tabom", {"filler": "first_k"}, r"filler_k of at least 1"),
        ("boltzmann", {"beta": 0}, r"boltzmann: beta"),
        ("tabom_release", {"supervise_padding": False}, r"needs pad_id"),
        ("tabom_release", {"rank_window": 0}, r"rank_window"),
        ("nelbo", {"eps": 1.0}, r"eps"),
    ],
)
def test_wrong_names_and_options_say_what_there_is(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name, **options)


def test_the_room_imports_no_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys, tabom.objectives.presets, tabom.vocabulary.head; "
        "sys.exit(any(m in sys.modules for m in ('transformers', 'peft', 'datasets', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["nelbo", "tabom", "dparallel", "two_contexts"])
def test_a_wrong_answer_teaches_no_token_and_no_order(make_batch: Maker, name: str) -> None:
    """With advantages the loss of the right responses is what it is without the wrong ones."""
    batch = make_batch(size=6, num_slots=8)
    judged = replace(batch, advantage_B=torch.tensor([1.0, -1, 1, -1, 1, 1]))
    options = {"next_slot_weight": 0.0} if name == "two_contexts" else {}
    objective = build_objective(name, **options)
    alone = objective.draw(_take(batch, [0, 2, 4, 5]), seed=0, step=0)
    together = objective.draw(judged, seed=0, step=0)
    _same(_Model().step(objective, [together]), _Model().step(objective, [alone]))
    assert together.counts == alone.counts


def test_order_terms_of_one_objective_look_at_the_same_slots() -> None:
    terms = ((1.0, NextSlot(candidates="all")), (0.5, OrderLikelihood(candidates="eligible")))
    with pytest.raises(ConfigError, match="different candidates"):
        Objective(sampler=OrderPrefix(window=2), terms=terms)
    Objective(sampler=OrderPrefix(window=2), terms=((1.0, NextSlot()), (0.5, OrderLikelihood())))
