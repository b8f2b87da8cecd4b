"""The tasks against brute force, their streams, and the checker on near misses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tabom.toyworld.alphabet import CHARACTERS, EOS_CHAR, NODES, NUM_SLOTS
from tabom.toyworld.sudoku import all_grids, num_solutions
from tabom.toyworld.tasks import (
    CHAIN_HOPS,
    DOMAINS,
    GENERAL_TASKS,
    SHORT_HOPS,
    SPLITS,
    check,
    num_carries,
    prompts,
    split_of,
)

NUM = 200


def follow(prompt: str) -> str:
    """The path by reading the prompt's pairs one after the other, not by an index."""
    pairs, query = prompt.split(":")
    pointer = {pairs[at].lower(): pairs[at + 1] for at in range(0, len(pairs), 2)}
    path = [query[0]]
    while len(path) <= int(query[1:]):
        path.append(pointer[path[-1]])
    return "".join(path[1:])


@pytest.mark.parametrize(("task", "hops"), [("chain", CHAIN_HOPS), ("hops", SHORT_HOPS)])
def test_paths_are_those_of_a_permutation(task: str, hops: tuple[int, int]) -> None:
    lengths = set()
    for row in prompts(task=task, split="eval", seed=3, num=NUM):
        pairs = row["prompt"].split(":")[0]
        nodes = list(pairs[::2].lower())
        assert sorted(pairs[1::2]) == nodes == sorted(set(nodes))
        assert nodes == list(NODES) or task == "hops"
        path = follow(row["prompt"])
        lengths.add(len(path))
        assert row["reference"] == f"{path[-1]}={path}"
        assert row["ground_truth"] != row["reference"]
        assert row["ground_truth"] == row["reference"].replace("=", ":") + "."
    assert lengths == set(range(hops[0], hops[1] + 1))


def test_words_are_reversed_and_sorted() -> None:
    for row in prompts(task="reverse", split="train", seed=0, num=NUM):
        assert row["reference"] == "".join(reversed(row["prompt"][1:]))
    for row in prompts(task="sort", split="train", seed=0, num=NUM):
        assert list(row["reference"]) == sorted(row["prompt"][1:])


def test_sudokus_have_one_solution_found_by_search() -> None:
    def solve(cells: str) -> list[str]:
        if "." not in cells:
            return [cells]
        at = cells.index(".")
        row, column = divmod(at, 4)
        seen = {
            cells[4 * r + c]
            for r in range(4)
            for c in range(4)
            if r == row or c == column or (r // 2, c // 2) == (row // 2, column // 2)
        }
        return [
            full
            for value in "1234"
            if value not in seen
            for full in solve(cells[:at] + value + cells[at + 1 :])
        ]

    assert all_grids().shape == (288, 16)
    for row in prompts(task="sudoku", split="eval", seed=1, num=40):
        puzzle = row["prompt"][1:]
        assert 8 <= puzzle.count(".") <= 10
        assert solve(puzzle) == [row["reference"]]
    assert num_solutions("." * 16) == 288
    with pytest.raises(ValueError, match="16 cells"):
        num_solutions("12")


@pytest.mark.parametrize("task", DOMAINS)
def test_streams_are_keyed_and_fit_the_canvas(task: str) -> None:
    rows = prompts(task=task, split="train", seed=7, num=60)
    assert prompts(task=task, split="train", seed=7, num=20, offset=40) == rows[40:]
    assert prompts(task=task, split="train", seed=8, num=60) != rows
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["domain"] == DOMAINS[task]
        assert set(row["prompt"] + row["reference"] + row["ground_truth"]) <= set(CHARACTERS)
        assert 0 < len(row["reference"]) <= NUM_SLOTS
        assert 0 < len(row["ground_truth"]) <= NUM_SLOTS


@pytest.mark.parametrize("task", DOMAINS)
def test_no_prompt_is_in_two_splits(task: str) -> None:
    seen = {
        split: {row["prompt"] for row in prompts(task=task, split=split, seed=0, num=NUM)}
        for split in SPLITS
    }
    for split, found in seen.items():
        assert {split_of(prompt) for prompt in found} == {split}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values()))


def test_general_takes_the_general_tasks_in_turn() -> None:
    rows = prompts(task="general", split="eval", seed=0, num=2 * len(GENERAL_TASKS))
    assert [row["task"] for row in rows] == [*GENERAL_TASKS, *GENERAL_TASKS]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown toy task 'chains'"):
        prompts(task="chains", split="eval", seed=0, num=1)
    with pytest.raises(ValueError, match="unknown split 'test'"):
        prompts(task="chain", split="test", seed=0, num=1)


@pytest.mark.parametrize("task", DOMAINS)
def test_checker_takes_the_exact_response_only(task: str) -> None:
    for row in prompts(task=task, split="eval", seed=0, num=30):
        right = row["reference"]
        assert check(response=right, row=row) == ("accepted", "reference")
        assert check(response=right.ljust(NUM_SLOTS, EOS_CHAR), row=row)[0] == "accepted"
        assert check(response=row["ground_truth"], row=row)[0] == "accepted"
        assert check(response="", row=row)[0] == "no_answer"
        assert check(response=EOS_CHAR * NUM_SLOTS, row=row)[0] == "no_answer"
        for at in range(len(right)):
            other = next(char for char in CHARACTERS if char != right[at])
            assert check(response=right[:at] + other + right[at + 1 :], row=row)[0] == "wrong"
        assert check(response=right + "a", row=row)[0] == "wrong"
        assert check(response=right[:-1], row=row)[0] in ("wrong", "no_answer")
        assert check(response=right[:1] + EOS_CHAR + right[1:], row=row)[0] == "wrong"


def test_right_answer_after_a_wrong_path_is_wrong() -> None:
    """With a random function as the map, a check of the answer alone passed 58% where 33% were
    right; a permutation and a check of the whole response are both needed."""
    row = prompts(task="chain", split="eval", seed=0, num=1)[0]
    answer, path = row["reference"].split("=")
    swapped = path[1] + path[0] + path[2:]
    reason, detail = check(response=f"{answer}={swapped}", row=row)
    assert reason == "wrong"
    assert "slot 2" in detail


def test_the_room_is_light() -> None:
    code = (
        "import sys, tabom.toyworld, tabom.toyworld.tasks, tabom.toyworld.diagnostics; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("task", "digits"), [("addition", (5, 7)), ("sums", (1, 3))])
def test_additions_are_right_and_as_hard_as_they_say(task: str, digits: tuple[int, int]) -> None:
    """Against Python's own sum, and the carries of adding digit by digit."""
    lengths, hard = set(), set()
    for row in prompts(task=task, split="eval", seed=3, num=NUM):
        one, other = (row["prompt"][1:].lower()[i::2] for i in (0, 1))
        lengths.add(len(one))
        numbers = [int("".join(str(NODES.index(c)) for c in part)) for part in (one, other)]
        total = "".join(str(NODES.index(c)) for c in row["reference"])
        assert int(total) == sum(numbers)
        assert len(total) == len(one) + 1
        assert row["ground_truth"] == row["reference"] + "."
        runs, carries = 0, []
        for power in range(len(one)):
            low = 10 ** (power + 1)
            runs = runs + 1 if sum(n % low for n in numbers) >= low else 0
            carries.append(runs)
        assert num_carries(row["prompt"]) == max(carries)
        hard.add(max(carries))
    assert lengths == set(range(digits[0], digits[1] + 1))
    assert hard >= set(range(digits[1]))
