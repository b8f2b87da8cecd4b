"""`tabom doctor` and `tabom plan`: tables, JSON, exit statuses, and a plan that a run follows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tabom.cli.main import main
from tabom.models import loading
from tabom.trajectory.store import TrajectoryStore

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: Any, status: int = 0) -> str:
    capsys.readouterr()
    try:
        found = main([str(a) for a in arguments])
    except SystemExit as stop:  # a flag whose value its type does not hold
        found = stop.code  # type: ignore[assignment]
    assert found == status
    captured = capsys.readouterr()
    if status == 2:
        assert captured.out == ""
        return captured.err
    return captured.out


@pytest.fixture
def config_folder(tmp_path: Path, random_toy: Path) -> Path:
    """A checkpoint without its weights."""
    folder = tmp_path / "config-only"
    folder.mkdir()
    shutil.copy(random_toy / "config.json", folder)
    return folder


# ---- doctor ----


def test_a_sound_model_passes(random_toy: Path, capsys: Capture) -> None:
    text = run(capsys, "doctor", random_toy, "--device_name", "h200")
    for word in ("bidirectional", "chat_template", "decoding", "config.json mask_token_id"):
        assert word in text
    assert "FAILED" not in text
    assert "checks passed" in text
    assert "estimated on H200 (140.4 GiB, 1 kept free), bfloat16" in text
    assert "<assistant>" in text  # the rendered template
    assert "torch 2" in text
    assert "measured: one call of 1 x 64 tokens" in text


def test_doctor_as_json(random_toy: Path, capsys: Capture) -> None:
    found = json.loads(run(capsys, "doctor", random_toy, "--json", "--prompt", "abc"))
    assert found["template"] == {
        "prompt": "abc",
        "rendered": "<user>abc<assistant>",
        "num_tokens": 5,
    }
    assert {c["name"]: c["passed"] for c in found["checks"]}["rope"] is True
    mask = found["special_tokens"][0]
    assert (mask["role"], mask["text"]) == ("mask", "<mask>")
    assert found["model"]["alignment"] == "identity"
    (estimate,) = found["estimates"]
    assert estimate["device"]["is_gpu"] is False
    assert all(use["fits"] for use in estimate["uses"])
    assert found["sizes"]["num_layers"] == 2


def test_a_causal_model_fails_with_status_one(
    random_toy: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading.load_lm

    def causal(*args: Any, **kwargs: Any) -> Any:
        lm = load(*args, **kwargs)
        lm.config.is_causal = True
        return lm

    monkeypatch.setattr(loading, "load_lm", causal)
    text = run(capsys, "doctor", random_toy, status=1)
    assert "attention is causal" in text
    assert "FAILED: bidirectional" in text.rstrip().splitlines()[-1]


def test_a_folder_without_a_tokenizer_and_a_prompt_it_does_not_know(
    random_toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(random_toy / name, bare)
    text = run(capsys, "doctor", bare, status=1)
    assert text.rstrip().endswith("FAILED: tokenizer")
    text = run(capsys, "doctor", random_toy, "--prompt", "\u4e2d", status=1)
    assert text.rstrip().endswith("FAILED: chat_template")
    assert "does not take this prompt" in text


def test_an_adapter_that_changes_nothing_fails(
    random_toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    import torch

    from tabom.models.adapters import attach_lora, save_adapter
    from tabom.models.loading import load_model

    model = load_model(random_toy, device="cpu")
    attach_lora(model, r=2)
    save_adapter(model, tmp_path / "fresh")
    text = run(capsys, "doctor", random_toy, "--adapter", tmp_path / "fresh", status=1)
    assert "4 adapted modules, 4 of them change nothing" in text
    for name, parameter in model.lm.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.ones_(parameter)
    save_adapter(model, tmp_path / "used")
    assert "4 adapted modules" in run(capsys, "doctor", random_toy, "--adapter", tmp_path / "used")


def test_config_only_needs_no_weights(
    config_folder: Path, random_toy: Path, capsys: Capture
) -> None:
    assert "--config_only" in run(capsys, "doctor", config_folder, status=2)
    found = json.loads(run(capsys, "doctor", config_folder, "--config_only", "--json"))
    whole = json.loads(run(capsys, "doctor", random_toy, "--json"))
    for one in (found, whole):
        del one["sizes"]["source"]
    assert found["sizes"] == whole["sizes"]
    assert found["checks"] == []


def test_a_published_model_on_named_devices(capsys: Capture) -> None:
    """A Dream-7B: LoRA training fits a 24 GiB card with checkpointing at a batch of 8, else not."""
    found = json.loads(
        run(capsys, "doctor", "Dream-org/Dream-v0-Instruct-7B", "--config_only", "--json",
            "--device_name", "RTX 4090", "--per_device_train_batch_size", 8)
    )  # fmt: skip
    estimate = found["estimates"][1]
    uses = {use["use"]: use for use in estimate["uses"]}
    assert estimate["device"]["name"] == "RTX 4090"
    assert [use["fits"] for use in estimate["uses"][:3]] == [True, False, True]
    # 15.2 GB of bfloat16 weights.
    assert uses["decode"]["weights_bytes"] == 2 * 7_615_616_512
    assert 10 < uses["train LoRA, checkpointing"]["largest_batch"] < 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device_name", "H900"], "is none of B200"),
        (["--batch_size", 0], "--batch_size must be at least 1"),
        (["--config_only", "--adapter", "x"], "--adapter has no meaning"),
        (["--adapter", "nowhere"], "nowhere"),
    ],
)
def test_doctor_refuses(
    arguments: list[Any], words: str, random_toy: Path, capsys: Capture
) -> None:
    assert words in run(capsys, "doctor", random_toy, *arguments, status=2)


# ---- plan ----


def plan(capsys: Capture, recipe: Path, out: Path, *arguments: Any) -> dict[str, Any]:
    text = run(capsys, "plan", recipe, "--output_dir", out, "--json", *arguments)
    found: dict[str, Any] = json.loads(text)
    return {**found, "by": {stage["label"]: stage for stage in found["stages"]}}


def test_a_plan_says_what_a_run_then_does(
    tiny_recipe: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    before = plan(capsys, tiny_recipe, out)
    assert not out.exists()
    assert [s["is_complete"] for s in before["stages"]] == [False] * 7
    collect = before["by"]["seed 0 collect"]
    run(capsys, "run", tiny_recipe, "--output_dir", out, "--quiet")
    store = TrajectoryStore(out / "seed-0" / "collect")
    assert collect["forwards"] == sum(t.num_forwards for t in store)
    assert collect["num_items"] == 24
    assert collect["forwards"] == 24 * 16
    train = before["by"]["seed 0 train TABOM"]
    assert train["num_items"] == 24
    assert train["forwards"] == 3 * 8
    evaluate = before["by"]["base evaluate No-SFT"]
    assert evaluate["num_items"] == 24
    assert evaluate["forwards"] == 8 * (16 + 4 + 16)
    after = plan(capsys, tiny_recipe, out)
    assert all(stage["is_complete"] for stage in after["stages"])
    assert set(after["total"].values()) == {0}
    text = run(capsys, "plan", tiny_recipe, "--output_dir", out)
    assert "7 stages, 7 complete" in text
    # Another recipe's folder is refused, as a run would refuse it.
    err = run(capsys, "plan", tiny_recipe, "--output_dir", out, "--set", "decoding.policy=margin",
              status=2)  # fmt: skip
    assert "another recipe" in err


def test_accepted_trajectories_are_counted_once_judged(
    tiny_recipe: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    options = ["--acceptance_rate", 0.5]
    assert plan(capsys, tiny_recipe, out, *options)["by"]["seed 0 train TABOM"]["num_items"] == 12
    common = ["--config", tiny_recipe, "--quiet"]
    seed = out / "seed-0"
    run(capsys, "collect", *common, "--output_dir", seed / "collect")
    run(capsys, "verify", *common, "--trajectories", seed / "collect", "--output_dir",
        seed / "verify")  # fmt: skip
    found = plan(capsys, tiny_recipe, out, *options)
    assert found["by"]["seed 0 collect"]["is_complete"]
    assert found["by"]["seed 0 train TABOM"]["num_items"] == 24
    assert any("judged already" in note for note in found["assumptions"])


def test_a_plan_prints_what_it_takes_for_granted(
    tiny_recipe: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    text = run(capsys, "plan", tiny_recipe, "--output_dir", out, "--device_name", "H200")
    assert "989 TFLOP/s (the vendor's figure), of which the run reaches 40 % (--mfu" in text
    assert "measured on 24" in text
    assert "100 % of the trajectories are accepted (accept_all" in text
    assert "WARNING" not in text
    # A model that is not here, and does not fit either.
    text = run(
        capsys, "plan", tiny_recipe, "--output_dir", out, "--device_name", "L4",
        "--set", "model.model_name_or_path=Dream-org/Dream-v0-Instruct-7B",
        "--set", "training.per_device_train_batch_size=16", "--set", "verifier.type=exact",
        "--set", "decoding.max_new_tokens=256",
    )  # fmt: skip
    assert "sizes: as published" in text
    assert "24 of 150 tokens, assumed" in text
    assert "40 % of the trajectories are accepted (assumed" in text
    assert "WARNING" in text
    assert "per_device_train_batch_size" in text


PUBLISHED = ("dream_prm12k", "dream_ling_coder", "llada_prm12k", "llada_ling_coder")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is asked of the hub fails the test; a model's config is not there."""
    import datasets
    import huggingface_hub

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a plan fetches {args}")

    def snapshot_download(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


@pytest.mark.parametrize(
    "name", [*(n + f for n in PUBLISHED for f in ("", "-release")), "llada2_prm12k"]
)
@pytest.mark.usefixtures("no_hub")
def test_a_published_recipe_is_planned_without_the_hub(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    options = ["--device_name", "H200", "--set", "prompts.limit=12000"]
    found = plan(capsys, Path(name), tmp_path / "out", *options)
    assert found["by"]["seed 0 collect"]["num_items"] == 12_000
    assert found["by"]["seed 0 collect"]["forwards"] == 12_000 * 256
    assert found["by"]["base evaluate No-SFT"]["num_items"] > 1000
    assert found["total"]["seconds"] > 1800
    notes = " ".join(found["assumptions"])
    assert "prompts of set GSM8K: " in notes
    assert "150 tokens, assumed" in notes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mfu", 0], "--mfu must be above 0"),
        (["--acceptance_rate", 2], "--acceptance_rate must be at most 1"),
        (["--prompt_tokens", 0], "--prompt_tokens must be at least 1"),
        (["--device_name", "abacus"], "abacus"),
        (["--set", "prompts={path: no.jsonl}"], "no file no.jsonl"),
    ],
)
def test_plan_refuses(arguments: list[Any], words: str, tiny_recipe: Path, capsys: Capture) -> None:
    assert words in run(capsys, "plan", tiny_recipe, *arguments, status=2)


def test_a_prompt_beyond_the_positions_is_told(
    tiny_recipe: Path, random_toy: Path, tmp_path: Path, capsys: Capture
) -> None:
    text = run(capsys, "plan", tiny_recipe, "--output_dir", tmp_path / "out", "--set",
               "decoding.max_new_tokens=1020")  # fmt: skip
    assert "WARNING: training prompts: " in text
    assert "allows 1024" in text
    text = run(capsys, "doctor", random_toy, "--prompt_tokens", 1000)
    assert "WARNING: 1000 prompt tokens and 256 slots are 1256 positions" in text
