import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.report.scale import (
    Scale,
    extent,
    nice_ticks,
    overlap,
    place_labels,
    spread,
    tick_labels,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 16.0, [0.0, 5.0, 10.0, 15.0]),
        (41.3, 61.9, [45.0, 50.0, 55.0, 60.0]),
        (-3.0, 2.0, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]),
        (1.0, 0.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_worked_by_hand(low, high, ticks):
    assert nice_ticks(low, high, count=5) == ticks


@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-4, 1e6),
    count=st.integers(1, 10),
)
def test_ticks_lie_inside_and_are_evenly_spaced(low, span, count):
    ticks = nice_ticks(low, low + span, count=count)
    assert 2 <= len(ticks) <= 3 * count + 4
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(gaps) - min(gaps) <= 1e-6 * max(gaps) + 1e-9 * abs(low)
    mantissa = gaps[0] / 10 ** math.floor(math.log10(gaps[0]) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-3 + 1e-9 * abs(low) / gaps[0]


@pytest.mark.parametrize("value", [0.0, 3.0, -0.25])
def test_ticks_of_a_single_value_still_make_an_axis(value):
    ticks = nice_ticks(value, value)
    assert len(ticks) >= 2
    assert ticks[0] <= value <= ticks[-1] or ticks[0] < value + 1


def test_labels_carry_the_decimals_of_the_finest_tick():
    assert tick_labels([0.0, 0.025, 0.05]) == ["0.000", "0.025", "0.050"]
    assert tick_labels([-5.0, 0.0, 5.0]) == ["−5", "0", "5"]
    assert tick_labels([0.0, 5000.0]) == ["0", "5,000"]
    assert tick_labels(nice_ticks(0.058, 0.131)) == ["0.06", "0.08", "0.10", "0.12"]


def test_extent_pads_data_but_not_a_fixed_end():
    assert extent([2.0, 4.0, None], pad=0.5) == (1.0, 5.0)
    assert extent([2.0, 4.0], pad=0.5, include=[0.0]) == (0.0, 6.0)
    assert extent([2.0, 4.0], pad=0.0) == (2.0, 4.0)
    assert extent([None]) == (0.0, 1.0)
    low, high = extent([7.0])
    assert low < 7.0 < high


def test_scale_maps_ends_to_ends_and_survives_no_span():
    scale = Scale(10.0, 20.0, 0.0, 100.0)
    assert (scale(10.0), scale(15.0), scale(20.0)) == (0.0, 50.0, 100.0)
    assert Scale(1.0, 1.0, 0.0, 100.0)(1.0) == 0.0


def test_spread_leaves_distant_labels_and_centres_a_collision():
    assert spread([10.0, 50.0], gap=15, low=0, high=100) == [10.0, 50.0]
    assert spread([50.0, 50.0], gap=10, low=0, high=100) == [45.0, 55.0]
    assert spread([51.0, 49.0], gap=10, low=0, high=100) == [55.0, 45.0]
    assert spread([0.0, 1.0, 2.0], gap=10, low=0, high=100) == [0.0, 10.0, 20.0]
    assert spread([100.0, 99.0], gap=10, low=0, high=100) == [100.0, 90.0]
    assert spread([], gap=10, low=0, high=100) == []


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12), st.floats(1, 40))
def test_spread_keeps_gap_range_and_order(wanted, gap):
    placed = spread(wanted, gap=gap, low=0.0, high=300.0)
    room = min(gap, 300.0 / (len(wanted) - 1)) if len(wanted) > 1 else gap
    assert all(-1e-6 <= at <= 300.0 + 1e-6 for at in placed)
    ranked = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for a, b in itertools.pairwise(ranked):
        assert placed[b] - placed[a] >= room - 1e-6


def test_spread_is_the_least_squares_answer():
    # Three labels that wish for 10, 11 and 30 with a gap of 15: the block 10, 11 would sit at
    # 3 and 18, free of 30 by 12 < 15, so all three merge: start = mean(10, 11 - 15, 30 - 30) = 2.
    assert spread([10.0, 11.0, 30.0], gap=15, low=0, high=100) == [2.0, 17.0, 32.0]


def test_labels_of_a_cluster_do_not_overlap_and_stay_inside():
    points = [(400.0, 60.0), (404.0, 66.0), (410.0, 70.0), (402.0, 90.0), (60.0, 250.0)]
    inside = (44.0, 20.0, 520.0, 300.0)
    boxes = place_labels(points, [70.0] * 5, inside=inside)
    for a, b in itertools.combinations(boxes, 2):
        assert overlap(a, b) == 0
    for box in boxes:
        assert overlap(box, inside) == pytest.approx(70.0 * 14.0)
        for x, y in points:
            assert overlap(box, (x - 5, y - 5, x + 5, y + 5)) == 0


def test_overlap_of_boxes():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 4)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
