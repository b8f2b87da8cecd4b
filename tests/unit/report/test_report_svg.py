import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.evaluation.comparison import Comparison
from tabom.report import figures
from tabom.report.data import Curves, Report, TrainingLog
from tabom.report.svg import Axis, Dot, Series, _ticks, dot_plot, line_chart

X, Y = Axis(label="x"), Axis(label="y")
NASTY = 'a<b>&"</svg><script>'


def parse(text):
    return ElementTree.fromstring(text)


def classes(tree, name):
    return [element for element in tree.iter() if element.get("class") == name]


def line(**changes):
    return Series(
        **({"label": "A", "colour": "arm-0", "x": [0, 1, 2], "y": [1.0, 2.0, 4.0]} | changes)
    )


def test_a_line_goes_through_its_points():
    tree = parse(line_chart([line(y=[0.0, 5.0, 10.0])], x=X, y=Y))
    (path,) = classes(tree, "line")
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[\d.]+,[\d.]+", path.get("d"))]
    assert len(points) == 3
    # x and y are linear here, so the middle point is the mean of the outer ones, and up is less.
    assert points[1] == pytest.approx(
        [(a + b) / 2 for a, b in zip(points[0], points[2], strict=True)]
    )
    assert points[2][1] < points[0][1]
    assert path.get("style") == "stroke:var(--arm-0)"


def test_a_gap_breaks_the_line():
    tree = parse(line_chart([line(x=[0, 1, 2, 3], y=[1.0, None, 2.0, 3.0])], x=X, y=Y))
    (path,), (dot,) = classes(tree, "line"), classes(tree, "dot")
    assert path.get("d").count("M") == 1  # from 2 to 3; what stands alone is a dot
    assert float(dot.get("cx")) < float(path.get("d")[1:].split(",")[0])


def test_bands_and_levels_are_drawn_only_where_given():
    plain = parse(line_chart([line()], x=X, y=Y))
    assert not classes(plain, "band")
    assert not classes(plain, "reference")
    banded = line(low=[0.5, 1.5, 3.5], high=[1.5, 2.5, 4.5])
    tree = parse(line_chart([banded], x=X, y=Y, level=1.0))
    assert len(classes(tree, "band")) == 1
    assert len(classes(tree, "reference")) == 1


def test_a_series_of_one_point_or_of_none_draws_an_axis():
    for ys in ([2.0], [None]):
        assert classes(parse(line_chart([line(x=[3], y=ys)], x=X, y=Y)), "tick")


def test_dot_plot_keeps_the_order_and_shows_seeds():
    dots = [Dot(label=n, colour="arm-0", x=x, seeds=[x, x + 1]) for n, x in (("b", 9), ("a", 3))]
    tree = parse(dot_plot(dots, x=X))
    assert [element.text for element in classes(tree, "label")] == ["b", "a"]
    assert len(classes(tree, "seed")) == 4
    first, second = [float(element.get("cx")) for element in classes(tree, "dot")]
    assert first > second


def test_every_arm_has_a_look_of_its_own():
    names = [f"arm {k}" for k in range(15)]
    styles = figures.arm_styles(
        Report(name="x", comparison=Comparison(seeds=dict.fromkeys(names, (0,))))
    )
    assert len(set(styles.values())) == 15
    # The last arm keeps the first colour, however many stand before it.
    assert styles["arm 14"] == ("arm-0", "")


def test_the_base_is_drawn_in_ink(report):
    assert figures.arm_styles(report)["No-SFT"] == ("arm-base", "5 4")


def test_training_is_averaged_over_seeds_and_split_by_term():
    logs = [
        TrainingLog(arm="T", seed=0, points=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]),
        TrainingLog(arm="T", seed=1, points=[{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]),
    ]
    text = figures.training(Report(name="x", curves=Curves(training=logs)))
    assert text.count("<svg") == 1
    tree = parse(text)
    heights = [
        float(p.split(",")[1])
        for p in re.findall(r"[\d.]+,[\d.]+", classes(tree, "line")[0].get("d"))
    ]
    assert heights[0] == heights[1]  # the mean is 2 at both steps
    assert len(classes(tree, "band")) == 1
    assert figures.training(Report(name="x")) == ""


def ticks(tree):
    return [e.text for e in classes(tree, "tick")]


def coordinates(tree):
    """Every x and y of a drawing."""
    names = {"x": 0, "x1": 0, "x2": 0, "cx": 0, "y": 1, "y1": 1, "y2": 1, "cy": 1}
    points = [(side, float(e.get(name))) for e in tree.iter() for name, side in names.items()
              if e.get(name) is not None]  # fmt: skip
    for element in tree.iter("path"):
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", element.get("d")):
            points += [(0, float(x)), (1, float(y))]
    return points


@pytest.mark.parametrize("y", [0.0, 1.0, -3.0, 100.0, 1e-9, 7e6])
@pytest.mark.parametrize("axis", [Y, Axis(label="y", include=(0.0,))])
@pytest.mark.parametrize("n", [1, 5])
def test_a_constant_series_stays_inside_its_drawing(y, axis, n):
    tree = parse(line_chart([line(x=range(n), y=[y] * n)], x=X, y=axis))
    width, height = float(tree.get("width")), float(tree.get("height"))
    for side, value in coordinates(tree):
        assert 0 <= value <= (width, height)[side]
    assert len(ticks(tree)) >= 3


