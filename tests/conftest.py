"""Every test runs offline, on the CPU, on one thread."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

TESTS = Path(__file__).parent
# For functions that recipes name, here and in the processes that tests start.
sys.path.insert(0, str(TESTS / "helpers"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
LOCAL = {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails at once (the loopback stays open for gloo)."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            raise RuntimeError(f"a test tried to reach {address!r}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data."""
    from golden_set import GOLDEN

    return GOLDEN


@pytest.fixture(scope="session")
def random_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model of the toy family with the toy world's tokenizer, on disk."""
    from tabom.models.random_checkpoint import write_random_checkpoint
    from tabom.toyworld.tokenizer import build_tokenizer

    root = tmp_path_factory.mktemp("random-toy")
    build_tokenizer().save_pretrained(root / "tokenizer")
    return write_random_checkpoint(
        root / "model",
        family="toy",
        tokenizer_path=root / "tokenizer",
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        initializer_range=0.25,
    )


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_dream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny model in Dream's layout, on disk; its tokenizer knows every byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from tabom.models.random_checkpoint import write_random_checkpoint

    root = tmp_path_factory.mktemp("tiny-dream")
    vocabulary = {text: i for i, text in enumerate(bytes_to_unicode().values())}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {
        str(len(vocabulary) + i): {"content": text, "special": True, **flags}
        for i, text in enumerate(SPECIALS)
    }
    config = {
        "added_tokens_decoder": added,
        "tokenizer_class": "Qwen2Tokenizer",
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "unk_token": None,
    }
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    return write_random_checkpoint(
        root / "model",
        family="dream",
        tokenizer_path=root / "tokenizer",
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        initializer_range=0.25,
    )


ROWS = "tabom.toyworld.tasks:prompts"
RECIPE = """name: tiny
model: {{model_name_or_path: {model}}}
prompts: {{function: "{rows}", args: {{task: sort, split: train, num: 24}}}}
decoding: {{max_new_tokens: 16}}
verifier: {{type: accept_all}}
collection: {{batch_size: 8}}
training:
  learning_rate: 1e-3
  max_steps: 3
  per_device_train_batch_size: 8
  warmup_steps: 1
  logging_steps: 1
  save_strategy: "no"
arms:
  - {{name: No-SFT}}
  - {{name: TABOM, objective: tabom, options: {{window: 4}}}}
evaluation:
  batch_size: 8
  num_fields: 2
  sets:
    - name: sort
      role: in_domain
      tokens_per_step: [1, 4]
      verifier: {{type: function, function: "lenient:accept"}}
      prompts: {{function: "{rows}", args: {{task: sort, split: eval, num: 8}}}}
      metrics: {{premature_commit: "tabom.toyworld.diagnostics:premature_commit"}}
    - name: reverse
      role: out_of_domain
      verifier: {{type: function, function: "tabom.toyworld.tasks:check"}}
      prompts: {{function: "{rows}", args: {{task: reverse, split: eval, num: 8}}}}
diagnostics: {{num_trajectories: 4, mask_ratios: [0.5]}}
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path, random_toy: Path) -> Path:
    """A recipe that runs in seconds on the random toy model; it writes nowhere by itself."""
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=random_toy, rows=ROWS))
    return path
