"""Our official schedule against what Dream's published `diffusion_generate` did."""

from collections.abc import Callable
from typing import Any

import pytest

from tabom.decoding.config import DecodingConfig

Get = Callable[[str], Any]


def config_of(options: dict[str, Any]) -> DecodingConfig:
    known = dict(options)
    return DecodingConfig(
        schedule="official",
        policy=known.pop("alg"),
        max_new_tokens=known.pop("max_new_tokens"),
        steps=known.pop("steps"),
        temperature=known.pop("temperature", 0.0) or 0.0,
        top_p=known.pop("top_p", None),
        top_k=known.pop("top_k", None),
        alg_temp=known.pop("alg_temp", None),
        eps=known.pop("eps", None),
        **known,  # an option that this test does not know is an error
    )


def check(official: Get, *, is_sampled: bool) -> list[str]:
    """Compare every case of one kind; the names of those compared."""
    golden, checked = official("dream"), []
    for case in golden.cases:
        if ((case["options"].get("temperature") or 0) > 0) != is_sampled:
            continue
        ids, steps = golden.decode(case, config_of(case["options"]))
        assert ids == case["response_ids"], (case["name"], case["options"])
        assert steps == case["decode_step"], (case["name"], case["options"])
        checked.append(case["name"])
    return checked


def test_every_greedy_case_in_tokens_and_steps(official: Get) -> None:
    assert check(official, is_sampled=False)


def test_every_sampled_case_draw_for_draw(official: Get) -> None:
    # A stretch: equal draws need equal probabilities to the last bit, as on the CPU that made them.
    if not check(official, is_sampled=True):
        pytest.skip("this golden set has no sampled case")


def test_the_schedule_reveals_nothing_first_and_two_last(official: Get) -> None:
    golden = official("dream")
    case = next(
        (
            c
            for c in golden.cases
            if c["options"]["steps"] == c["options"]["max_new_tokens"]
            and not c["options"].get("temperature")
            and not c["left_masked"]
        ),
        None,
    )
    if case is None:
        pytest.skip("this golden set has no greedy case of one slot a step")
    _, steps = golden.decode(case, config_of(case["options"]))
    last = case["options"]["steps"] - 1
    for row in steps:
        assert [row.count(s) for s in (0, 1, last - 1, last)] == [0, 1, 1, 2]


def test_another_seed_or_policy_is_noticed(official: Get) -> None:
    golden = official("dream")
    case = next((c for c in golden.cases if c["options"]["alg"] == "entropy"), None)
    if case is None:
        pytest.skip("this golden set has no case of the entropy policy")
    config = config_of({**case["options"], "temperature": 1.0})
    one, other = (golden.decode({**case, "torch_seed": s}, config) for s in (1, 2))
    assert one != other
    assert golden.decode({**case, "torch_seed": 1}, config) == one
