"""How many prompts a source gives and how long they are: measured where possible, else assumed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.collect.prompts import Prompt, PromptSource, load_prompts
from tabom.core.errors import DataError

NUM_MEASURED = 256
ASSUMED_TOKENS = 150  # a mathematics question with its chat template
CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 4, 20
# Rows of data sets as their pages give them, by name, configuration and split: a plan needs a
# number, not a download of five million rows.
PUBLISHED_ROWS: dict[tuple[str, str | None, str], int] = {
    ("horseee/MixChain-Z-PRM12K", None, "train"): 12_000,
    ("inclusionAI/Ling-Coder-SFT", None, "train"): 5_000_000,  # about
    ("openai/gsm8k", "main", "train"): 7_473,
    ("openai/gsm8k", "main", "test"): 1_319,
    ("HuggingFaceH4/MATH-500", None, "test"): 500,
    ("openai/openai_humaneval", None, "test"): 164,
    ("google-research-datasets/mbpp", None, "test"): 500,
    ("google-research-datasets/mbpp", "full", "test"): 500,
    ("google-research-datasets/mbpp", "sanitized", "test"): 257,
    ("google/IFEval", None, "train"): 541,
}


@dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """Prompts of one source.

    num_prompts: how many it gives. tokens: lengths of the first ones, or one assumed length.
    note: where the numbers come from.
    """

    num_prompts: int
    tokens: tuple[int, ...]
    note: str

    @property
    def mean(self) -> float:
        return sum(self.tokens) / len(self.tokens)

    @property
    def longest(self) -> int:
        return max(self.tokens)

    def padded_mean(self, batch_size: int, *, is_sorted: bool) -> float:
        """The mean length with the padding of batches: each is as long as its longest prompt."""
        tokens = sorted(self.tokens) if is_sorted else list(self.tokens)
        batches = [tokens[i : i + batch_size] for i in range(0, len(tokens), batch_size)]
        return sum(max(batch) * len(batch) for batch in batches) / len(tokens)


def prompt_lengths(
    source: PromptSource,
    *,
    seed: int,
    tokenizer: Any | None,
    prompt_tokens: int | None = None,
    num_prompts: int | None = None,
    what: str = "training prompts",
    flag: str = "--num_prompts",
) -> PromptLengths:
    """Read a source and measure its first prompts. Nothing is fetched: a data set is read from the
    local cache, or its published size is taken and an average length assumed.

    tokenizer: with the chat template, or None if it is not here. prompt_tokens, num_prompts: the
        user's own numbers, taken instead. what, flag: how errors call the source and num_prompts.
    Raises: DataError if the source cannot be read and no number of prompts stands in for it.
    """
    try:
        with _offline():
            prompts = load_prompts(source, seed=seed)
    except DataError as error:
        # Only a data set that has yet to be fetched may be missing when a run is planned.
        if source.dataset_name is None or Path(source.dataset_name).exists():
            raise DataError(f"{what}: {error}") from error
        count, how = _count_unseen(source, num_prompts)
        if count is None:
            raise DataError(
                f"{what}: the data set {source.dataset_name} is not on this machine, and its size "
                f"is not known here; say how many prompts it has: {flag}"
            ) from error
        guess = prompt_tokens or ASSUMED_TOKENS
        length = "as given" if prompt_tokens else "assumed"
        note = f"{guess} tokens, {length}; {how} ({source.dataset_name} is not on this machine)"
        return PromptLengths(num_prompts=count, tokens=(guess,), note=note)
    count = len(prompts) if num_prompts is None else num_prompts
    tokens: tuple[int, ...]
    if prompt_tokens is not None:
        tokens, how = (prompt_tokens,), "as given"
    elif tokenizer is not None:
        first = prompts[:NUM_MEASURED]
        tokens, how = tuple(_tokens(p, tokenizer) for p in first), f"measured on {len(first)}"
    else:
        texts = [len(p.text) for p in prompts[:NUM_MEASURED]]
        guess = round(sum(texts) / len(texts) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS
        tokens = (guess,)
        how = f"assumed: no tokenizer here, {CHARACTERS_PER_TOKEN} characters a token"
    mean = sum(tokens) / len(tokens)
    return PromptLengths(
        num_prompts=count, tokens=tokens, note=f"{mean:.0f} tokens with the template, {how}"
    )


def _tokens(prompt: Prompt, tokenizer: Any) -> int:
    messages: Sequence[dict[str, str]] = (
        [{"role": "user", "content": prompt.prompt}]
        if isinstance(prompt.prompt, str)
        else prompt.prompt
    )
    return len(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


def _count_unseen(source: PromptSource, num_prompts: int | None) -> tuple[int | None, str]:
    """How many prompts a data set gives that cannot be read, and where the number is from."""
    if num_prompts is not None:
        return num_prompts, "number as given"
    assert source.dataset_name is not None
    rows = PUBLISHED_ROWS.get((source.dataset_name, source.dataset_config, source.dataset_split))
    if rows is None:
        return source.limit, "number from prompts.limit"
    left = max(rows - source.offset, 0)
    return min(left, source.limit or left), "assumed size"


@contextmanager
def _offline() -> Iterator[None]:
    """No request to the hub: each would be tried six times before it fails."""
    import datasets
    from huggingface_hub import constants

    places = [(constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)
