"""The measurement that follows a pretraining."""

from pathlib import Path

import pytest

from tabom.cli import toyworld


def test_the_shipped_base_knows_its_tasks() -> None:
    accuracy = toyworld.measure("toy-base", ["chain", "hops", "reverse", "sort", "sudoku"])
    assert min(accuracy[t] for t in ("hops", "reverse", "sort", "sudoku")) >= 90
    assert 30 <= accuracy["chain"] <= 85  # room to gain, and enough to collect


def test_a_base_that_learnt_nothing_is_told(
    random_toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tabom.cli.main import main

    asked = {}
    monkeypatch.setattr("tabom.toyworld.base.pretrain", lambda folder, **given: asked.update(given))
    assert main(["toyworld", "pretrain", str(random_toy), "--chain_share", "0.001"]) == 0
    out, err = capsys.readouterr()
    shares = asked["lessons"][1].shares
    assert shares["chain"] == 0.001
    assert sum(shares.values()) == pytest.approx(1.0)
    assert asked["options"] == " --chain_share 0.001"
    assert main(["toyworld", "pretrain", str(random_toy), "--chain_share", "0.5"]) == 2
    assert "chain_share 0.5 is taken from the share of hops" in capsys.readouterr().err
    assert "chain: 0.0" in out
    assert "did not learn to look up" in err
