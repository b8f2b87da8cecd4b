"""Special ids are read from files alone, and are those that transformers' tokenizers say."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.core.errors import ModelError
from tabom.models.checkpoint import Checkpoint, load_ids
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.families import get_family
from tabom.models.folders import resolve_folder
from tabom.models.ids import read_tokenizer_facts, resolve_ids
from tabom.models.loading import load_model

HEAVY = "[m for m in ('torch', 'transformers', 'numpy', 'pyarrow') if m in sys.modules]"


def test_reading_ids_imports_nothing_heavy() -> None:
    code = (
        "import sys; import tabom.models.checkpoint as ids; found = ids.load_ids('toy-base'); "
        f"print(found.mask, found.eos, {HEAVY})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 (1,) []"


@pytest.mark.parametrize("name", ["toy-base", "toy-hasty"])
def test_packaged_models(name: str) -> None:
    assert load_ids(name) == load_model(name, device="cpu").ids


def write_vocabulary(folder: Path, *, is_added: bool) -> None:
    """Dream's layout: vocab.json, merges.txt, special tokens in one of two files."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate("abcd")}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    mask = {"__type": "AddedToken", "content": "<|mask|>", **flags}
    names = {"eos_token": "<|endoftext|>", "mask_token": mask}
    entries = {
        str(4 + i): {"content": text, "special": True, **flags} for i, text in enumerate(specials)
    }
    if is_added:
        (folder / "added_tokens.json").write_text(
            json.dumps({text: 4 + i for i, text in enumerate(specials)})
        )
    config = {**names, "added_tokens_decoder": entries}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_fast(folder: Path, *, is_added: bool) -> None:
    words = [*"abcd", "<|endoftext|>", "<|eot_id|>", "<|mdm_mask|>"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True) for word in words[4:]])
    options = {"mask_token": "<|mdm_mask|>"} if is_added else {}
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>", **options
    ).save_pretrained(folder)


@pytest.mark.parametrize("is_added", [True, False])
@pytest.mark.parametrize(
    ("family", "write"), [("dream", write_vocabulary), ("sdar", write_vocabulary),
                          ("llada", write_fast), ("toy", write_fast)]
)  # fmt: skip
def test_facts_are_those_of_transformers(
    family: str, write: Callable[..., None], is_added: bool, tmp_path: Path
) -> None:
    write(tmp_path, is_added=is_added)
    row = get_family(family)
    facts = read_tokenizer_facts(tmp_path, family=row)
    assert facts is not None
    tokenizer = Checkpoint(folder=tmp_path, config={}, family=row).tokenizer()
    for name in ("mask_token", "eos_token", "pad_token"):
        assert facts.id_of(name) == getattr(tokenizer, f"{name}_id"), name
    assert facts.vocabulary == tokenizer.get_vocab()
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    assert facts.added == added


def test_what_a_trained_answer_ends_with(tmp_path: Path) -> None:
    """SDAR's training closes a turn; Dream's and LLaDA's published fine-tuning writes the EOS."""
    write_vocabulary(tmp_path, is_added=False)
    ends = {}
    for name in ("dream", "sdar"):
        row = get_family(name)
        facts = read_tokenizer_facts(tmp_path, family=row)
        ends[name] = resolve_ids({}, family=row, tokenizer=facts)
    assert ends["dream"].end == ends["dream"].filler == 4
    assert ends["sdar"].end == 6  # <|im_end|>
    assert ends["sdar"].end in ends["sdar"].eos
    assert load_ids("toy-base").end == 1


def test_a_prompt_that_holds_a_special_token(random_toy: Path) -> None:
    model: MaskedDiffusionModel = load_model(random_toy, device="cpu")
    assert model.special_text_in("a <mask> b") == "<mask>"
    assert model.special_text_in("a mask b") is None
    # It stays a text, and letters alone have tokens here: never the id of the special token.
    with pytest.raises(ModelError, match="does not take this prompt: 'abc <mask>'"):
        model.encode_prompt("abc <mask>")
    with pytest.raises(ModelError, match="does not take this prompt: '<eos>'"):
        model.encode_prompt(
            [{"role": "user", "content": "a"}, {"role": "user", "content": "<eos>"}]
        )


@pytest.mark.parametrize(
    "change",
    [
        {"added_tokens_decoder": {"four": {"content": "<|mask|>"}}},
        {"added_tokens_decoder": {"4": {"text": "<|mask|>"}}},
        {"added_tokens_decoder": ["<|mask|>"]},
        {"eos_token": {"text": "<|endoftext|>"}},
    ],
)
def test_broken_files_are_named(change: dict[str, object], tmp_path: Path) -> None:
    write_vocabulary(tmp_path, is_added=False)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match="tokenizer's JSON files are broken"):
        read_tokenizer_facts(tmp_path, family=get_family("dream"))


def test_the_folder_without_weights_is_enough(tmp_path: Path) -> None:
    source = resolve_folder("toy-base")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    assert load_ids(tmp_path) == load_ids("toy-base")
