import itertools
import re
from xml.etree import ElementTree

import pytest

from tabom.report import figures
from tabom.report.svg import (
    Dot,
    Series,
    dot_plot,
    interval_bar,
    line_chart,
    scatter,
    small_multiples,
    stacked_bar,
)

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
    tree = parse(line_chart([line(y=[0.0, 5.0, 10.0])], x_label="x", y_label="y"))
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
    tree = parse(
        line_chart([line(x=[0, 1, 2, 3], y=[1.0, None, 2.0, 3.0])], x_label="x", y_label="y")
    )
    assert classes(tree, "line")[0].get("d").count("M") == 2


def test_bands_and_levels_are_drawn_only_where_given():
    plain = parse(line_chart([line()], x_label="x", y_label="y"))
    assert not classes(plain, "band")
    assert not classes(plain, "reference")
    banded = line(low=[0.5, 1.5, 3.5], high=[1.5, 2.5, 4.5])
    tree = parse(line_chart([banded], x_label="x", y_label="y", level=1.0))
    assert len(classes(tree, "band")) == 1
    assert len(classes(tree, "reference")) == 1


def test_labels_at_line_ends_keep_their_distance():
    lines = [line(label=f"arm {k}", y=[1.0, 2.0, 3.0 + k * 1e-3]) for k in range(7)]
    tree = parse(line_chart(lines, x_label="x", y_label="y"))
    at = sorted(float(element.get("y")) for element in classes(tree, "label"))
    assert len(at) == 7
    assert min(b - a for a, b in itertools.pairwise(at)) >= 14.9


def test_a_series_of_one_point_or_of_none_draws_an_axis():
    for ys in ([2.0], [None]):
        assert classes(parse(line_chart([line(x=[3], y=ys)], x_label="x", y_label="y")), "tick")


def test_scatter_draws_intervals_only_where_known():
    dots = [
        Dot(label="base", colour="arm-base", x=98, y=44, is_base=True),
        Dot(label="T", colour="arm-0", x=94, x_low=93, x_high=95, y=57, y_low=56, y_high=58),
    ]
    tree = parse(scatter(dots, x_label="ood", y_label="id"))
    assert len(classes(tree, "bar")) == 2
    assert len(classes(tree, "dot")) == 2
    assert len(classes(tree, "reference")) == 2
    assert tree.get("aria-label") == "id against ood: base, T"


def test_dot_plot_keeps_the_order_and_shows_seeds():
    dots = [Dot(label=n, colour="arm-0", x=x, seeds=[x, x + 1]) for n, x in (("b", 9), ("a", 3))]
    tree = parse(dot_plot(dots, x_label="x"))
    assert [element.text for element in classes(tree, "label")] == ["b", "a"]
    assert len(classes(tree, "seed")) == 4
    first, second = [float(element.get("cx")) for element in classes(tree, "dot")]
    assert first > second


def test_stacked_bar_is_to_scale():
    rows = [
        ("s0", [("ok", "reason-accepted", 30), ("no", "reason-0", 10)]),
        ("s1", [("ok", "x", 20)]),
    ]
    tree = parse(stacked_bar(rows))
    wide = [float(e.get("width")) + 1.5 for e in tree.iter() if e.tag == "rect"]
    assert wide[0] / wide[1] == pytest.approx(3, rel=0.01)
    assert wide[2] / wide[0] == pytest.approx(2 / 3, rel=0.01)
    assert [element.text for element in classes(tree, "label")] == ["s0", "s1"]


def test_interval_bar_marks_the_base():
    tree = parse(interval_bar(5, 4, 6, extent=(0, 10), base=2, colour="arm-1"))
    (dot,) = classes(tree, "dot")
    (reference,) = classes(tree, "reference")
    assert float(reference.get("x1")) < float(dot.get("cx"))
    assert tree.get("aria-hidden") == "true"


def test_every_text_is_escaped():
    dots = [
        Dot(label=NASTY, colour="arm-0", x=1, y=1, note=NASTY),
        Dot(label="b", colour="x", x=2, y=2),
    ]
    drawings = [
        line_chart([line(label=NASTY, dash='1"2')], x_label=NASTY, y_label=NASTY),
        scatter(dots, x_label=NASTY, y_label=NASTY),
        dot_plot(dots, x_label=NASTY),
        stacked_bar([(NASTY, [(NASTY, "x", 3)])]),
        small_multiples([(NASTY, [line(label=NASTY)])], x_label=NASTY),
    ]
    for drawing in drawings:
        assert not [e for e in parse(drawing).iter() if e.tag == "script"]


def test_every_arm_has_a_look_of_its_own():
    names = [f"arm {k}" for k in range(15)]
    summary = {"arms": [{"name": n} for n in ["base", *names]], "base_arm": "base"}
    styles = figures.arm_styles(summary)
    assert styles["base"][0] == "arm-base"
    assert len(set(styles.values())) == 16
    # The last arm keeps the first colour, however many stand before it.
    assert styles["arm 14"] == ("arm-0", "")


def test_training_is_averaged_over_seeds_and_split_by_term():
    runs = [
        {"arm": "T", "seed": 0, "points": [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]},
        {"arm": "T", "seed": 1, "points": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}]},
    ]
    text = figures.training({"curves": {"training": runs}})
    assert text.count("<svg") == 1
    tree = parse(text)
    heights = [
        float(p.split(",")[1])
        for p in re.findall(r"[\d.]+,[\d.]+", classes(tree, "line")[0].get("d"))
    ]
    assert heights[0] == heights[1]  # the mean is 2 at both steps
    assert len(classes(tree, "band")) == 1
    assert figures.training({}) == ""
