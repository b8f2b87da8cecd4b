"""What is odd about Dream's published schedule, and that its options are noticed."""

from collections.abc import Callable
from typing import Any

import pytest
from official import config_of

Get = Callable[[str], Any]


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
    _, steps = golden.decode(case, config_of("dream", case))
    last = case["options"]["steps"] - 1
    for row in steps:
        assert [row.count(s) for s in (0, 1, last - 1, last)] == [0, 1, 1, 2]


def test_another_seed_or_policy_is_noticed(official: Get) -> None:
    golden = official("dream")
    case = next((c for c in golden.cases if c["options"]["alg"] == "entropy"), None)
    if case is None:
        pytest.skip("this golden set has no case of the entropy policy")
    config = config_of("dream", {"options": {**case["options"], "temperature": 1.0}})
    one, other = (golden.decode({**case, "torch_seed": s}, config) for s in (1, 2))
    assert one != other
    assert golden.decode({**case, "torch_seed": 1}, config) == one
