"""Dream's tokenizer layout (vocab.json + merges.txt, a class that only remote code has)."""

import json
from pathlib import Path

from tabom.models.loading import load_model
from tabom.models.random_checkpoint import write_random_checkpoint

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    vocabulary = {text: i for i, text in enumerate([*letters, "ab"])}
    ids = {text: len(vocabulary) + i for i, text in enumerate(SPECIALS)}
    config = {
        "added_tokens_decoder": {
            str(i): {
                "content": text,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
                "special": True,
            }
            for text, i in ids.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "tokenizer_class": "DreamTokenizer",
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "unk_token": None,
    }
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization_dream.py").write_text("raise SystemExit('remote code was run')")


def test_the_published_layout_loads_without_its_code(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tok")
    folder = write_random_checkpoint(
        tmp_path / "model", family="dream", tokenizer_path=tmp_path / "tok", vocab_size=300
    )
    assert not (folder / "tokenization_dream.py").exists()
    model = load_model(folder)
    vocabulary = model.tokenizer.get_vocab()
    assert (model.vocab_size, len(model.tokenizer)) == (300, 261)
    assert model.ids.mask == vocabulary["<|mask|>"] == 260
    assert model.ids.eos == (vocabulary["<|endoftext|>"], vocabulary["<|im_end|>"])
    prompt = model.encode_prompt("ab é")
    assert vocabulary["ab"] in prompt
    text = "<|im_start|>user\nab é<|im_end|>\n<|im_start|>assistant\n"
    assert model.tokenizer.decode(prompt) == text
    answer = model.tokenizer.encode("x ab", add_special_tokens=False)
    assert model.decode_response([*answer, vocabulary["<|im_end|>"], *answer]) == "x ab"
    model.tokenizer.save_pretrained(tmp_path / "again")
    assert "auto_map" not in (tmp_path / "again" / "tokenizer_config.json").read_text()
