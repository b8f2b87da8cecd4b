"""The measurement that follows a pretraining."""

from pathlib import Path

import pytest

from tabom.cli import toyworld


def test_the_shipped_base_knows_its_tasks() -> None:
    accuracy = toyworld.measure("toy-base")
    assert min(accuracy[t] for t in ("hops", "reverse", "sort", "sudoku")) >= 90
    assert 30 <= accuracy["chain"] <= 85  # room to gain, and enough to collect


def test_a_base_that_learnt_nothing_is_told(
    random_toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tabom.cli.main import main

    monkeypatch.setattr("tabom.toyworld.base.pretrain", lambda folder, *, seed: folder)
    assert main(["toyworld", "pretrain", str(random_toy)]) == 0
    out, err = capsys.readouterr()
    assert "chain: 0.0" in out
    assert "did not learn to look up" in err
