"""Frontier, hard tail, speed, boundary: each is there only where it says something."""

import re
from collections.abc import Callable
from dataclasses import replace

from tabom.evaluation.comparison import Cost, EvaluatedSet, MetricKey, Row
from tabom.evaluation.stats import Estimate
from tabom.report import figures
from tabom.report.build import render
from tabom.report.data import Curve, Report


def _row(arm: str, key: MetricKey, value: float) -> Row:
    return Row(arm=arm, key=key, value=Estimate(value=value), by_seed=())


def test_a_dot_an_arm_on_the_frontier(report: Report) -> None:
    arms = report.comparison.arms
    rows = [r for r in report.comparison.rows if r.key.kind != "net_loss"]
    rows += [_row(arm, MetricKey("net_loss"), 0.01 * i) for i, arm in enumerate(arms)]
    drawing = figures.frontier(replace(report, comparison=replace(report.comparison, rows=rows)))
    assert set(re.findall(r"<title>([^<]+)</title>", drawing)) == set(arms)
    assert "forgotten, points" in drawing
    without = [r for r in rows if r.key.kind != "net_loss"]
    assert (
        figures.frontier(replace(report, comparison=replace(report.comparison, rows=without))) == ""
    )


def test_paces_of_the_first_in_domain_set(report: Report) -> None:
    costs = [
        Cost(arm=arm, set="chain", pace=str(pace), accuracy=0.9 / pace, tokens_per_forward=pace,
             num_forwards=16 / pace)
        for arm in report.comparison.arms for pace in (1, 2, 4)
    ]  # fmt: skip
    sets = [EvaluatedSet(name="chain", role="in_domain", num_documents=9)]
    comparison = replace(report.comparison, costs=costs, sets=sets)
    assert "slots a model call, chain" in figures.pace(replace(report, comparison=comparison))
    slow = replace(comparison, costs=[c for c in costs if c.pace == "1"])
    assert figures.pace(replace(report, comparison=slow)) == ""


def test_curves_of_difficulty_and_samples(report: Report) -> None:
    curves = [Curve(arm=a, x=[6, 7, 9], y=[90, 50, 10]) for a in report.comparison.arms]
    shown = replace(report, curves=replace(report.curves, difficulty=curves))
    assert "difficulty" in figures.difficulty(shown)
    assert figures.difficulty(report) == ""
    rows = [
        *report.comparison.rows,
        *(
            _row(arm, MetricKey(f"pass@{k}", set="chain"), 1 - 0.5**k)
            for arm in report.comparison.arms
            for k in (1, 2, 4)
        ),
    ]
    sampled = replace(shown, comparison=replace(report.comparison, rows=rows))
    assert "samples k, chain" in figures.pass_at_k(sampled)
    assert figures.pass_at_k(report) == ""
    page = render(sampled)
    for title in ("The hard tail.", "The knowledge boundary."):
        assert title in page
    assert "The hard tail." not in render(report)


def test_every_figure_is_a_drawing_or_nothing(make_report: Callable[..., Report]) -> None:
    for draw in figures.DRAWINGS.values():
        text = draw(make_report())
        assert text == "" or "<svg" in text
