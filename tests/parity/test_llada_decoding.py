"""Our official schedule against what LLaDA's published `generate` did."""

from collections.abc import Callable
from typing import Any

import pytest

from tabom.decoding.config import DecodingConfig

Get = Callable[[str], Any]


def config_of(options: dict[str, Any]) -> DecodingConfig:
    known = dict(options)
    return DecodingConfig(
        schedule="official",
        policy=known.pop("remasking", "low_confidence"),
        max_new_tokens=known.pop("max_new_tokens"),
        steps=known.pop("steps"),
        block_length=known.pop("block_length"),
        temperature=known.pop("temperature", 0.0) or 0.0,
        cfg_scale=known.pop("cfg_scale", 0.0) or 0.0,
        **known,  # logits_eos_inf, confidence_eos_eot_inf; any other is an error
    )


def is_greedy(options: dict[str, Any]) -> bool:
    return not options.get("temperature") and options.get("remasking") != "random"


def test_every_greedy_case_in_tokens_and_steps(official: Get) -> None:
    golden, checked = official("llada"), []
    for case in golden.cases:
        if is_greedy(case["options"]):
            ids, steps = golden.decode(case, config_of(case["options"]))
            assert ids == case["response_ids"], (case["name"], case["options"])
            assert steps == case["decode_step"], (case["name"], case["options"])
            checked.append(case["name"])
    assert checked


def test_every_sampled_case_draw_for_draw(official: Get) -> None:
    # The set that travels with the tests has none; another may.
    golden = official("llada")
    for case in golden.cases:
        if not is_greedy(case["options"]):
            ids, steps = golden.decode(case, config_of(case["options"]))
            assert ids == case["response_ids"], (case["name"], case["options"])
            assert steps == case["decode_step"], (case["name"], case["options"])


def test_guidance_is_noticed(official: Get) -> None:
    golden = official("llada")
    case = next((c for c in golden.cases if c["options"].get("cfg_scale")), None)
    if case is None:
        pytest.skip("this golden set has no guided case")
    config = config_of(case["options"])
    assert golden.decode(case, config) != golden.decode(case, config, cfg_scale=0.0)
