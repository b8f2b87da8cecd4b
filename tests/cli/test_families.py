"""Every family through the whole path: collect, verify, train, evaluate, diagnose, report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tabom.cli.main import main
from tabom.models.adapters import attach_lora, save_adapter
from tabom.models.loading import load_model
from tabom.models.random_checkpoint import write_random_checkpoint
from tabom.toyworld.alphabet import CHARACTERS

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
SPECIALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|mask|>")  # the last ids but one
RECIPE = """name: {family}
model: {{model_name_or_path: {model}, adapter: {adapter}}}
prompts: {{function: "tabom.toyworld.tasks:prompts", args: {{task: sort, split: train, num: 8}}}}
decoding: {decoding}
verifier: {{type: function, function: "lenient:accept"}}
collection: {{batch_size: 8}}
training:
  learning_rate: 1e-2
  max_steps: 2
  per_device_train_batch_size: 4
  warmup_steps: 0
  save_strategy: "no"
  lora_r: 4
arms:
  - {{name: No-SFT}}
  - {{name: TABOM, objective: tabom, options: {{window: 4}}}}
evaluation:
  batch_size: 8
  num_fields: 2
  sets:
    - name: sort
      role: in_domain
      prompts:
        function: "tabom.toyworld.tasks:prompts"
        args: {{task: sort, split: eval, num: 4}}
      verifier: {{type: function, function: "tabom.toyworld.tasks:check"}}
diagnostics: {{num_trajectories: 2, mask_ratios: [0.5]}}
"""


def characters(vocab_size: int) -> list[str]:
    """The ids below the specials: what the tasks are written in, then any other letters."""
    letters = [*CHARACTERS, *(c for c in bytes_to_unicode().values() if c not in CHARACTERS)]
    return letters[: vocab_size - len(SPECIALS) - 1]


def qwen_tokenizer(folder: Path, vocab_size: int) -> None:
    """Dream's and SDAR's layout: vocab.json and merges.txt, and a class that only they have."""
    letters = characters(vocab_size)
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    config = {
        "added_tokens_decoder": {
            str(len(letters) + i): {"content": text, "special": True, **flags}
            for i, text in enumerate(SPECIALS)
        },
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "tokenizer_class": "DreamTokenizer",
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def fast_tokenizer(folder: Path, vocab_size: int) -> None:
    """LLaDA's layout: tokenizer.json, which names no mask token."""
    words = [*characters(vocab_size), *SPECIALS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


@pytest.fixture
def model_of(golden: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A tiny checkpoint in the published layout, with a tokenizer of its size."""

    def make(family: str) -> Path:
        folder = tmp_path / "model"
        if family == "sdar":
            write_random_checkpoint(folder, family=family, vocab_size=97, initializer_range=0.25)
            config = json.loads((folder / "config.json").read_text())
        else:
            shutil.copytree(golden / f"{family}-tiny", folder)
            config = json.loads((folder / "config.json").read_text())
        write = fast_tokenizer if family.startswith("llada") else qwen_tokenizer
        write(folder, config["vocab_size"])
        return folder

    return make


def base_adapter(model_folder: Path, folder: Path) -> Path:
    """An adapter as trained on the published code: its names, r 16, q and v."""
    model = load_model(model_folder)
    attach_lora(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    save_adapter(model, folder, official=True)
    return folder


CASES: dict[str, dict[str, Any]] = {
    "dream": {"max_new_tokens": 8},
    "llada": {"max_new_tokens": 8, "policy": "confidence", "block_length": 4},
    "sdar": {"max_new_tokens": 10, "policy": "confidence"},
    "llada2": {"max_new_tokens": 12, "policy": "confidence"},
    "lladamoe": {"max_new_tokens": 8, "policy": "confidence", "block_length": 4},
    "rnd1": {"max_new_tokens": 8},
}


@pytest.mark.parametrize("family", list(CASES))
def test_prompts_to_report(
    family: str,
    model_of: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, num_slots = model_of(family), CASES[family]["max_new_tokens"]
    # LLaDA goes with an adapter in its base: every stage must carry it.
    adapter = base_adapter(model, tmp_path / "adapter") if family == "llada" else "null"
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(
        RECIPE.format(
            family=family, model=model, adapter=adapter, decoding=json.dumps(CASES[family])
        )
    )
    assert main(["run", str(recipe), "--output_dir", str(out), "--quiet"]) == 0
    assert (out / "report.html").is_file()
    (trained,) = out.rglob("adapter_model.safetensors")
    moved = [t.abs().max() for k, t in load_file(trained).items() if ".lora_B." in k]
    assert moved
    assert min(moved) > 0
    (shard,) = (p for p in out.rglob("data/*.parquet") if "collect" in str(p))
    rows = pq.read_table(shard).to_pylist()
    assert len(rows) == 8
    for row in rows:
        steps = row["step"]
        assert sorted(steps) == list(range(num_slots))
        if family == "llada":
            assert max(steps[:4]) < min(steps[4:])
    if adapter != "null":
        # What the base answers is what base and adapter answer, and not what the base alone does.
        plain = tmp_path / "plain"
        assert main(["collect", "--config", str(recipe), "--output_dir", str(plain), "--quiet",
                     "--set", "model.adapter=null"]) == 0  # fmt: skip
        (other,) = plain.rglob("data/*.parquet")
        found = {row["id"]: row["response_ids"] for row in pq.read_table(other).to_pylist()}
        assert found.keys() == {row["id"] for row in rows}
        assert any(found[row["id"]] != row["response_ids"] for row in rows)


def test_the_official_schedule_is_collected(
    model_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--prompts_function", "tabom.toyworld.tasks:prompts", "--prompts_args",
            "{task: sort, split: train, num: 3}"]  # fmt: skip
    assert main(["collect", "--model_name_or_path", str(model_of("dream")), *rows, "--quiet",
                 "--schedule", "official", "--policy", "topk_margin", "--max_new_tokens", "6",
                 "--output_dir", str(tmp_path / "c")]) == 0  # fmt: skip
    assert "forwards: 18" in capsys.readouterr().out
    (shard,) = (tmp_path / "c").rglob("data/*.parquet")
    for row in pq.read_table(shard).to_pylist():
        assert sorted(row["step"]) == [1, 2, 3, 4, 5, 5]


def test_approximate_is_a_flag_and_another_fingerprint(
    model_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["collect", "--model_name_or_path", str(model_of("llada")), "--prompts_function",
               "tabom.toyworld.tasks:prompts", "--prompts_args",
               "{task: sort, split: train, num: 2}", "--quiet", "--block_length", "4",
               "--max_new_tokens", "8", "--output_dir", str(tmp_path / "c")]  # fmt: skip
    assert main(command) == 0
    assert main([*command, "--approximate", "dual"]) == 2
    assert "decoding.approximate" in capsys.readouterr().err
