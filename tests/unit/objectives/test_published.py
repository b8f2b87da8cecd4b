"""Contexts and terms of other projects: what is drawn, and identities between their losses."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import Sample
from tabom.objectives.mixture import Mixture
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows
from tabom.objectives.terms_policy import ClippedPolicy
from tabom.objectives.weights import Weighting
from tabom.vocabulary.divergence import DivergenceKind, linear_divergence

Maker = Callable[..., TrajectoryBatch]
V = 11


def _logits(context: Context, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(len(context.label_R), V, generator=generator, dtype=torch.float64)
    return made.requires_grad_()


def _loss(
    objective: Any, context: Context, z_RV: Tensor, reference_RV: Tensor | None = None
) -> Tensor:
    head = torch.eye(V, dtype=torch.float64)
    rows = Rows.of_head(
        z_RV,
        head,
        context.label_R,
        reference=None if reference_RV is None else (reference_RV, head),
    )
    return objective.total(objective.term_sums(rows, context).sums, context.counts)


def _grad(loss: Tensor, z_RV: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, z_RV)
    return grad


# ---- identities of spec 15, section 12 ----


def test_tracerl_on_policy_is_cross_entropy_on_a_group(make_batch: Maker) -> None:
    """1: with A = 1 and no drift the gradient is the mean over rows of the mean over targets."""
    batch = make_batch(size=6, num_slots=9, tokens_per_step=2)
    policy = build_objective("tracerl", group=2, drift_weight=0.0)
    assert isinstance(policy, Objective)
    context = policy.draw(batch, seed=0, step=3)
    z_RV = _logits(context)
    found = _grad(_loss(policy, context, z_RV), z_RV)
    plain = replace(build_objective("trajectory_ce"), sampler=policy.sampler)  # type: ignore[type-var]
    same = plain.draw(batch, seed=0, step=3)
    assert torch.equal(same.row_slot_R, context.row_slot_R)
    torch.testing.assert_close(found, _grad(_loss(plain, same, z_RV), z_RV), rtol=0, atol=1e-7)


def test_t3d_at_its_reference(make_batch: Maker) -> None:
    """2: ln 2 per response and (b/2) of the mean cross-entropy on the set; (1 + alpha) ln 2."""
    batch = make_batch(size=5, num_slots=8)
    for alpha in (0.0, 0.5):
        objective = build_objective("t3d", alpha=alpha, beta=0.3, path_weight=0.0, block=4)
        context = objective.draw(batch, seed=0, step=0)
        z_RV = _logits(context)
        loss = _loss(objective, context, z_RV, z_RV.detach())
        assert float(loss) == pytest.approx((1 + alpha) * math.log(2), abs=1e-9)
        if alpha == 0:
            set_R = context.sets["ddo"]
            log_p = z_RV.log_softmax(-1).gather(1, context.label_R[:, None])[:, 0]
            size_B = context.per_response(set_R.double())
            mean_B = context.per_response(torch.where(set_R, -log_p, 0.0)) / size_B
            expected = _grad(0.15 * mean_B.mean(), z_RV)
            torch.testing.assert_close(_grad(loss, z_RV), expected, rtol=0, atol=1e-9)


def test_d3llm_times_four_is_dparallel(make_batch: Maker) -> None:
    """3: on the same sets, with the same weight of certainty."""
    batch = make_batch(size=4, num_slots=12)
    ours = build_objective("dparallel", block=6, certainty_weight=1.0)
    theirs = build_objective("d3llm", block=6, certainty_weight=1.0)
    assert isinstance(ours, Mixture)
    context = ours.draw(batch, seed=0, step=0)
    z_RV = _logits(context)
    a, b = _loss(ours, context, z_RV), 4 * _loss(theirs, context, z_RV)
    assert float(a.detach()) == pytest.approx(float(b.detach()), abs=1e-12)
    torch.testing.assert_close(_grad(a, z_RV), _grad(b, z_RV), rtol=0, atol=1e-12)


def test_justgrpo_is_tracerl_left_to_right(make_batch: Maker) -> None:
    """4: a slot a step; the one divides by the response's slots, the other by the one target."""
    batch = replace(
        make_batch(size=5, num_slots=7), advantage_B=torch.tensor([1.0, -0.5, 2, 1, -1])
    )
    left_to_right = torch.arange(7).expand(5, 7)
    ordered = replace(batch, order_BN=left_to_right, step_BN=left_to_right)
    just = build_objective("justgrpo")
    trace = build_objective("tracerl", group=1, drift_weight=0.0)
    a = just.draw(batch, seed=0, step=1)
    b = trace.draw(ordered, seed=0, step=1)
    assert torch.equal(a.row_slot_R, b.row_slot_R)
    assert torch.equal(a.input_ids_BN, b.input_ids_BN)
    z_RV = _logits(a)
    found, expected = _grad(7 * _loss(just, a, z_RV), z_RV), _grad(_loss(trace, b, z_RV), z_RV)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_forward_kl_of_two_papers(make_batch: Maker) -> None:
    """7: d-OPSD without top k and clip is the sum, TAD's the mean, over the same slots."""
    batch = make_batch(size=4, num_slots=8, tokens_per_step=2)
    opsd = build_objective("d_opsd", block=8, positions="student", beta=0.0, top_k=0, clip=None)
    context = opsd.draw(batch, seed=0, step=0)
    z_RV, q_RV = _logits(context), _logits(context, seed=1).detach()
    log_q, log_p = q_RV.log_softmax(-1), z_RV.log_softmax(-1)
    kl_R = (log_q.exp() * (log_q - log_p)).sum(-1)
    assert float(_loss(opsd, context, z_RV, q_RV)) == pytest.approx(
        float(2 * kl_R.mean()), abs=1e-9
    )


