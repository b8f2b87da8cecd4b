import dataclasses
import math

import pytest

from tabom.evaluation.comparison import Comparison, EvaluatedSet, MetricKey, Pair, Row
from tabom.evaluation.stats import Estimate
from tabom.report.data import Report
from tabom.report.words import (
    Format,
    best_arm,
    cautions,
    count,
    fixed,
    headline,
    listed,
    metric_of,
    tone,
)

IN, OUT = MetricKey("in_domain"), MetricKey("out_of_domain")
NONE = (math.nan, math.nan)


def study(means, pairs, *, base="base", key=IN, **changes):
    """means: arm -> percent. pairs: (first, second) -> (low, high) in points, around the means.

    What is not in `pairs` is told apart by one point to each side.
    """
    rows, found = [], []
    for arm, mean in means.items():
        rows.append(Row(arm=arm, key=key, value=Estimate(value=mean / 100), by_seed=(mean / 100,)))
    arms = list(means)
    for i, a in enumerate(arms):
        for b in arms[i + 1 :]:
            first, second = (b, a) if a == base else (a, b)
            change = means[first] - means[second]
            low, high = pairs.get((first, second), (change - 1, change + 1))
            estimate = Estimate(value=change / 100, low=low / 100, high=high / 100)
            sign = 1 if low > 0 else -1 if high < 0 else 0
            found.append(
                Pair(first=first, second=second, key=key, difference=estimate, p=None, sign=sign)
            )
            if second == base:
                at = next(n for n, row in enumerate(rows) if row.arm == first)
                rows[at] = dataclasses.replace(rows[at], change=estimate)
    comparison = Comparison(
        base=base, level=0.95, rows=rows, pairs=found,
        **({"seeds": dict.fromkeys(arms, (0, 1))} | changes),
    )  # fmt: skip
    return Report(name="x", comparison=comparison, columns=[key])


def with_costs(report, arm, change, low, high):
    """The report with a change of one arm out of domain."""
    estimate = Estimate(value=change / 100, low=low / 100, high=high / 100)
    sign = 1 if low > 0 else -1 if high < 0 else 0
    found = report.comparison
    rows = [Row(arm=name, key=OUT, value=Estimate(value=0.9), by_seed=(),
                change=estimate if name == arm else None) for name in found.arms]  # fmt: skip
    pair = Pair(first=arm, second="base", key=OUT, difference=estimate, p=None, sign=sign)
    found = dataclasses.replace(found, rows=found.rows + rows, pairs=[*found.pairs, pair])
    return dataclasses.replace(report, comparison=found)


def test_a_leader_that_is_told_from_all_is_called_one():
    report = with_costs(study({"base": 44, "a": 50, "b": 60}, {}), "b", -4.9, -5.9, -3.9)
    assert headline(report) == (
        "b leads in-domain with 60.0% (+16.0 [+15.0, +17.0] over base), separably ahead of every "
        "other arm. Out of domain it got worse: −4.9 [−5.9, −3.9]."
    )
    assert best_arm(report.comparison, IN) == "b"


def test_overlapping_changes_do_not_hide_a_paired_difference():
    """The intervals of both changes overlap, the paired difference leaves zero out: separable."""
    pairs = {("a", "base"): (20, 40), ("b", "base"): (31, 43), ("a", "b"): (-18, -5)}
    report = study({"base": 44, "a": 70, "b": 81}, pairs)
    assert headline(report).startswith("b leads in-domain")
    assert best_arm(report.comparison, IN) == "b"


def test_what_cannot_be_told_is_said_with_the_difference_and_nobody_is_marked():
    report = study({"base": 44, "a": 57, "b": 58, "c": 46}, {("a", "b"): (-3, 1)})
    text = headline(report)
    assert "b has the best in-domain result" in text
    assert "not separable from a (+1.0 [−1.0, +3.0] to a)" in text
    assert "c" not in text.split("not separable")[1].replace("interval", "")
    assert best_arm(report.comparison, IN) is None


def test_no_reliable_gain_over_the_base():
    report = study({"base": 44, "a": 45}, {("a", "base"): (-0.5, 2.5)})
    assert "not separable from base: this run shows no reliable gain" in headline(report)
    assert "leads" not in headline(report)


def test_a_base_that_stays_best_is_admitted():
    report = study({"base": 44, "a": 40, "b": 43.5}, {("b", "base"): (-2, 1)})
    assert headline(report) == (
        "No arm improves on base, which reaches 44.0% in-domain. b cannot be told apart from it."
    )


