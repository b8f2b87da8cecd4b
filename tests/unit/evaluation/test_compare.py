"""The comparison of arms: numbers worked by hand, pairing, errors, and the tables."""

import csv
import io
import math

import pytest

from tabom.core.errors import DataError
from tabom.evaluation.compare import compare_arms
from tabom.evaluation.records import EvaluationRecord
from tabom.evaluation.stats import t_quantile
from tabom.evaluation.table import label, to_csv, to_markdown

ROLES = {"chain": "in_domain", "sort": "out_of_domain", "sudoku": "out_of_domain"}


def records(metric=None, *, prefix="d", **sets: str) -> list[EvaluationRecord]:
    """`chain="110"`: three documents, two right; `chain_2` is the set at two tokens a step."""
    found = []
    for key, marks in sets.items():
        name, _, speed = key.partition("_")
        for i, mark in enumerate(marks):
            found.append(
                EvaluationRecord(
                    set=name,
                    role=ROLES[name],
                    id=f"{prefix}{i}",
                    tokens_per_step=int(speed or 1),
                    correct=int(mark),
                    reason="accepted" if mark == "1" else "wrong",
                    num_forwards=4,
                    length=4,
                    tokens_per_forward=1.0,
                    end_step=-1,
                    metrics={} if metric is None else {"premature": metric[i]},
                )
            )
    return found


BASE = records(chain="1000", chain_2="0000", sort="1111", sudoku="1110")
ARM_0 = records(chain="1110", chain_2="1000", sort="1100", sudoku="1111")
ARM_1 = records(chain="1100", chain_2="0000", sort="1110", sudoku="1110")
RUNS = {("No-SFT", None): BASE, ("TABOM", 0): ARM_0, ("TABOM", 1): ARM_1}


def test_means_and_deltas_by_hand():
    base, arm = compare_arms(RUNS, base="No-SFT")
    assert (base.arm, base.num_seeds, arm.arm, arm.num_seeds) == ("No-SFT", 1, "TABOM", 2)
    means = {key: mean.mean for key, mean in arm.means.items()}
    assert means["in_domain"] == pytest.approx(5 / 8)
    assert means["in_domain@2"] == pytest.approx(1 / 8)
    assert means["out_of_domain"] == pytest.approx((5 / 8 + 7 / 8) / 2)
    assert means["set:chain"] == pytest.approx(5 / 8)
    assert means["set:chain@2"] == pytest.approx(1 / 8)
    assert means["set:sort"] == pytest.approx(5 / 8)
    assert base.means["in_domain"].mean == 0.25
    assert arm.means["in_domain"].delta == pytest.approx(5 / 8 - 1 / 4)
    assert arm.means["out_of_domain"].delta == pytest.approx(3 / 4 - (1 + 3 / 4) / 2)
    # sort lost 3/8; sudoku gained, which is no negative forgetting.
    assert means["forgetting"] == pytest.approx(3 / 8 / 2)
    assert base.means["forgetting"].mean == 0.0
    assert base.means["in_domain"].delta is None
    assert arm.means["out_of_domain"].num_documents == 8
    assert arm.means["in_domain"].num_documents == 4
    assert arm.means["in_domain"].num_seeds == 2
    assert "out_of_domain@2" not in means


def test_intervals_hold_the_estimate_and_deltas_are_paired():
    (_, arm) = compare_arms(RUNS, base="No-SFT")
    for key, mean in arm.means.items():
        if key != "forgetting":
            assert mean.low <= mean.mean <= mean.high
            assert mean.delta_low <= mean.delta <= mean.delta_high
    # An arm that answers every document as the base does: no doubt about the difference.
    _, same = compare_arms({("No-SFT", None): BASE, ("copy", 0): BASE}, base="No-SFT")
    mean = same.means["in_domain"]
    assert (mean.delta, mean.delta_low, mean.delta_high) == (0.0, 0.0, 0.0)
    assert mean.low < mean.high


def test_macro_average_counts_each_set_alike():
    runs = {("a", 0): records(sort="1" * 9, sudoku="0")}
    (row,) = compare_arms(runs, base=None)
    assert row.means["out_of_domain"].mean == 0.5
    assert "forgetting" not in row.means


def test_order_of_documents_and_of_arms_does_not_matter():
    shuffled = {
        ("TABOM", 1): ARM_1[::-1],
        ("TABOM", 0): ARM_0[::-1],
        ("No-SFT", None): BASE[::-1],
    }
    arm, base = compare_arms(shuffled, base="No-SFT")
    assert (arm.arm, base.arm) == ("TABOM", "No-SFT")
    expected = compare_arms(RUNS, base="No-SFT")[1]
    for key, mean in arm.means.items():
        assert mean.delta == pytest.approx(expected.means[key].delta)


