"""The comparison of arms: numbers worked by hand, pairing, words, and errors."""

import math
from dataclasses import replace

import pytest

from tabom.core.errors import ConfigError, DataError
from tabom.evaluation.answers import answers_of
from tabom.evaluation.compare import compare
from tabom.evaluation.comparison import Comparison, MetricKey
from tabom.evaluation.records import EvaluationRecord, to_table
from tabom.evaluation.scores import EvaluatedRun
from tabom.evaluation.stats import tango_interval, wilson_interval

ROLES = {"chain": "in_domain", "sort": "out_of_domain", "sudoku": "out_of_domain"}


def records(metric=None, *, prefix="d", **sets: str) -> list[EvaluationRecord]:
    """`chain="110"`: three documents, two right; `chain_2` is the set at two tokens a step."""
    found = []
    for key, marks in sets.items():
        name, _, pace = key.partition("_")
        for i, mark in enumerate(marks):
            found.append(
                EvaluationRecord(
                    set=name,
                    role=ROLES[name],
                    id=f"{prefix}{i}",
                    tokens_per_step=int(pace or 1),
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
IN, OUT, LOST = MetricKey("in_domain"), MetricKey("out_of_domain"), MetricKey("forgetting")
FAST = MetricKey("in_domain", pace="2")


def compared(runs, *, base=None, scalars=None, **options) -> Comparison:
    """runs: (arm, seed) -> records."""
    return compare(
        [
            EvaluatedRun(
                arm=arm,
                seed=seed,
                answers=answers_of(to_table(r)),
                scalars=(scalars or {}).get((arm, seed), {}),
            )
            for (arm, seed), r in runs.items()
        ],
        base=base,
        **options,
    )


def test_means_and_changes_by_hand():
    found = compared(RUNS, base="No-SFT")
    assert found.seeds == {"No-SFT": (None,), "TABOM": (0, 1)}
    arm = {row.key: row for row in found.rows if row.arm == "TABOM"}
    base = {row.key: row for row in found.rows if row.arm == "No-SFT"}
    assert arm[IN].value.value == pytest.approx(5 / 8)
    assert arm[FAST].value.value == pytest.approx(1 / 8)
    assert arm[OUT].value.value == pytest.approx((5 / 8 + 7 / 8) / 2)
    assert arm[MetricKey("set", set="chain")].value.value == pytest.approx(5 / 8)
    assert arm[MetricKey("set", set="chain", pace="2")].value.value == pytest.approx(1 / 8)
    assert arm[MetricKey("set", set="sort")].value.value == pytest.approx(5 / 8)
    assert base[IN].value.value == 0.25
    assert arm[IN].change.value == pytest.approx(5 / 8 - 1 / 4)
    assert arm[OUT].change.value == pytest.approx(3 / 4 - (1 + 3 / 4) / 2)
    # sort lost 3/8; sudoku gained 1/8, which is no negative forgetting but less net loss.
    assert arm[LOST].value.value == pytest.approx(3 / 8 / 2)
    assert arm[MetricKey("net_loss")].value.value == pytest.approx((3 / 8 - 1 / 8) / 2)
    assert base[LOST].value.value == 0.0
    assert base[IN].change is None
    assert arm[OUT].num_documents == 8
    assert arm[IN].num_documents == 4
    assert arm[IN].by_seed == (3 / 4, 2 / 4)
    assert arm[OUT].by_seed == ((2 / 4 + 1) / 2, 3 / 4)
    assert MetricKey("out_of_domain", pace="2") not in arm
    assert [(s.name, s.role, s.num_documents) for s in found.sets][:2] == [
        ("chain", "in_domain", 4),
        ("sort", "out_of_domain", 4),
    ]


def test_a_notebook_shows_arms_numbers_and_changes() -> None:
    found = compared({**RUNS, ("<b>", 0): ARM_0, ("<b>", 1): ARM_1}, base="No-SFT")
    assert repr(found).startswith("Comparison(No-SFT, TABOM, <b>; base 'No-SFT'; sets chain")
    page = found._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 4
    assert "62.5" in page  # three and two of four chains
    assert "+37.5 [" in page


def test_intervals_hold_the_estimate_and_changes_are_paired():
    for row in compared(RUNS, base="No-SFT").rows:
        if row.value.has_interval:
            assert row.value.low <= row.value.value <= row.value.high
        if row.change is not None:
            assert row.change.low <= row.change.value <= row.change.high
    # An arm that answers every document as the base does: as sure as four documents make it.
    same = compared({("No-SFT", None): BASE, ("copy", 0): BASE}, base="No-SFT").row("copy", IN)
    assert same.change == tango_interval(0, 0, 4)
    assert same.value == wilson_interval(1, 4)


def test_every_two_arms_are_paired_and_the_difference_can_be_turned_round():
    right, wrong = "1" * 40, "0" * 20 + "1" * 20
    runs = {("base", None): records(chain=wrong), ("a", 0): records(chain=right),
            ("b", 0): records(chain=right[:-1] + "0")}  # fmt: skip
    found = compared(runs, base="base")
    assert {(pair.first, pair.second) for pair in found.pairs if pair.key == IN} == {
        ("a", "base"), ("b", "base"), ("a", "b"),
    }  # fmt: skip
    assert found.pair("a", "base", IN).sign == 1
    assert found.pair("base", "a", IN).sign == -1
    assert found.pair("a", "b", IN).sign == 0
    assert found.pair("b", "a", IN).difference == -found.pair("a", "b", IN).difference
    assert found.pair("a", "base", IN).difference == found.row("a", IN).change
    assert found.pair("a", "nobody", IN) is None


def test_pairing_tells_apart_what_intervals_of_changes_do_not():
    """Both gain on the same hard documents, one on a few more: overlapping, and yet separable."""
    base = "0" * 60 + "1" * 40
    a = dict.fromkeys((0, 1, 2), "1" * 50 + "0" * 10 + "1" * 40)
    b = dict.fromkeys((0, 1, 2), "1" * 38 + "0" * 22 + "1" * 40)
    runs = {("base", None): records(chain=base)}
    runs |= {("a", s): records(chain=marks) for s, marks in a.items()}
    runs |= {("b", s): records(chain=marks) for s, marks in b.items()}
    found = compared(runs, base="base")
    assert found.row("a", IN).change.low < found.row("b", IN).change.high
    assert found.pair("a", "b", IN).sign == 1


def test_the_exact_test_has_a_say_where_there_is_one():
    """6 gained, none lost: the score interval leaves zero out, McNemar's p is 0.03; of 5, 0.06."""
    for gained, sign in ((6, 1), (5, 0)):
        runs = {("base", None): records(chain="0" * 40),
                ("arm", 0): records(chain="1" * gained + "0" * (40 - gained))}  # fmt: skip
        pair = compared(runs, base="base").pair("arm", "base", IN)
        assert pair.difference.low > 0
        assert pair.p == pytest.approx(2 / 2**gained)
        assert pair.sign == sign


def test_a_macro_average_counts_each_set_alike():
    found = compared({("a", 0): records(sort="1" * 9, sudoku="0")})
    assert found.row("a", OUT).value.value == 0.5
    assert found.row("a", LOST) is None


def test_order_of_documents_and_of_arms_does_not_matter():
    shuffled = {
        ("TABOM", 1): ARM_1[::-1],
        ("TABOM", 0): ARM_0[::-1],
        ("No-SFT", None): BASE[::-1],
    }
    found, expected = compared(shuffled, base="No-SFT"), compared(RUNS, base="No-SFT")
    assert found.arms == ["TABOM", "No-SFT"]
    for row in found.rows:
        other = expected.row(row.arm, row.key)
        assert row.value.value == pytest.approx(other.value.value)
        assert (row.change is None) == (other.change is None)


def test_a_base_with_the_same_seeds_is_paired_by_seed():
    one, two = records(chain="1100", prefix="x"), records(chain="0000", prefix="y")
    runs = {("base", 0): one, ("base", 1): two, ("arm", 1): two, ("arm", 0): one}
    change = compared(runs, base="base").row("arm", IN).change
    assert (change.value, change.high) == (0.0, tango_interval(0, 0, 4).high)


def test_metrics_skip_documents_to_which_they_do_not_apply():
    runs = {
        ("base", None): records([1.0, 0.0, None, 1.0], chain="1000", sort="1111"),
        ("arm", 0): records([0.0, 0.0, None, 1.0], chain="1000", sort="1111"),
    }
    found, key = compared(runs, base="base"), MetricKey("premature")
    assert found.row("base", key).value == wilson_interval(2, 3)
    assert found.row("arm", key).value.value == pytest.approx(1 / 3)
    assert found.row("arm", key).change == tango_interval(0, 1, 3)
    assert found.row("arm", key).is_share
    assert found.row("arm", key).num_documents == 4  # in domain only


def test_a_metric_that_is_no_share_is_not_shown_in_percent():
    row = compared({("a", 0): records([3.0, 4.0], chain="10")}).row("a", MetricKey("premature"))
    assert (row.value.value, row.is_share, row.value.has_interval) == (3.5, False, False)


def test_scalars_have_t_intervals_and_paired_changes():
    scalars = {
        ("No-SFT", None): {"tds": 0.6, "lost": math.nan},
        ("TABOM", 0): {"tds": 0.5},
        ("TABOM", 1): {"tds": 0.7},
    }
    found = compared(RUNS, base="No-SFT", scalars=scalars)
    row, half = found.row("TABOM", MetricKey("tds")), 12.7062 * 0.1
    assert row.value.value == pytest.approx(0.6)
    assert row.change.value == pytest.approx(0.0)
    assert row.value.high - row.value.value == pytest.approx(half, rel=1e-4)
    assert row.change.high == pytest.approx(half, rel=1e-4)
    assert not row.is_share
    assert found.row("No-SFT", MetricKey("tds")).value.value == 0.6
    assert not found.row("No-SFT", MetricKey("tds")).value.has_interval
    # A number that is missing or no number is absent, and no error.
    assert found.row("No-SFT", MetricKey("lost")) is None
    assert found.row("TABOM", MetricKey("lost")) is None


@pytest.mark.parametrize(
    ("runs", "facts"),
    [
        ({("arm", 0): BASE}, ["No-SFT", "arm"]),
        ({("No-SFT", None): BASE, ("arm", 0): records(chain="1000")}, ["seed 0", "'sort'"]),
        (
            {("No-SFT", None): records(chain="10"), ("arm", 0): records(chain="1", chain_2="0")},
            ["'arm'", "'chain'", "other documents"],
        ),
        (
            {
                ("No-SFT", None): records(chain="10"),
                ("arm", 0): records(chain="10", prefix="other"),
            },
            ["'chain'", "other documents"],
        ),
        (
            {("No-SFT", 0): BASE, ("No-SFT", 1): BASE, ("arm", 2): BASE, ("arm", 3): BASE},
            ["'arm'", "2, 3", "0, 1"],
        ),
        (
            {("No-SFT", 0): records(chain="10"), ("No-SFT", 1): records(chain="101")},
            ["3 documents under seed 1", "2 under seed 0"],
        ),
        ({("No-SFT", None): [*BASE, BASE[0]]}, ["'d0'", "'chain'", "twice"]),
    ],
)
def test_errors(runs, facts):
    with pytest.raises((DataError, ConfigError)) as error:
        compared(runs, base="No-SFT")
    for fact in facts:
        assert fact in str(error.value)


def test_a_scalar_may_not_hide_another_number():
    with pytest.raises(DataError, match="'in_domain'"):
        compared({("a", 0): BASE}, scalars={("a", 0): {"in_domain": 1.0}})


def sampled(rights, num_samples):
    """rights: how many samples of each document are right, the last ones drawn."""
    template = records(chain="0")[0]
    return [
        replace(template, id=f"d{d}", sample=i, correct=int(i >= num_samples - right))
        for d, right in enumerate(rights)
        for i in range(num_samples)
    ]


def test_samples_of_a_document_are_one_document_with_their_mean():
    template = records([1.0], chain="1")[0]
    runs = {("a", 0): [
        replace(template, id="x", correct=1, metrics={"premature": 1.0}),
        replace(template, id="x", sample=1, correct=0, metrics={"premature": None}),
        replace(template, id="x", sample=2, correct=0, metrics={"premature": 4.0}),
        replace(template, id="y", correct=1, metrics={"premature": None}),
    ]}  # fmt: skip
    found = compared(runs)
    assert found.row("a", IN).value.value == pytest.approx((1 / 3 + 1) / 2)
    assert found.row("a", MetricKey("premature")).value.value == pytest.approx(2.5)
    assert found.row("a", IN).num_documents == 2


def test_pass_at_k_and_boundary_by_hand():
    # Four samples a document: the arm has 4, 1, 0, 2 right, the base 2, 0, 1, 0.
    runs = {("base", None): sampled([2, 0, 1, 0], 4), ("arm", 0): sampled([4, 1, 0, 2], 4)}
    found = compared(runs, base="base")
    curve = {k: found.row("arm", MetricKey(f"pass@{k}", set="chain")) for k in (1, 2, 4)}
    assert {key.kind for key in found.keys if "@" in key.kind} == {"pass@1", "pass@2", "pass@4"}
    assert curve[1].value.value == pytest.approx((1 + 0.25 + 0 + 0.5) / 4)
    assert curve[2].value.value == pytest.approx((1 + 3 / 6 + 0 + 5 / 6) / 4)
    assert curve[4].value.value == pytest.approx(3 / 4)
    assert curve[4].change.value == pytest.approx(3 / 4 - 2 / 4)
    (border,) = found.boundaries
    assert (border.k, border.gained, border.lost) == (4, ("d1", "d3"), ("d2",))
    assert (border.both, border.neither) == (1, 0)


def test_seeds_are_not_samples():
    """Three seeds of an arm, a decode each, are three models: no pass@3, no boundary."""
    runs = {("base", None): records(chain="1000")}
    runs |= {("arm", s): records(chain=m) for s, m in enumerate(("0100", "0010", "0001"))}
    found = compared(runs, base="base")
    assert not [key for key in found.keys if "@" in key.kind]
    assert found.boundaries == []
    # Two samples of each seed's model: pass@2 is the mean of the models', the boundary each one's.
    runs = {("base", None): sampled([1, 0], 2)}
    runs |= {("arm", s): sampled(r, 2) for s, r in enumerate(([0, 1], [2, 0]))}
    found = compared(runs, base="base")
    assert found.row("arm", MetricKey("pass@2", set="chain")).value.value == 0.5
    assert [(b.seed, b.gained, b.lost) for b in found.boundaries] == [
        (0, ("d1",), ("d0",)),
        (1, (), ()),
    ]


def test_the_boundary_takes_as_many_samples_of_both():
    """The arm has four samples, the base two: what only its last two solve is not counted."""
    runs = {("base", None): sampled([0, 2], 2), ("arm", 0): sampled([1, 4], 4)}
    found = compared(runs, base="base")
    (border,) = found.boundaries
    assert (border.k, border.gained, border.both) == (2, (), 1)
    row = found.row("arm", MetricKey("pass@4", set="chain"))
    assert row.value.value == 1.0
    assert not math.isfinite(row.change.value)  # the base has not as many
    assert math.isfinite(found.row("arm", MetricKey("pass@2", set="chain")).change.value)
    with pytest.raises(ConfigError, match="pass@3"):
        compared(runs, base="base", ks=[3])
