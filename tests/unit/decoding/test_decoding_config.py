from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.errors import ConfigError
from tabom.core.plain import fingerprint
from tabom.decoding.config import DecodingConfig
from tabom.decoding.policies import candidates_in_block, factor_quota, threshold_quota


@pytest.mark.parametrize(
    "options, words",
    [
        ({"policy": "greedy"}, "policy: .*'greedy'"),
        ({"policy": "origin"}, "'origin' does not go with schedule 'fixed'.*entropy, confidence"),
        ({"schedule": "official", "policy": "margin"}, "'margin' does not go with.*topk_margin"),
        ({"schedule": "dream"}, "schedule: .*'fixed'.*'dream'"),
        ({"schedule": "threshold", "policy": "confidence"}, "needs threshold"),
        ({"schedule": "factor", "policy": "confidence"}, "needs factor"),
        ({"schedule": "threshold", "threshold": 0.9}, "policy is 'entropy', take confidence"),
        ({"threshold": 0.9}, "threshold = 0.9 belongs to schedule 'threshold'"),
        ({"schedule": "factor", "policy": "confidence", "factor": 1.0, "tokens_per_step": 2},
         "tokens_per_step = 2 belongs to schedule 'fixed'"),
        ({"steps": 8}, "steps = 8 belongs to schedule 'official'"),
        ({"cfg_scale": 1.0}, "belongs to schedule 'official'"),
        ({"schedule": "official", "tokens_per_step": 2}, "belongs to schedule 'fixed'"),
        ({"schedule": "official", "steps": 0}, "steps must be at least 1"),
        ({"schedule": "official", "eps": 1.0}, r"eps must be below 1"),
        ({"schedule": "official", "alg_temp": -1.0}, "alg_temp must be at least 0"),
        ({"schedule": "threshold", "policy": "confidence", "threshold": 1.5}, "threshold must be"),
        ({"schedule": "factor", "policy": "confidence", "factor": 0.0}, "factor must be above 0"),
        ({"greedy_tokens": True}, "greedy_tokens is for a temperature above 0.*temperature 0.0"),
        ({"approximate": "dual"}, "needs a block_length"),
        ({"approximate": "both", "block_length": 8}, "'prefix', 'dual', found 'both'"),
        ({"approximate": "prefix", "block_length": 8, "schedule": "official"}, "other than off"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DecodingConfig(**options)


def test_the_mask_is_suppressed_except_officially() -> None:
    assert DecodingConfig().is_mask_suppressed
    assert not DecodingConfig(suppress_mask=False).is_mask_suppressed
    assert not DecodingConfig(schedule="official").is_mask_suppressed
    assert DecodingConfig(schedule="official", suppress_mask=True).is_mask_suppressed


def test_approximations_are_in_the_fingerprint() -> None:
    prints = {
        fingerprint(DecodingConfig(block_length=32, approximate=a))  # type: ignore[arg-type]
        for a in (None, "prefix", "dual")
    }
    assert len(prints) == 3
    assert DecodingConfig().approximate is None


CONFIDENCE = torch.tensor([[0.95, 0.2, 0.9, 0.5], [0.3, 0.1, 0.2, 0.99], [0.9, 0.9, 0.9, 0.9]])
OPEN = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]).bool()


def test_threshold_by_hand() -> None:
    assert threshold_quota(CONFIDENCE, OPEN, threshold=0.9).tolist() == [2, 1, 0]
    assert threshold_quota(CONFIDENCE, OPEN, threshold=0.1).tolist() == [4, 3, 0]
    assert threshold_quota(CONFIDENCE, OPEN, threshold=1.0).tolist() == [1, 1, 0]


def test_factor_by_hand() -> None:
    # factor 0.6: ranks 1-4 need 0.7, 0.8, 0.85, 0.88; row 0 sorted: 0.95, 0.9, 0.5, 0.2
    assert factor_quota(CONFIDENCE, OPEN, factor=0.6).tolist() == [2, 1, 0]
    # factor 2: 0, 1/3, 1/2, 3/5: ranks 1, 2, 3 pass in row 0; rank 1 alone in row 1
    assert factor_quota(CONFIDENCE, OPEN, factor=2.0).tolist() == [3, 1, 0]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.floats(0.05, 5))
@settings(deadline=None, max_examples=100)
def test_factor_counts_every_rank(values: list[float], factor: float) -> None:
    confidence = torch.tensor([values])
    ranked = confidence.sort(descending=True).values[0].tolist()
    passing = sum(
        torch.tensor(c) >= 1 - torch.tensor(factor) / (r + 2) for r, c in enumerate(ranked)
    )
    quota = factor_quota(confidence, torch.ones_like(confidence).bool(), factor=factor)
    assert int(quota) == max(1, int(passing))


def test_blocks_counted_from_the_prompt_by_hand() -> None:
    # 3 prompt tokens and blocks of 4: block 0 has slot 0 alone, block 1 slots 1 to 4
    open_BN = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    found = candidates_in_block(open_BN, block_length=4, offset_B=torch.tensor([3, 3, 8]))
    assert found.int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0]]
