"""How many prompts a source gives and how long they are: measured where possible, else assumed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabom.collect.prompts import Prompt, PromptSource, load_prompts
from tabom.core.errors import DataError

NUM_MEASURED = 256
ASSUMED_TOKENS = 150  # a mathematics question with its chat template
CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 4, 20


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
) -> PromptLengths:
    """Read a source and measure its first prompts.

    tokenizer: with the chat template, or None if it is not here. prompt_tokens, num_prompts: the
        user's own numbers, taken instead.
    Raises: DataError if the source cannot be read and num_prompts does not stand in for it.
    """
    try:
        prompts = load_prompts(source, seed=seed)
    except DataError as error:
        # Only a data set that has yet to be fetched may be missing when a run is planned.
        count = source.limit if num_prompts is None else num_prompts
        if source.dataset_name is None:
            raise
        if count is None:
            raise DataError(
                f"{error}\nTo plan without the data set, say how many prompts it has: --num_prompts"
            ) from error
        guess = prompt_tokens or ASSUMED_TOKENS
        note = f"{guess} tokens, assumed: the data set is not here"
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
