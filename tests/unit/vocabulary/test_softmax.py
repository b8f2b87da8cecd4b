"""Running softmax statistics against float64 sums over the whole row."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST, Tile

LOGIT = st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1.0, 5.0, -200.0, LOWEST]),  # ties, and weights that are nothing
)


def running(logits_RV: Tensor, width: int, *, has_second: bool = True) -> RunningSoftmax:
    softmax = RunningSoftmax(
        len(logits_RV), device=logits_RV.device, has_token=True, has_second=has_second
    )
    for tile in tiles(logits_RV, width):
        softmax.add_(tile)
    return softmax


def tiles(logits_RV: Tensor, width: int) -> Iterator[Tile]:
    for start in range(0, logits_RV.shape[1], width):
        logits = logits_RV[:, start : start + width].clone()
        yield Tile(
            first_id=start,
            logits_RT=logits,
            shifted_RT=torch.empty_like(logits),
            weight_RT=torch.empty_like(logits),
        )


@given(st.lists(LOGIT, min_size=2, max_size=24), st.integers(1, 25))
@settings(deadline=None, max_examples=200)
def test_tiles_of_any_width_say_what_the_whole_row_says(row: list[float], width: int) -> None:
    if max(row) == LOWEST:
        row[0] = 0.0
    logits = torch.tensor([row], dtype=torch.float32)
    softmax = running(logits, width)
    exact = logits.double().log_softmax(-1)[0]
    p = exact.exp()
    assert softmax.token_R.item() == row.index(max(row))
    entropy = -float((p * exact.clamp(min=-1e30)).sum())
    assert softmax.entropy_nats().item() == pytest.approx(entropy, rel=2e-6, abs=1e-12)
    best = p.topk(2).values
    assert softmax.margin().item() == pytest.approx(float(best[0] - best[1]), rel=1e-5, abs=1e-6)
    for v in range(len(row)):
        assert softmax.probability(logits[:, v]).item() == pytest.approx(float(p[v]), abs=1e-6)


@given(st.lists(LOGIT, min_size=2, max_size=12), LOGIT, st.integers(0, 12))
@settings(deadline=None, max_examples=200)
def test_a_token_more_is_as_if_it_had_been_there(row: list[float], more: float, at: int) -> None:
    if max(row) == LOWEST:
        row[0] = 0.0
    at = min(at, len(row))
    whole = torch.tensor([[*row[:at], more, *row[at:]]], dtype=torch.float32)
    without = whole.clone()
    without[:, at] = LOWEST
    before = running(without, 5)
    entropy = before.entropy_nats().item()
    joined, exact = before.with_token(whole[:, at], token=at), running(whole, 5)
    assert before.entropy_nats().item() == entropy  # a copy was changed
    assert joined.token_R.item() == exact.token_R.item()
    for name in ("entropy_nats", "margin"):
        one, other = getattr(joined, name)().item(), getattr(exact, name)().item()
        assert one == pytest.approx(other, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("width", [1, 3, 1024, 152064])
def test_near_certainty_keeps_its_digits(width: int) -> None:
    # p = 1 - e with e = exp(-20): h = 21 e up to e**2; the best token comes last.
    logits = torch.tensor([[12.0, 32.0], [32.0, 12.0]])
    h = running(logits, width).entropy_nats().tolist()
    assert h == pytest.approx([21 * math.exp(-20)] * 2, rel=1e-6)
    nothing = running(torch.tensor([[0.0, LOWEST, -300.0]]), width)
    assert nothing.entropy_nats().item() == 0
    assert nothing.margin().item() == 1


def test_a_full_vocabulary_is_accurate_whatever_the_tile() -> None:
    logits = torch.randn(3, 152064, generator=torch.Generator().manual_seed(0)) * 3
    log_p = logits.double().log_softmax(-1)
    exact = -(log_p.exp() * log_p).sum(-1)
    for width in (1000, 16384, 152064):
        entropy = running(logits, width, has_second=False).entropy_nats()
        torch.testing.assert_close(entropy.double(), exact, atol=1e-6, rtol=0)
    dense = RunningSoftmax.of_logits(logits).entropy_nats()
    torch.testing.assert_close(dense, entropy, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    for at in (0, 2, 3):
        row = [0.0, 1.0, 2.0, 3.0]
        row[at] = bad
        assert not running(torch.tensor([row]), 2).entropy_nats().isfinite().any()


@given(st.lists(LOGIT, min_size=2, max_size=24), st.integers(1, 25), st.integers(-1, 24))
@settings(deadline=None, max_examples=100)
def test_the_pass_of_training_says_the_same_without_the_token(
    row: list[float], width: int, label: int
) -> None:
    if max(row) == LOWEST:
        row[0] = 0.0
    logits = torch.tensor([row], dtype=torch.float32)
    labels = torch.tensor([label])
    softmax = RunningSoftmax(1, device=logits.device, labels_R=labels)
    for tile in tiles(logits, width):
        softmax.add_(tile)
    exact = running(logits, width)
    assert softmax.greatest_R.item() == exact.greatest_R.item()
    assert softmax.log_total().item() == pytest.approx(exact.log_total().item(), abs=1e-5)
    assert softmax.entropy_nats().item() == pytest.approx(exact.entropy_nats().item(), abs=1e-5)
    if 0 <= label < len(row):
        assert softmax.label_logit_R.item() == logits[0, label].item()
    else:
        assert softmax.label_logit_R.isnan().all()
