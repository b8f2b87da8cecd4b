"""Keyed draws: uniform, independent, the same bits in Python, numpy and torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.keys import below, content_id, fold, text_key, uniform

big = st.integers(min_value=0, max_value=2**62 - 1)


def chi_square(counts: np.ndarray) -> float:
    """The statistic in units of its standard deviation above its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("varying", [0, 1, 2])
def test_uniform_over_256_bins_whichever_part_of_the_key_runs(varying: int) -> None:
    # Fixed keys, so the test never flickers; a fair draw exceeds 5 deviations once in 10**6.
    parts = [np.int64(7), np.int64(3), np.int64(11)]
    parts[varying] = np.arange(100_000, dtype=np.int64)
    u = uniform(*(int(p) if p.ndim == 0 else p for p in parts))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(chi_square(np.bincount((u * 256).astype(int), minlength=256))) < 5


def test_low_bits_are_uniform_too() -> None:
    u = uniform(1, np.arange(100_000, dtype=np.int64))
    low = (u * 2**53).astype(np.int64) & 255
    assert abs(chi_square(np.bincount(low, minlength=256))) < 5


@pytest.mark.parametrize("shift", [1, 2, 2**32, 2**40])
def test_neighbouring_keys_are_independent(shift: int) -> None:
    keys = np.arange(100_000, dtype=np.int64)
    cell = (uniform(5, keys) * 16).astype(int) * 16 + (uniform(5, keys + shift) * 16).astype(int)
    assert abs(chi_square(np.bincount(cell, minlength=256))) < 5


def test_parts_do_not_commute_or_concatenate() -> None:
    keys = {fold(1, 2), fold(2, 1), fold(1, 2, 0), fold(0, 1, 2), fold(12), fold(1 + (2 << 32))}
    assert len(keys) == 6


def test_no_collision_among_a_million_keys() -> None:
    # A 64-bit key: the expected number of collisions is 3e-8.
    first, second = fold(np.arange(1000)[:, None], np.arange(1000)[None, :])
    assert len(np.unique(first << 32 | second)) == 1_000_000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(big, big, big), min_size=1, max_size=8))
def test_python_numpy_and_torch_give_equal_bits(keys: list[tuple[int, int, int]]) -> None:
    columns = np.array(keys, dtype=np.int64).T
    one_by_one = [uniform(*key) for key in keys]
    assert uniform(*columns).tolist() == one_by_one
    assert uniform(*map(torch.from_numpy, columns)).tolist() == one_by_one
    integers = [below(1000, *key) for key in keys]
    assert below(1000, *columns).tolist() == integers
    assert below(1000, *map(torch.from_numpy, columns)).tolist() == integers


@settings(max_examples=50, deadline=None)
@given(st.lists(big, min_size=2, max_size=20, unique=True), st.randoms(use_true_random=False))
def test_order_and_company_in_a_batch_do_not_matter(keys: list[int], random) -> None:
    drawn = dict(zip(keys, uniform(9, np.array(keys)).tolist(), strict=True))
    random.shuffle(keys)
    half = keys[: len(keys) // 2 + 1]
    assert uniform(9, np.array(half)).tolist() == [drawn[key] for key in half]


def test_frozen_values() -> None:
    # Draws are part of every result: a change of the arithmetic must be seen.
    assert fold(1, 2, 3) == (211965799, 1804138626)
    assert text_key("tabom") == 4049959675746079050
    assert content_id("a", b"b") == "3c9d591045bc8876f9d0399bbfb05c6a"


@pytest.mark.parametrize("bound", [1, 2, 3, 257])
def test_below_covers_its_range(bound: int) -> None:
    values = below(bound, 4, np.arange(20_000, dtype=np.int64))
    counts = np.bincount(values, minlength=bound)
    assert len(counts) == bound
    assert counts.min() > 0
    if bound > 1:
        assert abs(chi_square(counts)) < 5


def test_content_id_tells_where_a_part_ends() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("abc") == content_id(b"abc")
    assert len(content_id("x")) == 32


def test_text_key_is_non_negative_and_fits_62_bits() -> None:
    assert all(0 <= text_key(str(i)) < 2**62 for i in range(1000))
