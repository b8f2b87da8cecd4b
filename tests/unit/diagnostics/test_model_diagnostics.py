"""Diagnostics that ask a model: against naive single forwards, and their invariances."""

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tabom.core.errors import DataError
from tabom.diagnostics import loss_ratio as loss_ratio_module
from tabom.diagnostics.loss_ratio import AnswerPair, loss_ratio
from tabom.diagnostics.model_order import context_agreement, context_entropies
from tabom.diagnostics.slot_losses import AskedCanvas, slot_losses
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import Family
from tabom.models.ids import TokenIds
from tabom.trajectory.record import Trajectory

PAD, END, MASK, VOCAB = 0, 1, 2, 24


def make_model(*, alignment="identity", scale=0.5) -> MaskedDiffusionModel:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        is_causal=False,
        use_cache=False,
        attention_dropout=0.5,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LlamaForCausalLM(config)
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=scale)
    ids = TokenIds(mask=MASK, pad=PAD, eos=(END,), filler=END, sources={})
    family = Family(name="toy", alignment=alignment)
    return MaskedDiffusionModel(lm, family=family, ids=ids, tokenizer=None, name_or_path="test")


@pytest.fixture(scope="module")
def model():
    return make_model()


def naive(model, question):
    """One unpadded forward, all logits, float64."""
    ids = torch.tensor([[*question.prompt_ids, *question.input_ids_N.tolist()]])
    with torch.no_grad():
        hidden = model.lm.model(input_ids=ids, use_cache=False).last_hidden_state[0]
    shift = int(model.family.alignment == "shift_right")
    rows = torch.tensor(question.slot_R) + len(question.prompt_ids) - shift
    log_p = (hidden[rows].double() @ model.head_weight_VD.double().T).log_softmax(-1)
    ce = -log_p[torch.arange(len(rows)), torch.tensor(question.label_R)]
    return ce.detach().numpy(), -(log_p.exp() * log_p).sum(-1).detach().numpy()


def questions():
    rng = np.random.default_rng(0)
    found = []
    for num_prompt, num_slots, num_asked in ((3, 5, 2), (6, 4, 4), (1, 7, 0), (2, 2, 1)):
        slot_R = np.sort(rng.permutation(num_slots)[:num_asked])
        canvas = rng.integers(3, VOCAB, num_slots)
        canvas[slot_R] = MASK
        found.append(
            AskedCanvas(
                prompt_ids=rng.integers(3, VOCAB, num_prompt).tolist(),
                input_ids_N=canvas,
                slot_R=slot_R,
                label_R=rng.integers(0, VOCAB, num_asked),
            )
        )
    return found


