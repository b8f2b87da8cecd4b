from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from official import Official


@pytest.fixture(scope="session")
def official(golden: Path) -> Callable[[str], Official]:
    @cache
    def get(family: str) -> Official:
        return Official(golden / f"{family}-tiny")

    return get