def test_dllm_with_a_shifted_time_is_llada(make_batch: Maker) -> None:
    """8: linear and per sequence, time t + 1e-6; and with weight one."""
    batch = make_batch(size=4, num_slots=9)
    for weighting in ("scheduler", "one"):
        theirs = build_objective("sft_dllm", reduction="length", weighting=weighting)
        ours = build_objective("sft_llada", weighting="inv_p" if weighting != "one" else "one")
        assert isinstance(theirs, Objective)
        sample = theirs.sampler.sample(batch, _draws(batch), None)
        assert sample.time_B is not None
        later = replace(sample, time_B=sample.time_B + 1e-6)
        a = theirs.draw(batch, seed=0, step=0, sample=sample)
        b = ours.draw(batch, seed=0, step=0, sample=later)  # type: ignore[arg-type]
        torch.testing.assert_close(a.ce_weight_R, b.ce_weight_R, rtol=1e-6, atol=0)


def _draws(batch: TrajectoryBatch) -> Any:
    from tabom.objectives.slots import Draws

    return Draws(seed=0, step=0, key_B=batch.key_B)


@pytest.mark.parametrize(("block", "level", "ratio"), [(8, 4, 3.0), (4, 1, 25 / 3), (8, 2, 25 / 3)])
def test_the_staircase_of_t3d(make_batch: Maker, block: int, level: int, ratio: float) -> None:
    """9: weights of one response sum to 1, first to last as the number of levels has it."""
    batch = make_batch(size=3, num_slots=8)
    objective = build_objective("t3d", block=block, level=level)
    context = objective.draw(batch, seed=0, step=0)
    for b in range(3):
        weight = context.ce_weight_R[context.row_batch_R == b]
        assert float(weight.sum()) == pytest.approx(1, abs=1e-6)
        assert float(weight.max() / weight.min()) == pytest.approx(ratio, abs=1e-5)


def test_tad_without_a_teacher_is_a_mean_over_masked_slots(make_batch: Maker) -> None:
    """11: no divergence and a horizon as long as the rest."""
    batch = make_batch(size=4, num_slots=9, tokens_per_step=2)
    objective = build_objective("tad", steps=99, kl_weight=0.0)
    context = objective.draw(batch, seed=0, step=0)
    z_RV = _logits(context)
    assert not context.sets["far"].any()
    expected = -z_RV.log_softmax(-1).gather(1, context.label_R[:, None]).mean()
    assert float(_loss(objective, context, z_RV, z_RV.detach())) == pytest.approx(
        float(expected), abs=1e-6
    )
    assert len(context.label_R) == int((context.input_ids_BN == batch.mask_id).sum())


# ---- what the contexts draw ----


def test_a_horizon_is_a_visited_state(make_batch: Maker) -> None:
    batch = make_batch(size=200, num_slots=10, tokens_per_step=3, never=2)
    assert batch.step_BN is not None
    context = build_objective("tad", steps=2).draw(batch, seed=0, step=0)
    for b in range(200):
        step_N = batch.step_BN[b]
        shown = context.input_ids_BN[b] != batch.mask_id
        cut = int(step_N[~shown & (step_N >= 0)].min())
        assert torch.equal(shown, (step_N >= 0) & (step_N < cut))
        here = context.row_batch_R == b
        near = set(context.row_slot_R[here & (context.ce_weight_R > 0)].tolist())
        far = set(context.row_slot_R[here & context.sets["far"]].tolist())
        assert near == set(((step_N >= cut) & (step_N < cut + 2)).nonzero().flatten().tolist())
        assert far == set((step_N >= cut + 2).nonzero().flatten().tolist())


