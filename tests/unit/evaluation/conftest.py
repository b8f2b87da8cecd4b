"""Local documents, and a random tiny model of the toy family."""

import json
from pathlib import Path
from typing import Any

import pytest

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": f"Ann has {n} pens and buys {n} more. How many?", "answer": f"x\n#### {2 * n}"}
        for n in (2, 11, 345)
    ],
    "math500": [{"problem": f"What is ${n}^2$?", "answer": str(n * n)} for n in (2, 3)],
    "humaneval": [
        {
            "task_id": f"Own/{name}",
            "prompt": f'def {name}(a, b):\n    """Gives {name} of a and b."""\n',
            "test": f"def check(candidate):\n    assert candidate(1, 2) == {value}\n",
            "entry_point": name,
        }
        for name, value in (("plus", 3), ("minus", -1))
    ],
    "mbpp": [
        {
            "task_id": 1,
            "text": "Write a function twice that doubles a number.",
            "test_list": ["assert twice(1) == 2", "assert twice(0) == 0", "assert twice(-2) == -4"],
        },
        {
            "task_id": 2,
            "text": "Write a function last that gives the last item.",
            "test_list": ["assert last([1]) == 1", "assert last([1, 2]) == 2"],
        },
    ],
    "ifeval": [
        {
            "key": 1,
            "prompt": "Tell a tale without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
        {
            "key": 2,
            "prompt": "Write at least three words, and the word sun.",
            "instruction_id_list": ["length_constraints:number_words", "keywords:existence"],
            "kwargs": [{"relation": "at least", "num_words": 3}, {"keywords": ["sun"]}],
        },
    ],
}


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few invented rows for each of the five tasks, in the columns of the data sets."""
    folder = tmp_path_factory.mktemp("documents")
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="session")
def model() -> Any:
    """A random model of the toy family, in memory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tabom.models.contract import MaskedDiffusionModel
    from tabom.models.family import Family
    from tabom.models.ids import TokenIds
    from tabom.toyworld.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        is_causal=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LlamaForCausalLM(config)
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    end = tokenizer.eos_token_id
    ids = TokenIds(
        mask=tokenizer.mask_token_id,
        pad=tokenizer.pad_token_id,
        eos=(end,),
        filler=end,
        sources={},
    )
    family = Family(name="toy", alignment="identity")
    return MaskedDiffusionModel(
        lm, family=family, ids=ids, tokenizer=tokenizer, name_or_path="test"
    )


@pytest.fixture(scope="session")
def requests(model: Any) -> Any:
    """Five questions of two tasks of the toy world."""
    from tabom.evaluation.benchmark import Question
    from tabom.toyworld.tasks import prompts

    rows = [
        *prompts(task="chain", split="eval", seed=0, num=3),
        *prompts(task="sort", split="eval", seed=0, num=2),
    ]
    return [
        Question(
            id=row["id"],
            document=row["id"],
            prompt_ids=model.encode_prompt(row["prompt"]),
            prompt=row["prompt"],
            task=row["task"],
            reference=row["reference"],
            row={k: v for k, v in row.items() if k != "prompt"},
        )
        for row in rows
    ]
