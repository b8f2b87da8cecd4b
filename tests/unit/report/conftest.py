import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def make_summary() -> Callable[[], dict[str, Any]]:
    """A fresh made-up summary at each call."""
    return runpy.run_path(str(Path(__file__).with_name("sample_summary.py")))["sample_summary"]


@pytest.fixture
def summary(make_summary: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return make_summary()