def test_every_group_is_asked_alike_and_minus_one_never(make_batch: Maker) -> None:
    one = make_batch(size=1, num_slots=9, never=3, seed=3)
    many = replace(one.take(torch.zeros(3000, dtype=torch.int64)), key_B=torch.arange(3000))
    assert one.step_BN is not None
    objective = build_objective("tracerl", group=2)
    context = objective.draw(many, seed=0, step=0)
    groups = Counter((one.step_BN[0, context.row_slot_R] // 2).tolist())
    per_response = Counter(
        tuple(context.row_slot_R[context.row_batch_R == b].tolist()) for b in range(3000)
    )
    assert -1 not in groups
    number = len(per_response)
    assert number == -(-int((one.step_BN >= 0).sum()) // 2)
    assert all(abs(n / 3000 - 1 / number) < 0.05 for n in per_response.values())


def test_groups_end_with_the_response(make_batch: Maker) -> None:
    """Filler is never a target of TraceRL, and no draw is spent on a group of nothing else."""
    batch = make_batch(size=64, num_slots=10, lengths=[4] * 64)
    context = build_objective("tracerl", group=1).draw(batch, seed=0, step=0)
    assert len(context.label_R) == 64
    assert int(context.row_slot_R.max()) < 4


def test_t3d_hides_the_earliest_and_some_as_noise(make_batch: Maker) -> None:
    batch = make_batch(size=300, num_slots=16)
    assert batch.order_BN is not None
    context = build_objective("t3d").draw(batch, seed=0, step=0)
    shares = Counter[int]()
    for b in range(300):
        hidden = context.sets["ddo"] & (context.row_batch_R == b)
        slots = context.row_slot_R[hidden]
        shares[len(slots)] += 1
        for start in (0, 8):
            inside = slots[(slots >= start) & (slots < start + 8)]
            order = batch.order_BN[b, start : start + 8]
            first = order.argsort()[: len(inside)] + start
            assert set(inside.tolist()) == set(first.tolist())
        seen = context.input_ids_BN[b, slots]
        assert int((seen != batch.mask_id).sum()) == max(1, int(0.1 * len(slots)))
    assert shares[16] / 300 == pytest.approx(0.906, abs=0.06)
    assert set(shares) <= {16, 12, 8, 4}


def test_the_teacher_of_d_opsd_sees_the_next_block(make_batch: Maker) -> None:
    batch = make_batch(size=100, num_slots=12, tokens_per_step=2)
    left = torch.arange(12).expand(100, 12)
    batch = replace(batch, order_BN=left, step_BN=left // 2, length_B=torch.full((100,), 9))
    context = build_objective("d_opsd", block=4, share=0.5).draw(batch, seed=0, step=0)
    assert context.reference_ids_BN is not None
    for b in range(100):
        own = context.input_ids_BN[b] != batch.mask_id
        theirs = context.reference_ids_BN[b] != batch.mask_id
        assert bool((own <= theirs).all())
        block = int((~own).nonzero()[0]) // 4
        hint = (theirs & ~own).nonzero().flatten() // 4
        assert hint.tolist() == ([block + 1] * 2 if (block + 1) * 4 < 9 else [])


# ---- terms and weights against loops ----


def test_the_policy_loss_is_worked_by_hand(make_batch: Maker) -> None:
    batch = make_batch(size=4, num_slots=6)
    generator = torch.Generator().manual_seed(1)
    batch = replace(
        batch,
        advantage_B=torch.tensor([1.0, -2.0, 0.5, -0.1]),
        old_logp_BN=-3 * torch.rand(4, 6, generator=generator),
    )
    term = ClippedPolicy(low=0.1, high=0.3, dual_clip=2.0, per="sum")
    base = build_objective("tracerl", group=3)
    assert isinstance(base, Objective)
    objective = replace(base, terms=((1.0, term),))
    context = objective.draw(batch, seed=0, step=0)
    z_RV = _logits(context)
    total = 0.0
    assert batch.old_logp_BN is not None
    assert batch.advantage_B is not None
    for r, (b, n) in enumerate(zip(context.row_batch_R, context.row_slot_R, strict=True)):
        log_p = float(z_RV[r].log_softmax(-1)[context.label_R[r]])
        ratio = math.exp(log_p - float(batch.old_logp_BN[b, n]))
        advantage = float(batch.advantage_B[b])
        loss = -min(ratio * advantage, min(max(ratio, 0.9), 1.3) * advantage)
        total += min(loss, -advantage * 2) if advantage < 0 else loss
    found = _loss(objective, context, z_RV)
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-6)


@pytest.mark.parametrize("pads", [False, True])
def test_cart_weights_against_a_loop(make_batch: Maker, pads: bool) -> None:
    batch = make_batch(size=3, num_slots=7)
    batch = replace(batch, prompt_mask_BP=torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]]))
    visible_BN = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    sample = Sample.of(visible_BN, ~visible_BN)
    found = Weighting(kind="cart", p=0.3, pads=pads).of(batch, sample)
    for b in range(3):
        prompt = [True] * 3 if pads else batch.prompt_mask_BP[b].bool().tolist()
        seen = [*prompt, *visible_BN[b].tolist()]
        for n in range(7):
            total = sum(
                0.5 * 0.3 * 0.7 ** (abs(q - n - 3) - 1)
                for q, is_seen in enumerate(seen)
                if is_seen and q != n + 3
            )
            assert float(found[b, n]) == pytest.approx(total, abs=1e-12)


