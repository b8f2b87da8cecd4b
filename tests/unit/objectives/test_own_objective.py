"""An objective of the user's own: one function in one file, named by a recipe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.mixture import describe
from tabom.objectives.presets import build_objective
from tabom.objectives.rows import Rows

Maker = Callable[..., TrajectoryBatch]
OWN = """
from dataclasses import dataclass
from typing import ClassVar

from tabom.objectives.compose import Objective
from tabom.objectives.presets import WindowOptions
from tabom.objectives.terms import CrossEntropy, Ranking


@dataclass(frozen=True)
class Sharpness:
    name: ClassVar[str] = "sharp"

    def count(self, context):
        return float(len(context.label_R))

    def value(self, rows, context):
        return rows.entropy_R.sum(), {}


def sharp(options: WindowOptions) -> Objective:
    return Objective(sampler=options.sampler(), terms=((1.0, CrossEntropy()), (0.5, Sharpness())))


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


def test_one_class_is_a_term(make_batch: Maker) -> None:
    objective = build_objective("own_objective:sharp", window=4)
    context = objective.draw(make_batch(), seed=0, step=0)
    entropy_R = torch.linspace(0, 1, len(context.label_R), requires_grad=True)
    found = objective.term_sums(Rows(ce_R=torch.ones_like(entropy_R), entropy_R=entropy_R), context)
    loss = objective.total(found.sums, context.counts)
    loss.backward()
    expected = 1 + 0.5 * float(entropy_R.detach().mean())
    assert float(loss.detach()) == pytest.approx(expected)
    assert entropy_R.grad is not None
    assert entropy_R.grad.tolist() == pytest.approx([0.5 / len(entropy_R)] * len(entropy_R))


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
