import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tabom.report.data import Report


@pytest.fixture(scope="session")
def make_report() -> Callable[..., Report]:
    """A fresh made-up report at each call; arguments replace its parts."""
    return runpy.run_path(str(Path(__file__).with_name("sample_report.py")))["sample_report"]


@pytest.fixture
def report(make_report: Callable[..., Report]) -> Report:
    return make_report()


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width of whoever runs the tests decides nothing."""
    monkeypatch.setenv("COLUMNS", "100")
