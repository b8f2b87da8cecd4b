"""4x4 sudoku by enumeration: all 288 grids are known, so uniqueness is a table look-up."""

from __future__ import annotations

import functools
import itertools
import random

import numpy as np

from tabom.toyworld.alphabet import BLANK

SIDE = 4
NUM_CELLS = SIDE * SIDE


@functools.cache
def all_grids() -> np.ndarray:
    """All complete 4x4 grids, int8 `[288, 16]`, values 1-4, row by row."""
    rows = list(itertools.permutations(range(1, SIDE + 1)))
    grids = []
    for top in itertools.product(rows, repeat=2):
        if not _boxes_hold(top):
            continue
        for bottom in itertools.product(rows, repeat=2):
            if _boxes_hold(bottom) and _columns_hold(top + bottom):
                grids.append([value for row in top + bottom for value in row])
    return np.array(grids, dtype=np.int8)


def _boxes_hold(band: tuple[tuple[int, ...], ...]) -> bool:
    """Both 2x2 boxes of two stacked rows have four different values."""
    return all(
        len({row[column] for row in band for column in half}) == SIDE for half in ((0, 1), (2, 3))
    )


def _columns_hold(grid: tuple[tuple[int, ...], ...]) -> bool:
    return all(len({row[column] for row in grid}) == SIDE for column in range(SIDE))


def num_solutions(puzzle: str) -> int:
    """How many complete grids agree with the clues of `puzzle` (16 characters, `.` is a blank)."""
    if len(puzzle) != NUM_CELLS:
        raise ValueError(f"a 4x4 sudoku has {NUM_CELLS} cells, got {len(puzzle)}: {puzzle!r}")
    clues = [(cell, int(char)) for cell, char in enumerate(puzzle) if char != BLANK]
    if not clues:
        return len(all_grids())
    cells, values = (list(column) for column in zip(*clues, strict=True))
    return int((all_grids()[:, cells] == np.array(values)).all(axis=1).sum())


def draw_puzzle(rng: random.Random, *, num_blanks: tuple[int, int]) -> tuple[str, str]:
    """One puzzle with a unique solution.

    Args:
        rng: source of all choices.
        num_blanks: smallest and largest number of empty cells.

    Returns:
        `(puzzle, solution)`, 16 characters each.
    """
    grids = all_grids()
    while True:
        solution = "".join(str(value) for value in grids[rng.randrange(len(grids))])
        blanks = set(rng.sample(range(NUM_CELLS), rng.randint(*num_blanks)))
        puzzle = "".join(BLANK if cell in blanks else value for cell, value in enumerate(solution))
        if num_solutions(puzzle) == 1:
            return puzzle, solution
