"""Numbers for people, the lines that tell what a stage did, and text that cannot steer."""

from collections.abc import Callable
from typing import Any

import pytest

from tabom.core.text import duration, gib, number, safe, told


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (number, 7_615_616_512, "7.62 G"),
        (number, 4_608_000, "4.61 M"),
        (number, 12_345, "12.3 k"),
        (number, 9999, "9999"),
        (number, 0.065, "0.065"),
        (number, 999_999_999, "1 G"),
        (duration, None, ""),
        (duration, 0.0, "0 s"),
        (duration, 0.01, "< 0.1 s"),
        (duration, 6.83, "6.8 s"),
        (duration, 9.96, "10 s"),
        (duration, 61, "1 min 1 s"),
        (duration, 64_000, "17 h 46 min"),
        (gib, 15.25 * 2**30, "15.2"),
        (gib, 2**20, "< 0.001"),
    ],
)
def test_numbers_for_people(function: Callable[[Any], str], value: float, text: str) -> None:
    assert function(value) == text


def test_counts_are_told_in_words_with_units_and_zeros_are_not() -> None:
    counts = {
        "num_trajectories": 12,
        "too_long": 0,
        "seconds": 13.818,
        "train_seconds": 3.13,
        "peak_memory_bytes": 585666560,
        "forwards": 19200,
        "trajectories_per_hour": 327654.3,
        "chain@1": 0.0,
        "hops@1": 97.5,
        "steps": 1500,
    }
    assert ", ".join(f"{name} {value}" for name, value in told(counts)) == (
        "trajectories 12, took 14 s, train 3.1 s, peak memory 0.545 GiB, "
        "forwards 19,200, trajectories per hour 327,654, chain@1 0, hops@1 97.5, steps 1,500"
    )


def test_a_response_cannot_steer_the_terminal() -> None:
    assert safe("a\x1b[2Jb\x07\u202e\r\n\tc") == "a\ufffd[2Jb\ufffd\ufffd\ufffd\n\tc"
    family = "\U0001f468\u200d\U0001f469"
    assert safe(family) == family
