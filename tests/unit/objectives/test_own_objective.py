"""An objective of the user's own: one function in one file, named by a recipe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.compose import describe
from tabom.objectives.presets import build_objective

Maker = Callable[..., TrajectoryBatch]
OWN = """
from tabom.objectives.compose import Objective
from tabom.objectives.presets import WindowOptions
from tabom.objectives.terms import CrossEntropy, Ranking


def late_ranking(options: WindowOptions) -> Objective:
    terms = ((1.0, CrossEntropy()), (0.25, Ranking(margin=0.0, side="later")))
    return Objective(sampler=options.sampler(), terms=terms, reduction=options.reduction)


def without_options():
    return None


def gives_nothing(options: WindowOptions):
    return None
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_objective.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_one_function_is_an_objective(make_batch: Maker) -> None:
    name = "own_objective:late_ranking"
    objective = build_objective(name, window=4)
    assert (objective.name, objective.options["window"]) == (name, 4)
    described = describe(objective)
    assert json.loads(json.dumps(described)) == described
    context = objective.draw(make_batch(), seed=0, step=0)
    assert set(context.counts) == {"ce", "rank"}
    plain = build_objective("tabom", window=4).draw(make_batch(), seed=0, step=0)
    assert context.row_slot_R.tolist() == plain.row_slot_R.tolist()


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("own_objective:late_ranking", {"windw": 4}, "windw.*did you mean 'window'"),
        ("own_objective:late_rankin", {}, "did you mean 'late_ranking'"),
        ("own_objective:without_options", {}, "a function of one parameter"),
        ("own_objective:gives_nothing", {}, "gave a NoneType"),
        ("no_such_module:tabom", {}, "no module 'no_such_module'"),
    ],
)
def test_what_is_wrong_with_it_is_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_objective(name, **options)
