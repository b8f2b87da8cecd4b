"""The tasks of the toy world: endless keyed streams of prompts, and their checker.

`prompts` and `check` are what a recipe names by dotted path. No torch, no global randomness:
an example is a pure function of (seed, split, task, index).

| task    | prompt                     | response        | ground truth, the other surface |
|---------|----------------------------|-----------------|---------------------------------|
| chain   | `AcBdCaDfEbFeGjHiIhJg:b6`  | `f=dfebdf`      | `f:dfebdf.`                     |
| hops    | the same, 1-4 hops         |                 |                                 |
| reverse | `<gabbed`                  | `debbag`        | the same                        |
| sort    | `/gabbed`                  | `abbdeg`        | the same                        |
| sudoku  | `#1.3.` ... 16 cells       | 16 digits       | the same                        |
| addition| `=CbHeJa` (279 + 140)      | `aebj` (0419)   | `aebj.`                         |
| sums    | the same, 1-3 digits       |                 |                                 |

The letters a to j are also the digits 0 to 9.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tabom.toyworld.alphabet import (
    BLANK,
    EOS_CHAR,
    EQUALS,
    NODES,
    NUM_SLOTS,
    REVERSE,
    SORT,
    START,
    SUDOKU,
)
from tabom.toyworld.sudoku import draw_puzzle

SPLITS = ("pretrain", "train", "eval")
CHAIN_NODES = (10, 10)
CHAIN_HOPS = (6, 9)
# Small maps too: on maps of ten alone the net does not find the look-up in any time we have.
SHORT_NODES = (3, 10)
SHORT_HOPS = (1, 4)
WORD_LENGTHS = (6, 10)
ADDITION_DIGITS = (5, 7)
SUM_DIGITS = (1, 3)
SUDOKU_BLANKS = (8, 10)

DOMAINS = {
    "chain": "chain",
    "hops": "general",
    "reverse": "general",
    "sort": "general",
    "sudoku": "general",
    "sums": "arithmetic",
    "addition": "arithmetic",
}
GENERAL_TASKS = tuple(task for task, domain in DOMAINS.items() if domain == "general")


@dataclass(frozen=True)
class Example:
    """One prompt with its answers; responses are text without EOS, at most 16 characters."""

    id: str
    prompt: str
    reference: str
    ground_truth: str
    task: str
    domain: str


def prompts(*, task: str, split: str, seed: int, num: int, offset: int = 0) -> list[dict[str, str]]:
    """Distinct examples `offset` .. `offset + num - 1` of one stream, as plain rows.

    Args:
        task: a task's name, or `general` for the general tasks in turn.
        split: `pretrain` (the base model's own data), `train` or `eval`; no prompt is in two.
        seed: which stream.
        num: number of rows.
        offset: rows to pass over first.
    """
    if num < 0 or offset < 0:
        raise ValueError(f"num and offset must not be negative, got num={num}, offset={offset}")
    rows: list[dict[str, str]] = []
    for position, example in enumerate(stream(task, split=split, seed=seed)):
        if len(rows) == num:
            return rows
        if position >= offset:
            rows.append(asdict(example))
    raise AssertionError("a stream has no end")


def stream(task: str, *, split: str, seed: int) -> Iterator[Example]:
    """All distinct examples of one task in order of their index, without end."""
    names = GENERAL_TASKS if task == "general" else (task,)
    seen: set[str] = set()
    index = 0
    while True:
        for name in names:
            example = make_example(name, split=split, seed=seed, index=index)
            if example.id not in seen:
                seen.add(example.id)
                yield example
        index += 1


def make_example(task: str, *, split: str, seed: int, index: int) -> Example:
    """The example at `index`; drawn again, under a new key, until its content lies in `split`."""
    if task not in DOMAINS:
        raise ValueError(f"unknown toy task {task!r}; known: {', '.join([*DOMAINS, 'general'])}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(digest(f"{seed}/{split}/{task}/{index}"))
    while True:
        prompt, reference, ground_truth = _draw(task, rng)
        if split_of(prompt) == split:
            return Example(
                id=f"{task}-{digest(prompt):016x}",
                prompt=prompt,
                reference=reference,
                ground_truth=ground_truth,
                task=task,
                domain=DOMAINS[task],
            )


def split_of(prompt: str) -> str:
    """The one split a prompt may occur in: decided by its content, so splits cannot overlap."""
    # Half for the base, the rest for what comes after it: most data is the base's.
    return ("pretrain", "pretrain", "train", "eval")[digest(f"split/{prompt}") % 4]


def check(*, response: str, row: dict[str, str]) -> tuple[str, str]:
    """Judge a whole response.

    Args:
        response: decoded text; EOS slots cut off, or shown as `EOS_CHAR` at the end.
        row: a row of `prompts`.

    Returns:
        `(reason, detail)`, reason one of `accepted`, `wrong`, `no_answer`. Accepted is only the
        exact response, in either surface. A right answer after a wrong path is wrong: else a
        model could be rewarded for a lucky guess.
    """
    text = response.rstrip(EOS_CHAR)
    if not text:
        return "no_answer", "the response is empty"
    for surface in ("reference", "ground_truth"):
        if text == row[surface]:
            return "accepted", surface
    expected = row["reference"]
    wrong = [
        slot
        for slot in range(max(len(text), len(expected)))
        if text[slot : slot + 1] != expected[slot : slot + 1]
    ]
    return "wrong", f"first difference in slot {wrong[0]}, {len(wrong)} in all; wanted {expected!r}"


def pad(text: str) -> str:
    """`text` with EOS filler up to the canvas: one character a slot."""
    return text.ljust(NUM_SLOTS, EOS_CHAR)


def _draw(task: str, rng: random.Random) -> tuple[str, str, str]:
    if task in ("chain", "hops"):
        if task == "chain":
            return _draw_pointers(rng, num_nodes=CHAIN_NODES, num_hops=CHAIN_HOPS)
        return _draw_pointers(rng, num_nodes=SHORT_NODES, num_hops=SHORT_HOPS)
    if task in ("addition", "sums"):
        return _draw_sum(rng, digits=ADDITION_DIGITS if task == "addition" else SUM_DIGITS)
    if task == "sudoku":
        puzzle, solution = draw_puzzle(rng, num_blanks=SUDOKU_BLANKS)
        return SUDOKU + puzzle, solution, solution
    word = "".join(rng.choices(NODES, k=rng.randint(*WORD_LENGTHS)))
    if task == "reverse":
        return REVERSE + word, word[::-1], word[::-1]
    ordered = "".join(sorted(word))
    return SORT + word, ordered, ordered


def _draw_sum(rng: random.Random, *, digits: tuple[int, int]) -> tuple[str, str, str]:
    """Two numbers of equally many digits; their sum has one more, first what is decided last."""
    length = rng.randint(*digits)
    one, other = ("".join(rng.choices(NODES, k=length)) for _ in range(2))
    total = str(_number(one) + _number(other)).rjust(length + 1, "0")
    response = "".join(NODES[int(digit)] for digit in total)
    # Written column by column: what it takes is then to carry, not to find the places.
    columns = "".join(a.upper() + b for a, b in zip(one, other, strict=True))
    return EQUALS + columns, response, response + BLANK


def _number(letters: str) -> int:
    return int("".join(str(NODES.index(letter)) for letter in letters))


def num_carries(prompt: str) -> int:
    """The longest run of carries in an addition, one into the next: how hard it is."""
    columns = prompt.removeprefix(EQUALS).lower()
    longest = run = carry = 0
    for a, b in zip(reversed(columns[::2]), reversed(columns[1::2]), strict=True):
        carry = int(NODES.index(a) + NODES.index(b) + carry > 9)
        run = run + 1 if carry else 0
        longest = max(longest, run)
    return longest


def _draw_pointers(
    rng: random.Random, *, num_nodes: tuple[int, int], num_hops: tuple[int, int]
) -> tuple[str, str, str]:
    """A permutation, never a random function: there paths run together, and a check of the last
    node would pass wrong paths."""
    nodes = sorted(rng.sample(NODES, rng.randint(*num_nodes)))
    pointers = dict(zip(nodes, rng.sample(nodes, len(nodes)), strict=True))
    return pointer_example(pointers, start=rng.choice(nodes), num_hops=rng.randint(*num_hops))


def pointer_example(pointers: dict[str, str], *, start: str, num_hops: int) -> tuple[str, str, str]:
    """`(prompt, reference, ground_truth)` for following `pointers` from `start`."""
    path = ""
    node = start
    for _ in range(num_hops):
        node = pointers[node]
        path += node
    entries = "".join(source.upper() + target for source, target in pointers.items())
    # The answer comes first, so left to right is the wrong order and easy-to-hard the right one.
    response = f"{path[-1]}{EQUALS}{path}"
    # Another hand writes the same with a colon and a full stop: learnable, yet not the model's own.
    other = f"{path[-1]}{START}{path}{BLANK}"
    return f"{entries}{START}{start}{num_hops}", response, other


def digest(text: str) -> int:
    """64 bits of `text` (Python's own `hash` differs from run to run)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
