import pytest

from tabom.report.figures import tone
from tabom.report.words import (
    best_arms,
    cautions,
    count,
    duration,
    fixed,
    headline,
    listed,
    not_separable,
)


def study(**arms):
    """name -> (mean, delta, low, high), or a mean alone for the base."""
    rows = []
    for name, value in arms.items():
        if isinstance(value, tuple):
            mean, delta, low, high = value
            cell = {"mean": mean, "delta": delta, "delta_low": low, "delta_high": high}
        else:
            cell = {"mean": value, "delta": None}
        rows.append({"name": name, "means": {"in_domain": cell}})
    metric = {"key": "in_domain", "label": "In-domain", "unit": "%", "better": "higher"}
    return {"base_arm": "base", "level": 0.95, "arms": rows, "metrics": [metric]}


def add_ood(summary, name, delta, low, high):
    summary["metrics"] = [
        *[m for m in summary["metrics"] if m["key"] == "in_domain"],
        {"key": "out_of_domain", "label": "Out-of-domain", "unit": "%", "better": "higher"},
    ]
    for arm in summary["arms"]:
        if arm["name"] == name:
            arm["means"]["out_of_domain"] = {
                "mean": 90.0,
                "delta": delta,
                "delta_low": low,
                "delta_high": high,
            }
    return summary


def test_a_leader_that_stands_clear_is_called_one():
    summary = add_ood(study(base=44.0, a=(50, 6, 5, 7), b=(60, 16, 15, 17)), "b", -4.9, -5.9, -3.9)
    assert headline(summary) == (
        "b leads in-domain with 60.0% (+16.0 over base, 95% interval +15.0 to +17.0), separably "
        "ahead of every other arm. Out of domain it loses 4.9 points (−5.9 to −3.9)."
    )
    assert best_arms(summary)["in_domain"] == "b"


def test_overlap_is_said_and_nobody_is_marked():
    summary = study(base=44.0, a=(57, 13, 11.5, 14.5), b=(58, 14, 12.5, 15.5), c=(46, 2, 1, 3))
    text = headline(summary)
    assert "b has the best in-domain result" in text
    assert "not separable from a: the intervals of their changes overlap." in text
    assert best_arms(summary) == {}
    assert not_separable(summary, "in_domain", arm=summary["arms"][2]) == ["a"]


def test_no_reliable_gain_over_the_base():
    text = headline(study(base=44.0, a=(45, 1, -0.5, 2.5)))
    assert "not separable from base: this run shows no reliable gain" in text
    assert "leads" not in text


def test_a_base_that_stays_best_is_admitted():
    text = headline(study(base=44.0, a=(40, -4, -5, -3), b=(43.5, -0.5, -2, 1)))
    assert text == (
        "No arm improves on base, which reaches 44.0% in-domain. b cannot be separated from it."
    )


def test_touching_intervals_are_not_separable_and_order_of_ends_counts():
    summary = study(base=1.0, a=(5, 4, 3, 5), b=(8, 7, 5, 9))
    assert not_separable(summary, "in_domain", arm=summary["arms"][2]) == ["a"]
    summary = study(base=1.0, a=(5, 4, 3, 4.99), b=(8, 7, 5, 9))
    assert not_separable(summary, "in_domain", arm=summary["arms"][2]) == []


def test_an_arm_without_interval_cannot_be_told_apart():
    summary = study(base=1.0, a=(5, 4, None, None), b=(8, 7, 6, 9))
    assert not_separable(summary, "in_domain", arm=summary["arms"][2]) == ["a"]
    assert best_arms(summary) == {}


def test_lower_is_better_turns_the_order_round():
    summary = study(base=48.0, a=(30, -18, -19, -17), b=(25, -23, -24, -22))
    summary["metrics"][0].update(better="lower", label="Premature commits")
    assert best_arms(summary) == {"in_domain": "b"}
    assert headline(summary).startswith("b leads premature commits with 25.0%")


def test_one_arm_and_no_arm():
    one = study(base=44.3)
    one["arms"][0]["means"]["in_domain"].update(low=42.0, high=46.5)
    assert headline(one) == (
        "base reaches 44.3% in-domain (95% interval 42.0 to 46.5). "
        "There is no other arm to compare with."
    )
    assert headline({"arms": [], "metrics": []}) == "This run has no evaluated arm."


def test_without_a_base_the_means_are_compared():
    summary = study(a=50.0, b=60.0)
    del summary["base_arm"]
    for arm, (low, high) in zip(summary["arms"], [(49, 51), (59, 61)], strict=True):
        arm["means"]["in_domain"].update(low=low, high=high)
    assert best_arms(summary) == {"in_domain": "b"}
    assert headline(summary) == "b leads in-domain with 60.0%, separably ahead of every other arm."


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((-0.3, -1.0, 0.4), "Out of domain no change can be told from zero (−1.0 to +0.4)."),
        ((2.0, 1.0, 3.0), "Out of domain it gains 2.0 points (+1.0 to +3.0)."),
        ((-2.0, None, None), "Out of domain it changes by −2.0 points."),
    ],
)
def test_the_cost_out_of_domain(change, text):
    summary = add_ood(study(base=44.0, b=(60, 16, 15, 17)), "b", *change)
    assert headline(summary).endswith(text)


def test_the_level_is_named_only_where_it_is_known():
    summary = study(base=44.0, b=(60, 16, 15, 17))
    del summary["level"]
    assert "over base, interval +15.0" in headline(summary)
    assert "95%" not in headline(summary)


def test_numbers_as_text():
    assert fixed(-0.04, 1) == "0.0"
    assert fixed(-0.06, 1) == "−0.1"
    assert fixed(0.06, 1, sign=True) == "+0.1"
    assert fixed(None, 1) == "–"
    assert [duration(s) for s in (None, 0.0, 6.83, 9.96, 42.4, 312.4, 12000)] == [
        "",
        "0 s",
        "6.8 s",
        "10 s",
        "42 s",
        "5 min 12 s",
        "3 h 20 min",
    ]
    assert (count(1, "arm"), count(1200, "prompt")) == ("1 arm", "1,200 prompts")
    assert [listed(n) for n in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_tone_needs_an_interval_without_zero_and_a_better_side():
    gain = {"delta_low": 0.1, "delta_high": 0.4}
    assert tone(gain, {"better": "higher"}) == "gain"
    assert tone(gain, {"better": "lower"}) == "loss"
    assert tone(gain, {"better": "none"}) == ""
    assert tone({"delta_low": -0.1, "delta_high": 0.4}, {"better": "higher"}) == ""
    assert tone({"delta_low": None, "delta_high": None}, {"better": "higher"}) == ""


def test_cautions_come_from_the_numbers():
    summary = {"arms": [{}, {}], "seeds": [0], "sets": [{"name": "x", "num_documents": 64}]}
    assert [text.split(":")[0] for text in cautions(summary)] == [
        "One seed",
        "Sets of fewer than 100 prompts",
    ]
    assert cautions({"arms": [{}], "seeds": [0]}) == []