def test_a_base_with_the_same_seeds_is_paired_by_seed():
    runs = {
        ("base", 0): records(chain="1100", prefix="x"),
        ("base", 1): records(chain="0000", prefix="y"),
        ("arm", 0): records(chain="1100", prefix="x"),
        ("arm", 1): records(chain="0000", prefix="y"),
    }
    row = compare_arms(runs, base="base")[1]
    assert (row.means["in_domain"].delta_low, row.means["in_domain"].delta_high) == (0.0, 0.0)


def test_metrics_skip_documents_to_which_they_do_not_apply():
    runs = {
        ("base", None): records([1.0, 0.0, None, 1.0], chain="1000", sort="1111"),
        ("arm", 0): records([0.0, 0.0, None, 1.0], chain="1000", sort="1111"),
    }
    base, arm = compare_arms(runs, base="base")
    assert base.means["premature"].mean == pytest.approx(2 / 3)
    assert arm.means["premature"].mean == pytest.approx(1 / 3)
    assert arm.means["premature"].delta == pytest.approx(-1 / 3)
    assert arm.means["premature"].is_share
    assert arm.means["premature"].num_documents == 4  # in domain only


def test_a_metric_that_is_no_share_is_not_shown_in_percent():
    (row,) = compare_arms({("a", 0): records([3.0, 4.0], chain="10")}, base=None)
    assert not row.means["premature"].is_share
    assert "| 3.500 |" in to_markdown([row], keys=["premature"])


def test_scalars_have_t_intervals_and_paired_deltas():
    scalars = {
        ("No-SFT", None): {"tds": 0.6},
        ("TABOM", 0): {"tds": 0.5},
        ("TABOM", 1): {"tds": 0.7},
    }
    base, arm = compare_arms(RUNS, base="No-SFT", scalars=scalars)
    mean = arm.means["tds"]
    half = t_quantile(0.975, num_degrees=1) * 0.1
    assert mean.mean == pytest.approx(0.6)
    assert mean.delta == pytest.approx(0.0)
    assert mean.high - mean.mean == pytest.approx(half)
    assert mean.delta_high == pytest.approx(half)
    assert not mean.is_share
    assert base.means["tds"].mean == 0.6
    assert math.isnan(base.means["tds"].low)


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ({("arm", 0): BASE}, "the base arm 'No-SFT' is not among the arms"),
        (
            {("No-SFT", None): BASE, ("arm", 0): records(chain="1000")},
            "arm 'arm', seed 0: not evaluated on set 'chain' at 2 tokens a step",
        ),
        (
            {
                ("No-SFT", None): records(chain="10"),
                ("arm", 0): records(chain="10", prefix="other"),
            },
            "other documents than the base",
        ),
        (
            {("No-SFT", 0): BASE, ("No-SFT", 1): BASE, ("arm", 2): BASE},
            r"arm 'arm' has seed 2, the base 'No-SFT' has \[0, 1\]",
        ),
        (
            {("No-SFT", 0): records(chain="10"), ("No-SFT", 1): records(chain="101")},
            "has 3 documents under seed 1, 2 under seed 0",
        ),
        ({("No-SFT", None): [*BASE, BASE[0]]}, "'d0' of 'chain' occurs twice"),
    ],
)
def test_errors(runs, text):
    with pytest.raises(DataError, match=text):
        compare_arms(runs, base="No-SFT")


def test_a_scalar_may_not_hide_another_number():
    with pytest.raises(DataError, match="two numbers of the comparison are called 'in_domain'"):
        compare_arms({("a", 0): BASE}, base=None, scalars={("a", 0): {"in_domain": 1.0}})


def test_markdown():
    rows = compare_arms(RUNS, base="No-SFT", scalars={("TABOM", 0): {"tds": 0.5}})
    text = to_markdown(rows, keys=["in_domain", "forgetting", "tds"], labels={"tds": "TDS | mean"})
    lines = text.splitlines()
    assert lines[0] == "| arm | seeds | in domain | forgetting | TDS \\| mean |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| No-SFT | 1 | 25.0 | 0.0 | – |"
    mean = rows[1].means["in_domain"]
    low, high = (f"{100 * x:+.1f}" for x in (mean.delta_low, mean.delta_high))
    assert lines[3].startswith(f"| TABOM | 2 | 62.5 (+37.5 [{low}, {high}]) | 18.8 |")
    assert "set:" not in to_markdown(rows)
    assert "in domain, 2 tokens a step" in to_markdown(rows)
    assert label("set:chain@2") == "chain, 2 tokens a step"


def test_csv():
    rows = compare_arms(RUNS, base="No-SFT")
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(table) == sum(len(row.means) for row in rows)
    (line,) = [r for r in table if (r["arm"], r["key"]) == ("TABOM", "in_domain")]
    assert float(line["mean"]) == rows[1].means["in_domain"].mean
    assert float(line["delta_low"]) == rows[1].means["in_domain"].delta_low
    assert (line["num_seeds"], line["num_documents"]) == ("2", "4")
    (line,) = [r for r in table if (r["arm"], r["key"]) == ("No-SFT", "forgetting")]
    assert (line["low"], line["delta"]) == ("", "")