@pytest.mark.parametrize("values", [[100.0], [0.0], [99.0, 100.0], [0.0, 100.0], [50.0, 50.0]])
def test_an_axis_of_shares_never_leaves_zero_to_a_hundred(values):
    axis = Axis(label="share, %", limits=(0.0, 100.0))
    dots = [Dot(label=f"d{i}", colour="arm-0", x=v) for i, v in enumerate(values)]
    for text in (
        dot_plot(dots, x=axis),
        line_chart([line(x=range(len(values)), y=values)], x=X, y=axis),
    ):
        shown = [float(t.replace("−", "-")) for t in ticks(parse(text))]
        assert all(0 <= v <= 100 for v in shown)


def test_a_single_point_is_seen_and_its_step_is_a_whole_number():
    tree = parse(line_chart([line(x=[3], y=[2.0])], x=X, y=Y))
    (dot,) = classes(tree, "dot")
    assert float(dot.get("r")) > 3
    assert {"2", "3", "4"} >= set(ticks(tree)[:3])


def test_a_base_is_a_reference_and_an_interval_is_drawn_where_known():
    dots = [
        Dot(label="base", colour="arm-base", x=98, is_base=True),
        Dot(label="T", colour="arm-0", x=94, low=93, high=95),
    ]
    tree = parse(dot_plot(dots, x=X))
    assert len(classes(tree, "interval")) == len(classes(tree, "reference")) == 1
    assert len(classes(tree, "dot")) == 2


def test_every_text_is_escaped():
    dots = [Dot(label=NASTY, colour="arm-0", x=1, note=NASTY), Dot(label="b", colour="x", x=2)]
    for drawing in (
        line_chart([line(label=NASTY, dash='1"2')], x=Axis(label=NASTY), y=Axis(label=NASTY)),
        dot_plot(dots, x=Axis(label=NASTY)),
    ):
        assert not [e for e in parse(drawing).iter() if e.tag == "script"]


def test_long_names_are_cut_inside_the_drawing():
    name = "an arm with a very long name indeed, longer than the drawing has room for"
    tree = parse(dot_plot([Dot(label=name, colour="arm-0", x=1)], x=X))
    (label,) = classes(tree, "label")
    assert label.text.endswith("…")
    assert float(label.get("x")) - 6.9 * len(label.text) >= -1
    assert name in tree.get("aria-label")


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 1.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
        (0.0, 16.0, "0 5 10 15"),
        (41.3, 61.9, "45 50 55 60"),
        (-3.0, 2.0, "−3 −2 −1 0 1 2"),
        (0.058, 0.131, "0.06 0.08 0.10 0.12"),
        (0.0, 20_000.0, "0 5,000 10,000 15,000 20,000"),
    ],
)
def test_ticks_worked_by_hand(low, high, texts):
    assert [text for _, text in _ticks(low, high, count=5)] == texts.split()


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-4, 1e6), count=st.integers(1, 10))
def test_ticks_lie_inside_and_are_evenly_spaced(low, span, count):
    found = [tick for tick, _ in _ticks(low, low + span, count=count)]
    assert 2 <= len(found) <= 3 * max(2, count) + 4
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) - min(gaps) <= 1e-6 * max(gaps) + 1e-9 * abs(low)
    mantissa = gaps[0] / 10 ** math.floor(math.log10(gaps[0]) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3 + 1e-9 * abs(low) / gaps[0]


def test_spans_pad_data_but_not_an_end_that_must_be_shown():
    assert Axis(label="").span([2.0, 4.0, None], pad=0.5) == (1.0, 5.0)
    assert Axis(label="", include=(0.0,)).span([2.0, 4.0], pad=0.5) == (0.0, 6.0)
    assert Axis(label="", limits=(0.0, 4.2)).span([2.0, 4.0], pad=0.5) == (1.0, 4.2)
    for values in ([], [None], [7.0], [0.0], [-2.0]):
        low, high = Axis(label="").span(values)
        assert low < high


def test_equal_factors_are_equally_far_on_a_log_axis() -> None:
    """Decades, and powers of two where few decades fit; zero is a gap and not an error."""
    series = [Series(label="a", colour="arm-0", x=[1, 10, 100], y=[0.01, 0.0, 100.0])]
    text = line_chart(series, x=Axis(label="x", is_log=True), y=Axis(label="y", is_log=True))
    assert text.count("<circle") == 2  # broken at the zero
    assert "<path" not in text
    ticks = dict(
        re.findall(r'<text x="([\d.]+)" y="\d+" class="tick" text-anchor="middle">([\d.]+)<', text)
    )
    place = {float(v): float(k) for k, v in ticks.items()}
    assert place[10] - place[1] == pytest.approx(place[100] - place[10], abs=0.1)
    few = [Series(label="a", colour="arm-0", x=[1, 2, 4], y=[1, 2, 3])]
    text = line_chart(few, x=Axis(label="k", is_log=True), y=Axis(label="y"))
    assert {">1<", ">2<", ">4<"} <= set(re.findall(r">[\d.]+<", text))