@pytest.mark.parametrize("alignment", ["identity", "shift_right"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_slot_losses_against_single_forwards(alignment, batch_size):
    model = make_model(alignment=alignment)
    model.train()  # with dropout, unless the diagnostic switches it off
    answers = list(slot_losses(model, questions(), batch_size=batch_size))
    assert model.training
    model.eval()
    for (ce_R, entropy_R), question in zip(answers, questions(), strict=True):
        expected_ce, expected_entropy = naive(model, question)
        np.testing.assert_allclose(ce_R, expected_ce, atol=2e-5)
        np.testing.assert_allclose(entropy_R, expected_entropy, atol=2e-5)


def test_slot_losses_refuses_batch_size_zero(model):
    with pytest.raises(DataError, match="batch_size must be at least 1"):
        list(slot_losses(model, questions(), batch_size=0))


# -- loss ratio --------------------------------------------------------------------------------


def pairs(seed, *, num=5, low=3, high=7):
    """Answers of different lengths to the same prompts."""
    prompts, answers = np.random.default_rng(0), np.random.default_rng(seed)
    found = []
    for _ in range(num):
        prompt = prompts.integers(3, VOCAB, prompts.integers(2, 5)).tolist()
        length = answers.integers(low, high)
        found.append((prompt, [*answers.integers(3, VOCAB, length).tolist(), END]))
    return found


def both(ground_truth, self_distilled):
    """Two answers to each prompt."""
    return [
        AnswerPair(prompt_ids=prompt, ground_truth=one, self_distilled=other)
        for (prompt, one), (_, other) in zip(ground_truth, self_distilled, strict=True)
    ]


def captured(monkeypatch, model, ground_truth, self_distilled, **options):
    """The questions that were asked for each side."""
    calls = []

    def spy(model, asked, *, batch_size):
        calls.append(list(asked))
        return slot_losses(model, asked, batch_size=batch_size)

    monkeypatch.setattr(loss_ratio_module, "slot_losses", spy)
    result = loss_ratio(model, both(ground_truth, self_distilled), seed=3, batch_size=4, **options)
    return result, calls


def test_equal_answers_have_ratio_one(model):
    found = loss_ratio(model, both(pairs(1), pairs(1)), seed=0, batch_size=2)
    np.testing.assert_allclose(found.ratio_M, 1.0)
    assert len(found.ratio_M) == 9  # 0.1 to 0.9


def test_a_model_that_knows_nothing_pays_log_v():
    blind = make_model(scale=0.0)
    found = loss_ratio(blind, both(pairs(1), pairs(2)), seed=0, batch_size=4, ratios=(0.5, 1.0))
    np.testing.assert_allclose(found.ground_truth_M, math.log(VOCAB), rtol=1e-6)
    np.testing.assert_allclose(found.ratio_M, 1.0, rtol=1e-6)


def test_masks_are_shared_nested_and_of_the_asked_size(model, monkeypatch):
    ratios = (0.25, 0.5, 1.0)
    _, (gt, sd) = captured(
        monkeypatch, model, pairs(1), pairs(2), ratios=ratios, num_slots=12, filler="supervise"
    )
    assert len(gt) == len(sd) == 5 * 3
    for i in range(5):
        masks = [q.input_ids_N == MASK for q in gt[3 * i : 3 * i + 3]]
        assert [m.sum() for m in masks] == [3, 6, 12]
        assert (masks[0] <= masks[1]).all()
        for mask, question in zip(masks, sd[3 * i : 3 * i + 3], strict=True):
            assert (mask == (question.input_ids_N == MASK)).all()
    assert not (gt[0].input_ids_N == gt[3].input_ids_N).all()


def test_labels_are_the_clean_canvas_and_filler_is_not_asked(model, monkeypatch):
    ground_truth = pairs(1)
    ground_truth[0][1].extend([9, 9])  # what follows the end token is filler
    _, (asked, _) = captured(
        monkeypatch, model, ground_truth, pairs(2), ratios=(1.0,), num_slots=12
    )
    for (prompt, response), question in zip(ground_truth, asked, strict=True):
        length = response.index(END) + 1
        assert list(question.prompt_ids) == prompt
        assert question.slot_R.tolist() == list(range(length))
        assert question.label_R.tolist() == response[:length]
    _, (asked, _) = captured(
        monkeypatch, model, ground_truth, pairs(2), ratios=(1.0,), num_slots=12, filler="supervise"
    )
    assert asked[0].slot_R.tolist() == list(range(12))
    assert set(asked[0].label_R[ground_truth[0][1].index(END) :].tolist()) == {END}


def test_a_slot_never_revealed_is_not_asked(model, monkeypatch):
    self_distilled = pairs(2)
    self_distilled[0][1][1] = MASK
    _, (_, asked) = captured(monkeypatch, model, pairs(1), self_distilled, ratios=(1.0,))
    assert asked[0].slot_R.tolist()[:2] == [0, 2]
    assert MASK not in asked[0].label_R


def test_means_are_over_prompts_of_means_over_slots(model, monkeypatch):
    result, sides = captured(monkeypatch, model, pairs(1), pairs(2), ratios=(0.7,), num_slots=9)
    model.eval()
    expected = [np.mean([naive(model, q)[0].mean() for q in side]) for side in sides]
    assert result.count_M.tolist() == [5]
    assert result.ground_truth_M[0] == pytest.approx(expected[0], rel=1e-4)
    assert result.self_distilled_M[0] == pytest.approx(expected[1], rel=1e-4)
    assert result.ratio_M[0] == pytest.approx(expected[0] / expected[1], rel=1e-4)


def test_a_prompt_counts_only_if_both_answers_are_asked(model, monkeypatch):
    # A short answer on a long canvas is often not hit by the mask.
    short, long = pairs(1, num=12, low=1, high=2), pairs(2, num=12, low=18, high=19)
    result, (asked, other) = captured(
        monkeypatch, model, short, long, ratios=(0.1, 1.0), num_slots=20
    )
    num_hit = sum((q.input_ids_N == MASK).sum() == 2 for q in asked)
    assert 0 < num_hit < 12
    assert result.count_M.tolist() == [num_hit, 12]
    assert len(other) == 24


def test_batch_size_does_not_matter_and_the_seed_does(model):
    one = loss_ratio(model, both(pairs(1), pairs(2)), seed=0, batch_size=1)
    many = loss_ratio(model, both(pairs(1), pairs(2)), seed=0, batch_size=16)
    other = loss_ratio(model, both(pairs(1), pairs(2)), seed=1, batch_size=16)
    np.testing.assert_allclose(one.ratio_M, many.ratio_M, rtol=1e-4)
    assert not np.allclose(one.ratio_M, other.ratio_M, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ratios": (0.0, 0.5)}, r"mask ratios must be in \(0, 1\]"),
        ({"ratios": ()}, "mask ratios"),
        ({"num_slots": 3}, "tokens for 3 slots"),
        ({"filler": "maybe"}, "filler 'maybe'"),
    ],
)
def test_loss_ratio_errors(model, options, text):
    with pytest.raises(DataError, match=text):
        loss_ratio(model, both(pairs(1), pairs(2)), seed=0, batch_size=2, **options)


# -- order agreement of a model ----------------------------------------------------------------


def trajectory(name="t", ids=(5, 6, 7, END, END, END), step=(2, 0, 1, 3, 4, 5), prompt=(4, 9)):
    return Trajectory(
        id=name,
        prompt="p",
        prompt_ids=prompt,
        response="r",
        response_ids_N=ids,
        step_N=step,
        entropy_N=[0.1] * len(ids),
        confidence_N=[0.9] * len(ids),
        num_forwards=len(ids),
    )


def test_a_context_shows_the_first_slots_in_order_and_asks_all_others(model):
    hole = trajectory(ids=(5, 6, MASK, END, 8, END), step=(2, 0, -1, 3, 4, 5))
    contexts = context_entropies(model, [hole], cuts_per_trajectory=5, seed=0, batch_size=2)
    assert [c.cut for c in contexts] == [0, 1, 2, 3, 4]
    model.eval()
    for context in contexts:
        visible = (hole.order_N >= 0) & (hole.order_N < context.cut)
        asked = np.flatnonzero(hole.order_N >= context.cut)
        expected = naive(
            model,
            AskedCanvas(
                prompt_ids=[4, 9],
                input_ids_N=np.where(visible, hole.response_ids_N, MASK),
                slot_R=asked,
                label_R=hole.response_ids_N[asked],
            ),
        )
        np.testing.assert_allclose(context.entropy_N[asked], expected[1], atol=2e-5)
        assert np.isnan(np.delete(context.entropy_N, asked)).all()
        assert context.order_N[asked].tolist() == hole.order_N[asked].tolist()
        assert (np.delete(context.order_N, asked) == -1).all()
        assert context.length == 4


def test_cuts_are_spread_fixed_and_keyed_by_id(model):
    ids = [*range(3, 23), END, *[END] * 19]
    items = [trajectory(f"t{i}", ids=ids, step=range(40)) for i in range(6)]

    def cuts(**options):
        found = context_entropies(model, items, batch_size=16, **options)
        return {t.id: [c.cut for c in found if c.id == t.id] for t in items}

    first = cuts(cuts_per_trajectory=4, seed=0)
    assert first == cuts(cuts_per_trajectory=4, seed=0)
    assert first != cuts(cuts_per_trajectory=4, seed=1)
    assert len({tuple(c) for c in first.values()}) > 1
    for found in first.values():
        assert [c // 10 for c in found] == [0, 1, 2, 3]


def test_batch_size_does_not_matter(model):
    items = [trajectory("a"), trajectory("b", prompt=(3, 4, 5, 6))]
    options = {"cuts_per_trajectory": 3, "seed": 0}
    one = context_entropies(model, items, batch_size=1, **options)
    many = context_entropies(model, items, batch_size=8, **options)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.entropy_N, b.entropy_N, atol=2e-5)


def test_context_agreement_by_hand(model):
    (context,) = context_entropies(
        model, [trajectory()], cuts_per_trajectory=1, seed=0, batch_size=1
    )
    context.entropy_N[:] = [0.3, 0.1, 0.2, 0.0, 9.0, 8.0]
    context.order_N[:] = [2, 0, 1, 3, 4, 5]
    # Up to the end token: three pairs with the end token wrong, three right.
    assert context_agreement([context]).accuracy == 0.5
    # The next three slots in decoding order are 1, 2, 0.
    assert context_agreement([context], window=3).accuracy == 1.0


def test_cuts_per_trajectory_must_be_positive(model):
    with pytest.raises(DataError, match="cuts_per_trajectory must be at least 1, got 0"):
        context_entropies(model, [trajectory()], cuts_per_trajectory=0, seed=0, batch_size=1)
