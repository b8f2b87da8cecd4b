import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.decoding.answers import Answers, Draws, RowStats
from tabom.decoding.config import DecodingConfig
from tabom.decoding.policies import candidates_in_block, fixed_quota, select
from tabom.decoding.sampling import draw
from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST

THIRDS = torch.tensor([[0.5, 0.25, 0.25]]).log()


def answers(config: DecodingConfig, mask_id: int) -> Answers:
    return Answers(config=config, mask_id=mask_id, max_logit_bytes=2**20)


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    return RunningSoftmax.of_logits(logits).entropy_nats()


@pytest.mark.parametrize(
    "policy, expected",
    [("entropy", -1.5 * math.log(2)), ("confidence", 0.25), ("margin", 0.25)],
)
def test_scores_by_hand(policy: Any, expected: float) -> None:
    softmax = RunningSoftmax.of_logits(THIRDS, has_second=True)
    score = answers(DecodingConfig(policy=policy), 0).score(softmax, THIRDS[:, 1])
    assert score.item() == pytest.approx(expected)


def test_entropy_of_near_certainty_is_exact_and_not_negative() -> None:
    # p = 1 - e, e = exp(-20): h = 20 e + e up to e**2. 1 + e is 1 in float32.
    h = entropy_of(torch.tensor([[32.0, 12.0]])).item()
    assert h == pytest.approx(21 * math.exp(-20), rel=1e-6)
    assert entropy_of(torch.tensor([[0.0, LOWEST]])).item() == 0


def test_entropy_over_a_full_vocabulary_is_accurate() -> None:
    # log_softmax in float32 was off by 6e-5 nats here: more than the gap between close slots.
    logits = torch.randn(4, 152064, generator=torch.Generator().manual_seed(0)) * 3
    log_p = logits.double().log_softmax(-1)
    exact = -(log_p.exp() * log_p).sum(-1)
    torch.testing.assert_close(entropy_of(logits).double(), exact, atol=1e-6, rtol=0)


def test_tempered_score_untempered_record() -> None:
    config = DecodingConfig(temperature=0.5, policy="confidence")
    # p = (1/2, 1/4, 1/4) squared and renormalised: (4/6, 1/6, 1/6); the last id is the mask
    logits = torch.cat([THIRDS, torch.tensor([[7.0]])], dim=1)
    stats = answers(config, 3).sampled(logits, Draws(token_R=torch.tensor([0.7]).double()))
    assert stats.token_R.tolist() == [1]
    assert stats.score_R.item() == pytest.approx(1 / 6)
    assert stats.confidence_R.item() == pytest.approx(0.25)
    assert stats.entropy_R.item() == pytest.approx(1.5 * math.log(2))


def test_greedy_tokens_with_a_tempered_order() -> None:
    # Row 0: two of three tokens are left by top-p 0.7, (2/3, 1/3); row 1: one, of probability 1.
    # Untempered the entropies say the same, the confidences (0.5 and 0.8) are other numbers.
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]).log()
    logits = torch.cat([logits, torch.full((2, 1), 7.0)], dim=1)  # the mask

    def stats(policy: str) -> RowStats:
        config = DecodingConfig(temperature=1.0, top_p=0.7, policy=policy, greedy_tokens=True)  # type: ignore[arg-type]
        return answers(config, 3).sampled(logits.clone(), Draws())  # no draws are asked for

    for policy in ("entropy", "confidence", "margin"):
        assert stats(policy).token_R.tolist() == [1, 2]
        torch.testing.assert_close(stats(policy).confidence_R, torch.tensor([0.5, 0.8]))
    torch.testing.assert_close(stats("confidence").score_R, torch.tensor([2 / 3, 1.0]))
    h = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)
    torch.testing.assert_close(stats("entropy").score_R, torch.tensor([-h, 0.0]))
    assert not DecodingConfig(temperature=1.0, greedy_tokens=True).draws_tokens
    assert DecodingConfig(temperature=1.0).draws_tokens
    assert not DecodingConfig().draws_tokens


@pytest.mark.parametrize("policy", ["entropy", "confidence", "margin"])
def test_low_temperature_makes_no_nan(policy: str) -> None:
    config = DecodingConfig(temperature=1e-3, top_p=0.9, policy=policy)  # type: ignore[arg-type]
    logits = torch.tensor([[1.0, 2.0, 90.0], [-50.0, 3.0, 4.0]])
    stats = answers(config, 2).sampled(logits, Draws(token_R=torch.tensor([0.999, 0.0]).double()))
    assert stats.token_R.tolist() == [1, 1]
    assert torch.isfinite(stats.score_R).all()


@given(
    st.lists(st.one_of(st.just(LOWEST), st.floats(-20, 20)), min_size=2, max_size=9),
    st.one_of(st.floats(0, 1, exclude_max=True), st.just(1 - 2**-53)),
)
@settings(deadline=None, max_examples=200)
def test_draw_never_gives_an_impossible_token(logits: list[float], point: float) -> None:
    if max(logits) == LOWEST:
        logits[0] = 0.0
    row = torch.tensor([logits], dtype=torch.float32)
    token = int(draw(row, torch.tensor([point], dtype=torch.float64)))
    p = row.double().softmax(-1)[0]
    assert p[token] > 0
    assert p[:token].sum() <= point + 1e-12
    assert p[: token + 1].sum() > point - 1e-12


def test_blocks_by_hand() -> None:
    open_BN = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    assert candidates_in_block(open_BN, block_length=2).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert torch.equal(candidates_in_block(open_BN, block_length=None), open_BN)
    assert fixed_quota(open_BN, tokens_per_step=4).tolist() == [4, 3, 0]


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_select_takes_the_best_candidates(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    scores = data.draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=n, max_size=n))
    candidates = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    quota = data.draw(st.integers(0, sum(candidates)))
    chosen = select(torch.tensor([scores]), torch.tensor([candidates]), torch.tensor([quota]))
    ready = sorted((s for s in range(n) if candidates[s]), key=lambda s: (-scores[s], s))
    assert chosen[0].nonzero()[:, 0].tolist() == sorted(ready[:quota])
