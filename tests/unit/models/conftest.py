from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.models.random_checkpoint import write_random_checkpoint

SPECIALS = ["<pad>", "<eos>", "<mask>", "<user>", "<assistant>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character tokenizer in the tokenizer.json layout: 6 specials, then a-z and 0-9."""
    words = SPECIALS + list("abcdefghijklmnopqrstuvwxyz0123456789")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        chat_template=TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a random checkpoint whose predictions are distinct; a keyword overrides a size."""

    def write(family: str = "toy", name: str = "model", **sizes: Any) -> Path:
        if "tokenizer_path" not in sizes:
            sizes.setdefault("vocab_size", 41)
        return write_random_checkpoint(
            tmp_path / name, family=family, **{"initializer_range": 0.25, "seed": 3, **sizes}
        )

    return write
