"""Truncation without a full sort against the rule written out, and draws from what is left."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabom.decoding import sampling
from tabom.decoding.answers import Answers, Draws
from tabom.decoding.config import DecodingConfig
from tabom.decoding.sampling import draw, kept_tokens
from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST

P = st.one_of(
    st.floats(1e-9, 1.0), st.sampled_from([1e-12, 0.5, 0.9, 1 - 1e-3, 1 - 1e-6, 1 - 1e-9])
)


def truncate(logits_RV: Tensor, *, top_p: float | None, top_k: int | None) -> Tensor:
    """The logits with every token that `kept_tokens` leaves out set to `LOWEST`."""
    config = DecodingConfig(temperature=1.0, top_p=top_p, top_k=top_k)
    kept_RV = torch.full_like(logits_RV, LOWEST)
    softmax = RunningSoftmax.of_logits(logits_RV)
    for row_M, id_MK, value_MK in kept_tokens(logits_RV, softmax, config):
        m, k = (value_MK > LOWEST).nonzero(as_tuple=True)
        kept_RV[row_M[m], id_MK[m, k]] = value_MK[m, k]
    return kept_RV


def kept_by_sorting(
    logits_RV: Tensor, *, top_p: float | None, top_k: int | None
) -> tuple[Tensor, float]:
    """The rule in float64 over a stable sort; and how near to top_p a decision was."""
    keep_RV = torch.ones_like(logits_RV, dtype=torch.bool)
    nearest = 1.0
    if top_p is not None:
        value_RV, id_RV = logits_RV.double().sort(dim=-1, descending=True, stable=True)
        p_RV = value_RV.softmax(dim=-1)
        before_RV = p_RV.cumsum(dim=-1) - p_RV
        nearest = float((before_RV[:, 1:] - top_p).abs().min())
        keep_RV = torch.zeros_like(keep_RV).scatter(1, id_RV, before_RV <= top_p)
    if top_k is not None and top_k < logits_RV.shape[1]:
        left_RV = logits_RV.masked_fill(~keep_RV, LOWEST)
        keep_RV &= left_RV >= left_RV.topk(top_k, dim=-1).values[:, -1:]
    return keep_RV, nearest


@given(
    seed=st.integers(0, 2**20),
    vocab=st.sampled_from([5, 63, 64, 65, 200, 700]),
    spread=st.sampled_from([0.0, 0.3, 2.0, 8.0, 60.0]),
    levels=st.sampled_from([0, 1, 2, 8]),
    top_p=P,
    top_k=st.one_of(st.none(), st.integers(1, 300)),
)
@settings(deadline=None, max_examples=300)
def test_the_kept_set_is_that_of_a_full_sort(
    seed: int, vocab: int, spread: float, levels: int, top_p: float, top_k: int | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, vocab, generator=generator) * spread
    if levels:  # ties, as many as one likes, across every edge
        logits = (logits * levels / (spread + 1)).round() * (spread + 1) / levels
    expected, nearest = kept_by_sorting(logits, top_p=top_p, top_k=top_k)
    assume(nearest > 1e-6)
    assert torch.equal(truncate(logits, top_p=top_p, top_k=top_k) > LOWEST, expected)
    alone, _ = kept_by_sorting(logits, top_p=None, top_k=top_k)
    assert torch.equal(truncate(logits, top_p=None, top_k=top_k) > LOWEST, alone)


def test_ties_across_the_edge_of_the_prefix() -> None:
    # 100 equal tokens: 0.305 lets 31 in, the lowest ids; 0.7 lets 71 in, more than the prefix.
    logits = torch.full((1, 150), -50.0)
    logits[:, 20:120] = 1.0
    for top_p, count in ((0.305, 31), (0.7049, 71)):
        kept = (truncate(logits, top_p=top_p, top_k=None)[0] > LOWEST).nonzero().squeeze(1)
        assert kept.tolist() == list(range(20, 20 + count))


@pytest.mark.parametrize("top_p, top_k", [(0.9, None), (0.5, 7), (None, 100), (0.999, None)])
@pytest.mark.parametrize("temperature", [0.1, 0.7, 2.0])
def test_tokens_drawn_are_those_of_a_float64_inverse_over_the_whole_vocabulary(
    temperature: float, top_p: float | None, top_k: int | None
) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(400, 500, generator=generator) * 3
    uniforms = torch.rand(400, generator=generator, dtype=torch.float64)
    tempered = logits / temperature
    tempered[:, 499] = LOWEST  # the mask
    keep, _ = kept_by_sorting(tempered, top_p=top_p, top_k=top_k)
    p = tempered.double().masked_fill(~keep, -torch.inf).softmax(-1)
    expected = (p.cumsum(-1) > uniforms[:, None]).int().argmax(-1)
    config = DecodingConfig(temperature=temperature, top_p=top_p, top_k=top_k)
    answers = Answers(config=config, mask_id=499, max_logit_bytes=2**20)
    stats = answers.sampled(logits.clone(), Draws(token_R=uniforms))
    assert torch.equal(stats.token_R, expected)
    log_p = p.log().masked_fill(p == 0, 0.0)
    torch.testing.assert_close(-stats.score_R.double(), -(p * log_p).sum(-1), atol=2e-6, rtol=2e-6)
    masked = tempered.masked_fill(~keep, LOWEST)
    assert torch.equal(draw(masked, uniforms), expected)


def test_only_rows_that_need_it_are_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = sampling._whole

    def counted(value_MV: Tensor, *args: Tensor, **options: float | None) -> Tensor:
        rows.append(len(value_MV))
        return original(value_MV, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling, "_whole", counted)
    logits = torch.randn(16, 3000, generator=torch.Generator().manual_seed(1)) * 6
    logits[3] = 0.0
    truncate(logits, top_p=0.9, top_k=None)
    assert rows == [1]


def test_nucleus_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()

    def kept(top_p: float | None = None, top_k: int | None = None) -> list[int]:
        return (truncate(logits, top_p=top_p, top_k=top_k)[0] > LOWEST).nonzero()[:, 0].tolist()

    assert kept(top_p=0.01) == [1]
    assert kept(top_p=0.39) == [1]
    assert kept(top_p=0.41) == [1, 2]
    assert kept(top_p=0.75) == [1, 2, 3]
    assert kept(top_p=1.0) == [0, 1, 2, 3]
    assert kept(top_k=2) == [1, 2]
    assert kept(top_k=9) == [0, 1, 2, 3]
    assert kept(top_p=0.75, top_k=1) == [1]
    tied = torch.zeros(1, 4)
    assert (truncate(tied, top_p=None, top_k=2) > LOWEST).all()