KINDS = [
    DivergenceKind(),
    DivergenceKind(beta=1.0, temperature=2.0),
    DivergenceKind(beta=0.3),
    DivergenceKind(top_k=4, clip=0.2, clip_what="entry"),
    DivergenceKind(beta=0.5, clip=0.4),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_divergences_against_their_definition(kind: DivergenceKind) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, other, weight = normal(9, 5).requires_grad_(), normal(9, 5), normal(V, 5)
    found = linear_divergence(hidden, weight, other, weight * 1.3, kind=kind)
    p_all = hidden.detach() @ weight.t()
    q_all = other @ (weight * 1.3).t()
    for r in range(9):
        kept = q_all[r].topk(kind.top_k or V).indices
        p = (p_all[r, kept] / kind.temperature).softmax(-1)
        q = (q_all[r, kept] / kind.temperature).softmax(-1)
        if kind.beta in (0.0, 1.0):
            a, b = (q, p) if kind.beta == 0 else (p, q)
            terms = a * (a / b).log()
        else:
            m = kind.beta * q + (1 - kind.beta) * p
            terms = kind.beta * q * (q / m).log() + (1 - kind.beta) * p * (p / m).log()
        if kind.clip is not None and kind.clip_what == "entry":
            terms = terms.clamp(max=kind.clip)
        value = float(terms.sum())
        if kind.clip is not None and kind.clip_what == "token":
            value = min(value, kind.clip)
        assert float(found[r]) == pytest.approx(value, abs=1e-10)
    assert torch.autograd.gradcheck(
        lambda h: linear_divergence(h, weight, other, weight, kind=kind), (hidden,), atol=1e-6
    )


def test_a_divergence_is_nothing_at_the_reference() -> None:
    rows, head = torch.randn(4, 6), torch.randn(V, 6)
    for beta in (0.0, 0.4, 1.0):
        hidden = rows.clone().requires_grad_()
        value = linear_divergence(hidden, head, rows, head, kind=DivergenceKind(beta=beta))
        value.sum().backward()
        assert value.abs().max() < 1e-6
        assert hidden.grad is not None
        assert hidden.grad.abs().max() < 1e-6


def test_certainty_asks_what_is_already_right(make_batch: Maker) -> None:
    batch = make_batch(size=3, num_slots=6)
    objective = build_objective("dparallel", block=None, certainty_weight=1.0)
    assert isinstance(objective, Mixture)
    context = objective.draw(batch, seed=0, step=0)
    z_RV = torch.full((len(context.label_R), V), 0.0, dtype=torch.float64)
    z_RV[0, context.label_R[0]] = 3.0  # one row is right, all others tie: right as well
    z_RV[1, (context.label_R[1] + 1) % V] = 2.0  # one is wrong
    z_RV.requires_grad_()
    sums = objective.term_sums(
        Rows.of_head(z_RV, torch.eye(V, dtype=torch.float64), context.label_R), context
    ).sums
    grad = _grad(sums["certainty"] + sums["certainty_complement"], z_RV)
    assert grad[0].abs().sum() > 0
    assert grad[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t3d", {"block": 0}, "block"),
        ("t3d", {"beta": 0.0}, "beta"),
        ("t3d", {"noise": 2.0}, r"\[0, 1\]"),
        ("t3d", {"reference_every": 0}, "reference_every"),
        ("dparallel", {"block": 0}, "block"),
        ("dparallel", {"ratio": 1.5}, "ratio"),
        ("dparallel", {"temperature": 0.0}, "temperature"),
        ("d3llm", {"end_block": 8, "block": None}, "end_block"),
        ("tad", {"steps": 0}, "steps"),
        ("tad", {"temperature": -1.0}, "temperature"),
        ("tracerl", {"group": 0}, "group"),
        ("tracerl", {"clip": 1.0}, "clip"),
        ("justgrpo", {"dual_clip": 0.5}, "dual_clip"),
        ("d_opsd", {"beta": 2.0}, "beta"),
        ("d_opsd", {"clip": 0.0}, "clip"),
        ("nelbo", {"cart_p": 1.0}, "cart_p"),
        ("nelbo", {"focal_gamma": -1.0}, "focal_gamma"),
        ("nelbo_kl", {"kl_weight": -1.0}, "kl_weight"),
        ("two_contexts", {"share": 1.5}, "share"),
    ],
)
def test_settings_that_cannot_be(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name, **options)
