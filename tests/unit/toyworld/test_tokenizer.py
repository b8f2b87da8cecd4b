"""The tokenizer: ids, round trips, the chat template, and no silent unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tabom.toyworld.alphabet import CHARACTERS, NUM_SLOTS, POINTERS
from tabom.toyworld.tasks import DOMAINS, prompts
from tabom.toyworld.tokenizer import (
    ASSISTANT,
    EOS,
    MASK,
    PAD,
    SPECIAL_TOKENS,
    USER,
    build_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_specials_are_distinct_and_set(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == len(SPECIAL_TOKENS) + len(CHARACTERS) + len(POINTERS)
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.mask_token) == (PAD, EOS, MASK)
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(SPECIAL_TOKENS)))


@pytest.mark.parametrize("task", DOMAINS)
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, task: str) -> None:
    for row in prompts(task=task, split="eval", seed=0, num=30):
        for field in ("prompt", "reference", "ground_truth"):
            ids = tokenizer.encode(row[field])
            assert tokenizer.decode(ids, skip_special_tokens=True) == row[field]
        # One token a slot: what a step reveals is one character.
        assert len(tokenizer.encode(row["reference"])) == len(row["reference"]) <= NUM_SLOTS
        assert len(tokenizer.encode(row["ground_truth"])) == len(row["ground_truth"]) <= NUM_SLOTS


def test_entry_of_a_map_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("AcBaCb:a2") == ["Ac", "Ba", "Cb", ":", "a", "2"]


def test_template_renders_what_the_base_was_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    user = {"role": "user", "content": "<abc"}
    text = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    assert text == f"{USER}<abc{ASSISTANT}"
    answered = [user, {"role": "assistant", "content": "cba"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == f"{text}cba{EOS}"
    with pytest.raises(Exception, match="users and assistants only"):
        tokenizer.apply_chat_template([{"role": "system", "content": "a"}], tokenize=False)


def test_unknown_character_is_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("xyz")


def test_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.mask_token_id == tokenizer.mask_token_id
    assert again.chat_template == tokenizer.chat_template