def test_an_arm_without_interval_cannot_be_told_apart():
    report = study({"base": 1, "a": 5, "b": 8}, {("a", "b"): NONE})
    assert "not separable from a" in headline(report)
    assert best_arm(report.comparison, IN) is None


def test_lower_is_better_turns_the_order_round():
    key = MetricKey("premature_commit")
    report = study({"base": 48, "a": 30, "b": 25}, {}, key=key)
    assert best_arm(report.comparison, key) == "b"
    assert headline(report).startswith("b leads premature commit with 25.0%")


def test_one_arm_and_no_arm():
    report = study({"base": 44.3}, {}, base=None)
    rows = [dataclasses.replace(row, value=Estimate(value=0.443, low=0.42, high=0.465))
            for row in report.comparison.rows]  # fmt: skip
    report = dataclasses.replace(
        report, comparison=dataclasses.replace(report.comparison, rows=rows)
    )
    assert headline(report) == (
        "base reaches 44.3% [42.0, 46.5] in-domain. There is no other arm to compare with."
    )
    assert headline(Report(name="x")) == "This run has no evaluated arm."


def test_without_a_base_arms_are_paired_all_the_same():
    report = study({"a": 50, "b": 60}, {}, base=None)
    assert best_arm(report.comparison, IN) == "b"
    assert headline(report) == "b leads in-domain with 60.0%, separably ahead of every other arm."


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((-0.3, -1.0, 0.4), "has no change that can be told from zero: −0.3 [−1.0, +0.4]."),
        ((2.0, 1.0, 3.0), "Out of domain it got better: +2.0 [+1.0, +3.0]."),
        ((-2.0, *NONE), "it has no change that can be told from zero: −2.0."),
    ],
)
def test_the_cost_out_of_domain(change, text):
    assert headline(with_costs(study({"base": 44, "b": 60}, {}), "b", *change)).endswith(text)


def test_numbers_as_text():
    assert fixed(-0.04, 1) == "0.0"
    assert fixed(-0.06, 1) == "−0.1"
    assert fixed(0.06, 1, sign=True) == "+0.1"
    assert fixed(None, 1) == "–"
    assert (count(1, "arm"), count(1200, "prompt")) == ("1 arm", "1,200 prompts")
    assert [listed(n) for n in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_tone_needs_a_told_difference_and_a_better_side():
    higher = study({"base": 44, "a": 50}, {}).comparison
    assert tone(higher, "a", IN) == "gain"
    assert tone(higher, "base", IN) == ""
    key = MetricKey("premature_commit")
    assert tone(study({"base": 44, "a": 50}, {}, key=key).comparison, "a", key) == "loss"
    key = MetricKey("tds")  # neither side is better
    assert tone(study({"base": 44, "a": 50}, {}, key=key).comparison, "a", key) == ""
    unsure = study({"base": 44, "a": 50}, {("a", "base"): (-1, 13)}).comparison
    assert tone(unsure, "a", IN) == ""


def test_keys_in_words():
    assert metric_of(MetricKey("in_domain", pace="2")).label == "In-domain, 2 a step"
    assert metric_of(MetricKey("set", set="chain", pace="threshold 0.9")).label == (
        "chain, threshold 0.9"
    )
    assert metric_of(MetricKey("some_metric")).label == "Some metric"


def test_formats():
    share, plain = Format(is_share=True), Format(is_share=False)
    estimate = Estimate(value=0.371, low=0.313, high=0.43)
    assert share.bracket(estimate, sign=True) == "+37.1 [+31.3, +43.0]"
    assert plain.bracket(estimate) == "0.371 [0.313, 0.430]"
    assert share.bracket(Estimate(value=0.5)) == "50.0"
    assert share.ends(Estimate(value=0.5)) == ""
    assert share.number(math.nan) == "–"


def test_cautions_come_from_the_numbers():
    sets = [EvaluatedSet(name="x", role="in_domain", num_documents=64)]
    report = study({"base": 1, "a": 2}, {}, sets=sets, seeds={"base": (None,), "a": (0,)})
    assert [text.split(":")[0] for text in cautions(report)] == [
        "One seed",
        "Sets of fewer than 100 prompts",
    ]
    assert cautions(study({"base": 1, "a": 2}, {})) == []
