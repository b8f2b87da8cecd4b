"""Every preset trains an adapter on the toy, on tiny Dream and on tiny LLaDA."""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.objectives.presets import PRESETS, build_objective, options_of
from tabom.training.config import TrainingConfig
from tabom.training.dataset import ResponseDataset, ResponseExample
from tabom.training.run import train

GOLDEN = Path(__file__).parents[1] / "golden"
NUM_SLOTS = 12


def _model(name: str, random_toy: Path) -> MaskedDiffusionModel:
    folder = random_toy if name == "toy" else GOLDEN / f"{name}-tiny"
    return load_model(folder, dtype="float32", device="cpu", require_tokenizer=False)


@cache
def _examples(vocab: int, end: int) -> list[ResponseExample]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(8):
        ids = rng.integers(0, vocab, NUM_SLOTS).astype(np.int32)
        ids[9:] = end
        prompt = rng.integers(0, vocab, int(rng.integers(3, 7))).astype(np.int32)
        step = (rng.permutation(NUM_SLOTS) // 2).astype(np.int32)
        made.append(
            ResponseExample(
                id=f"e{i}",
                prompt_ids=prompt,
                response_ids_N=ids,
                slot_N=np.ones(NUM_SLOTS, dtype=bool),
                length=10,
                step_N=step,
                order_N=(step.argsort(kind="stable").argsort()).astype(np.int32),
                entropy_N=rng.random(NUM_SLOTS).astype(np.float32),
                advantage=[1.0, -1.0, 0.5, 0.25][i % 4],
                hint_ids=np.concatenate([prompt, prompt]),
            )
        )
    return made


@pytest.mark.parametrize("family", ["toy", "dream", "llada"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_trains(
    world: ModuleType, random_toy: Path, tmp_path: Path, name: str, family: str
) -> None:
    model = _model(family, random_toy)
    known = options_of(PRESETS[name], name=name)
    options: dict[str, Any] = {
        k: v for k, v in (("window", 2), ("block", 4), ("steps", 2)) if hasattr(known, k)
    }
    least = min(model.ids.mask, *model.ids.eos)
    result = train(
        model=model,
        objective=build_objective(name, **options),
        dataset=ResponseDataset(_examples(least, model.ids.eos[0])),
        config=TrainingConfig(
            max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, warmup_steps=0,
            lora_r=2, logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True,
        ),
        output_dir=tmp_path,
    )  # fmt: skip
    assert result.steps == 3
    assert np.isfinite(result.metrics["loss"])
    moved = [p for n, p in model.lm.named_parameters() if "lora_B" in n and bool(p.any())]
    assert moved
    assert all(bool(torch.isfinite(p).all()) for p in model.lm.parameters())
