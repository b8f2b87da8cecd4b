"""A tiny world for training tests; also run as a script by the two-process test.

    python training_world.py OUTPUT_DIR '{"per_device_train_batch_size": 2, ...}'

"sigterm_at": [rank, step] among the settings sends that process a SIGTERM, "fsdp": true shards.
Float64, so that equal results are equal to rounding and a wrong divisor cannot hide.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.families.toy import FAMILY
from tabom.models.ids import TokenIds
from tabom.objectives.compose import Objective
from tabom.objectives.contexts import OrderPrefix
from tabom.objectives.presets import build_objective
from tabom.objectives.terms import CrossEntropy, Ranking
from tabom.objectives.terms_order import NextSlot
from tabom.training.config import TrainingConfig
from tabom.training.dataset import (
    ResponseDataset,
    ResponseExample,
    examples_from_trajectories,
)
from tabom.training.run import TrainResult, train
from tabom.trajectory.record import Trajectory

NUM_VOCAB, NUM_SLOTS, MASK, EOS = 40, 12, 39, 1
LAMBDA, MARGIN, WINDOW = 0.7, 0.3, 4


def tiny_model(*, dtype: torch.dtype = torch.float64) -> MaskedDiffusionModel:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=NUM_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=False,
        is_causal=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    config.tabom_family, config.mask_token_id = "toy", MASK
    lm = LlamaForCausalLM(config).to(dtype)
    ids = TokenIds(mask=MASK, pad=0, eos=(EOS,), filler=EOS, sources={})
    return MaskedDiffusionModel(
        lm, family=FAMILY, ids=ids, tokenizer=None, name_or_path="tiny"
    ).eval()


def trajectories(number: int, *, seed: int = 0) -> list[Trajectory]:
    """Prompts of several lengths, random orders, ties inside a step, some slots never revealed."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(number):
        ids = rng.integers(2, MASK, NUM_SLOTS)
        ids[int(rng.integers(5, NUM_SLOTS)) :] = EOS
        step = rng.permutation(NUM_SLOTS) // 2
        step[rng.random(NUM_SLOTS) < 0.1] = -1
        hidden = step < 0
        ids[hidden] = MASK
        made.append(
            Trajectory(
                id=f"t{seed}-{i}",
                prompt=f"prompt {i}",
                prompt_ids=rng.integers(2, MASK, int(rng.integers(3, 8))),
                response="",
                response_ids_N=ids,
                step_N=step,
                entropy_N=np.where(hidden, np.nan, rng.random(NUM_SLOTS)),
                confidence_N=np.where(hidden, np.nan, rng.random(NUM_SLOTS)),
                num_forwards=NUM_SLOTS,
            )
        )
    return made


def examples(number: int, *, seed: int = 0) -> list[ResponseExample]:
    return list(examples_from_trajectories(trajectories(number, seed=seed), end_ids=[EOS]))


def objective(*, next_slot: bool = True) -> Objective:
    terms: list[Any] = [(1.0, CrossEntropy()), (LAMBDA, Ranking(margin=MARGIN))]
    if next_slot:
        terms.append((0.5, NextSlot()))
    return Objective(name="test", sampler=OrderPrefix(window=WINDOW), terms=tuple(terms))


def run(
    output_dir: Path,
    *,
    model: MaskedDiffusionModel | None = None,
    number: int = 20,
    progress: Any = None,
    next_slot: bool = True,
    preset: dict[str, Any] | None = None,
    dtype: str = "float64",
    **settings: Any,
) -> tuple[MaskedDiffusionModel, TrainResult]:
    defaults: dict[str, Any] = {
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "warmup_steps": 2,
        "use_peft": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 5,
    }
    model = tiny_model(dtype=getattr(torch, dtype)) if model is None else model
    result = train(
        model=model,
        objective=objective(next_slot=next_slot) if preset is None else build_objective(**preset),
        dataset=ResponseDataset(examples(number), held_out=examples(5, seed=1)),
        config=TrainingConfig(**{**defaults, **settings}),
        output_dir=output_dir,
        progress=progress,
    )
    return model, result


def weights(model: MaskedDiffusionModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.lm.named_parameters()}


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def allow_fsdp_on_cpu() -> None:
    """accelerate has FSDP for accelerators only, though torch's runs on CPUs just as well."""
    from accelerate import state
    from accelerate.utils import DistributedType

    start = state.AcceleratorState.__init__

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if kwargs.get("fsdp_plugin") is not None:
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, kwargs["fsdp_plugin"]

    state.AcceleratorState.__init__ = patched


def sigterm_at(rank: int, step: int) -> Any:
    def progress(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == step and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[2])
    if settings.pop("fsdp", False):
        allow_fsdp_on_cpu()
    if "sigterm_at" in settings:
        settings["progress"] = sigterm_at(*settings.pop("sigterm_at"))
    run(Path(sys.argv[1]), **settings)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
