"""Does an evaluation prompt occur in the training prompts? Counted before anything is trained.

Two prompts are the same if they are equal but for case, spacing and a stop at the end. They
overlap if they share a run of 13 words, or for an evaluation prompt of fewer words, a run of 30
characters, punctuation left out. A run found in more than ten training prompts is an instruction
that many share, and does not count.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NUM_WORDS = 13
NUM_CHARACTERS = 30
MAX_SHARED = 10  # training prompts with the same run; above it is boilerplate
_WORD = re.compile(r"\w+|[-+*/=<>^%]")  # with operators: "3 + 4" is not "3 - 4"


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What one evaluation set shares with the training prompts.

    exact, near: positions (evaluation, training) of equal and of overlapping prompts, the first
    training prompt for each evaluation prompt; one that is exact is not near as well.
    """

    name: str
    num_evaluation: int
    num_training: int
    exact: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int], ...]

    @property
    def num_found(self) -> int:
        return len(self.exact) + len(self.near)

    def describe(self) -> str:
        """One sentence with the counts."""
        start = f"Held-out check: of the {self.num_evaluation} prompts of {self.name}, "
        how = (
            f"the {self.num_training} training prompts (equal, or a run of {NUM_WORDS} words or "
            f"{NUM_CHARACTERS} characters)."
        )
        if not self.num_found:
            return f"{start}none occurs in {how}"
        pairs = sorted(self.exact + self.near)
        return (
            f"{start}{len(self.exact)} occur and {len(self.near)} more overlap with one in {how} "
            f"First: evaluation row {pairs[0][0]}, training row {pairs[0][1]}."
        )


def find_overlap(training: Sequence[str], evaluation: Sequence[str], *, name: str) -> Overlap:
    """Compare evaluation prompts with training prompts.

    training, evaluation: the prompts' texts, without a template. name: of the evaluation set.
    """
    # Evaluation sets are small, so theirs are the keys that training prompts are looked up in.
    by_text: dict[str, list[int]] = defaultdict(list)
    by_run: dict[str, list[int]] = defaultdict(list)
    has_short = False
    for i, text in enumerate(map(normalise, evaluation)):
        by_text[text].append(i)
        words = words_of(text)
        is_short = len(words) < NUM_WORDS
        has_short |= is_short
        for run in _character_runs(words) if is_short else _word_runs(words):
            by_run[run].append(i)
    exact: dict[int, int] = {}
    seen: dict[str, list[int]] = defaultdict(list)  # run -> training prompts that have it
    for j, text in enumerate(map(normalise, training)):
        for i in by_text.get(text, ()):
            exact.setdefault(i, j)
        words = words_of(text)
        # Character runs are many, and made only if some evaluation prompt is too short for words.
        runs = _word_runs(words) | (_character_runs(words) if has_short else set())
        for run in runs & by_run.keys():
            if len(seen[run]) <= MAX_SHARED:
                seen[run].append(j)
    near: dict[int, int] = {}
    # A run that many training prompts share is an instruction, and says nothing of a leak.
    for run, rows in seen.items():
        for i in by_run[run] if len(rows) <= MAX_SHARED else ():
            if i not in exact:
                near[i] = min(rows[0], near.get(i, rows[0]))
    return Overlap(
        name=name,
        num_evaluation=len(evaluation),
        num_training=len(training),
        exact=tuple(sorted(exact.items())),
        near=tuple(sorted(near.items())),
    )


def normalise(text: str) -> str:
    """Lower case, one space where there was any, no stop at the end; letters alike in Unicode."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!:")


def words_of(text: str) -> list[str]:
    """The words and operators of a normalised text; other punctuation is left out."""
    return _WORD.findall(text)


def _word_runs(words: Sequence[str]) -> set[str]:
    return {" ".join(words[i : i + NUM_WORDS]) for i in range(len(words) - NUM_WORDS + 1)}


def _character_runs(words: Sequence[str]) -> set[str]:
    text = " ".join(words)
    return {text[i : i + NUM_CHARACTERS] for i in range(len(text) - NUM_CHARACTERS + 1)}
