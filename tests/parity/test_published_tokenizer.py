"""Dream's published tokenizer: ids, template, round trip, without its code.

Opt-in: the files are not in the repository. TABOM_DREAM_TOKENIZER names their folder, or an archive
(.tar.gz) of it.
"""

import itertools
import json
import os
import tarfile
from pathlib import Path

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.models.random_checkpoint import write_random_checkpoint

VARIABLE = "TABOM_DREAM_TOKENIZER"
TEXTS = [
    "Hello, world!",
    "def f(x):\n\treturn x  ** 2\n\n\n",
    "  12345 apples — naïve café, 数学 и 🎲",
    "a <|im_start|>b<|mask|><|endoftext|>",
    "",
]

pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"{VARIABLE} names no tokenizer of Dream"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = Path(os.environ[VARIABLE])
    if given.is_dir():
        return given
    target = tmp_path_factory.mktemp("dream-tokenizer")
    with tarfile.open(given) as archive:
        archive.extractall(target, filter="data")
    return next(target.rglob("vocab.json")).parent


@pytest.fixture(scope="module")
def model(files: Path, tmp_path_factory: pytest.TempPathFactory) -> MaskedDiffusionModel:
    """A narrow random network behind the real tokenizer, with the published 152,064 rows."""
    folder = tmp_path_factory.mktemp("dream") / "model"
    write_random_checkpoint(
        folder, family="dream", tokenizer_path=files, hidden_size=8, intermediate_size=8,
        num_heads=2, num_kv_heads=1,
    )  # fmt: skip
    (folder / "tokenization_dream.py").write_text("raise SystemExit('remote code was run')")
    return load_model(folder, device="cpu")


def test_special_ids(model: MaskedDiffusionModel) -> None:
    assert model.vocab_size == 152064
    assert (model.ids.mask, model.ids.pad, model.ids.filler) == (151666, 151643, 151643)
    assert set(model.ids.eos) == {151643, 151645}
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
    ids = [151643, 151644, 151645, 151665, 151666]
    assert model.tokenizer.convert_tokens_to_ids(names) == ids


def test_a_prompt_in_the_chat_template(model: MaskedDiffusionModel) -> None:
    system = [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]
    user = [151644, 872, 198, 9707, 11, 1879, 0, 151645, 198]
    assert list(model.encode_prompt("Hello, world!")) == [*system, *user, 151644, 77091, 198]
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello, world!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.tokenizer.decode(model.encode_prompt("Hello, world!")) == text


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text: str, model: MaskedDiffusionModel) -> None:
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    assert model.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    if "<|mask|>" in text:
        assert {151644, 151666, 151643} <= set(ids)


def test_words_are_those_of_the_merges(files: Path, model: MaskedDiffusionModel) -> None:
    """Byte pair encoding by hand: the earliest rule first, until none applies."""
    vocabulary = json.loads((files / "vocab.json").read_text(encoding="utf-8"))
    lines = (files / "merges.txt").read_text(encoding="utf-8").splitlines()
    rank = {tuple(line.split()): i for i, line in enumerate(lines) if not line.startswith("#ver")}
    letters = bytes_to_unicode()
    for word in ("tokenization", "Übermut", "зонтик", "数学", "unmasking", "🎲", "qzxjk"):
        parts = [letters[b] for b in word.encode()]
        while True:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda p: rank.get(p, len(rank) + 1), default=None)
            if best is None or best not in rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
        expected = [vocabulary[part] for part in parts]
        assert model.tokenizer.encode(word, add_special_tokens=False) == expected


def test_a_response_ends_at_either_end(model: MaskedDiffusionModel) -> None:
    answer = model.tokenizer.encode("42 ✓", add_special_tokens=False)
    for end in (151643, 151645):
        assert model.decode_response([*answer, end, *answer]) == "42 ✓"


def test_saving_hands_on_no_code(model: MaskedDiffusionModel, tmp_path: Path) -> None:
    model.tokenizer.save_pretrained(tmp_path)
    assert "auto_map" not in (tmp_path / "tokenizer_config.json").read_text()
    again = type(model.tokenizer).from_pretrained(tmp_path)
    for text in TEXTS:
        assert again.encode(text) == model.tokenizer.encode(text)
    assert again.chat_template == model.tokenizer.chat_template
