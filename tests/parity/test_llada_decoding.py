"""That the options of LLaDA's published decoding are noticed."""

from collections.abc import Callable
from typing import Any

import pytest
from official import config_of

Get = Callable[[str], Any]


def test_guidance_is_noticed(official: Get) -> None:
    golden = official("llada")
    case = next((c for c in golden.cases if c["options"].get("cfg_scale")), None)
    if case is None:
        pytest.skip("this golden set has no guided case")
    config = config_of("llada", case)
    assert golden.decode(case, config) != golden.decode(case, config, cfg_scale=0.0)
