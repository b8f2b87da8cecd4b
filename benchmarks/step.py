"""A whole training step: forward, loss, backward, clipping and AdamW on LoRA weights.

    python benchmarks/step.py                 # about three minutes on one core

The same network, adapters, optimiser and padded batch both ways. Usual: logits of every position,
full-logit loss. Ours: `ObjectiveStep` as the trainer calls it. "body alone" is the step with a
loss that needs no head at all: no loss head, however fast, can beat the ratio of the usual step to
it. (What our step leaves out of the body, the last layer of rows that nobody asks for, can.)

Legend: B batch, S prompt + response, V vocabulary, D hidden.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common import SEED, Call, assert_close, claim, paired, peak_memory, ratio, run_benchmark, say
from random_models import build_model
from synthetic import make_batch
from tabom.models.adapters import attach_lora
from tabom.models.costs import step_flops
from tabom.models.sizes import ModelSizes, sizes_of
from tabom.objectives.presets import build_objective
from tabom.training.step import ObjectiveStep, step_inputs
from usual import usual_batch, usual_step_loss

MARGIN, RANK_WEIGHT, WINDOW = 0.2, 1.0, 32
CASES: dict[str, dict[str, Any]] = {
    # Vocabulary of Dream on a small body: the head is all that matters.
    "V=152064, small body": {
        "batch_size": 2,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_layers": 4,
        "num_heads": 8,
        "num_kv_heads": 4,
        "vocab_size": 152064,
    },
    # Head to body as 1 to 12, as in Dream-7B.
    "head : body = 1 : 12": {
        "batch_size": 2,
        "hidden_size": 256,
        "intermediate_size": 1424,
        "num_layers": 20,
        "num_heads": 8,
        "num_kv_heads": 2,
        "vocab_size": 8192,
    },
}
BARS = {"V=152064, small body": 5.0, "head : body = 1 : 12": 1.15}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 2,
    "vocab_size": 500,
    "num_prompt": 16,
    "num_slots": 64,
}


class Steps:
    """One network and optimiser with three ways to make a step."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_prompt: int = 256,
        num_slots: int = 256,
        attention: str = "sdpa",
        **sizes: Any,
    ) -> None:
        model = build_model("dream", seed=SEED, attn_implementation=attention, **sizes)
        self.sizes: ModelSizes = sizes_of(model.base_lm)
        attach_lora(model, seed=SEED)
        generator = torch.Generator().manual_seed(SEED)
        for name, parameter in model.lm.named_parameters():
            if ".lora_B." in name:  # zero at first, and then A would have no gradient to compare
                with torch.no_grad():
                    parameter.normal_(0.0, 0.02, generator=generator)
        model.train()
        self.model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.01)
        self.responses = make_batch(
            batch_size,
            num_prompt=num_prompt,
            min_prompt=num_prompt // 2,
            num_slots=num_slots,
            vocab_size=self.sizes.vocab_size,
            mask_id=model.ids.mask,
            seed=SEED,
        )
        self.objective = build_objective(
            "tabom",
            window=min(WINDOW, num_slots),
            cut_rule="full_window",
            margin=MARGIN,
            rank_weight=RANK_WEIGHT,
        )
        # The usual script draws its masks in its collator; ours counts its own drawing below.
        self.usual_batch = usual_batch(self.responses, self.context())
        self.step = ObjectiveStep(
            model, objective=self.objective, max_buffer_bytes=192 * 2**20
        ).train()

    def context(self) -> Any:
        return self.objective.draw(self.responses, seed=SEED, step=0)

    def ours(self) -> Tensor:
        context = self.context()
        sums = self.step(**step_inputs(self.responses, context))["sums"]
        return self.objective.total(sums, context.counts)

    def usual(self) -> Tensor:
        return usual_step_loss(self.model, self.usual_batch, rank_weight=RANK_WEIGHT, margin=MARGIN)

    def body_alone(self) -> Tensor:
        """All hidden states of the window's rows, and a loss without a head."""
        context = self.context()
        inputs = step_inputs(self.responses, context)
        ids_BS = torch.cat([inputs["prompt_ids_BP"], context.input_ids_BN], dim=1)
        hidden_BSD = self.model.hidden_states(ids_BS, inputs["attention_mask_BS"])
        position_R = context.row_slot_R + self.responses.prompt_ids_BP.shape[1]
        rows_RD = self.model.gather_rows(hidden_BSD, context.row_batch_R, position_R)
        return rows_RD.square().mean()

    def call(self, loss: Callable[[], Tensor], *, update: bool = True) -> Call:
        """Forward, backward, clipping and update; returns the loss and the adapters' gradients."""

        def run() -> dict[str, Tensor]:
            self.optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            found = {"loss": value.detach()}
            if update:
                self.optimizer.step()
            else:
                found["gradient"] = torch.cat([_grad(p).flatten() for p in self.trained])
            return found

        return run

    def calls(self, *, update: bool = True) -> dict[str, Call]:
        ways = {"usual": self.usual, "ours": self.ours, "body alone": self.body_alone}
        return {name: self.call(loss, update=update) for name, loss in ways.items()}


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def make_call(*, way: str, **sizes: Any) -> Call:
    return Steps(**sizes).calls()[way]


def flops_bound(steps: Steps) -> dict[str, float]:
    """What the products alone allow: all rows through the head, the window's rows, and none."""
    responses = steps.responses
    num_tokens = responses.prompt_ids_BP.numel() + responses.response_ids_BN.numel()
    num_rows = len(steps.context().row_batch_R)

    def flops(rows: int) -> float:
        return step_flops(
            steps.sizes,
            num_tokens=num_tokens,
            context=num_tokens / len(responses.key_B),
            num_rows=rows,
            lora_parameters=sum(p.numel() for p in steps.trained),
            is_checkpointed=False,
        )

    return {
        "usual over ours": flops(num_tokens) / flops(num_rows),
        "usual over body alone": flops(num_tokens) / flops(0),
        "head over body weights": steps.sizes.head_weights / steps.sizes.body_weights,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    cases, claims = {}, []
    for name, sizes in CASES.items():
        sizes = {**sizes, **(TINY if args.tiny else {})}
        steps = Steps(**sizes)
        checks = steps.calls(update=False)
        differences = assert_close(
            checks["ours"](),
            checks["usual"](),
            atol={"loss": 2e-5},
            rtol={"loss": 1e-6, "gradient": 1e-4},
        )
        times = paired(steps.calls(), rounds=args.rounds)
        say(f"{name}: timed")
        bound = {**flops_bound(steps), "measured": ratio(times, "usual", "body alone")}
        case: dict[str, Any] = {
            "sizes": sizes,
            "differences_from_usual": differences,
            "seconds": times,
            "bound": bound,
        }
        claims.append(
            claim(f"{name}: whole step, time", ratio(times, "usual", "ours"), bar=BARS[name])
        )
        if not args.no_memory:
            memory = {
                way: peak_memory(make_call, warm_up=TINY, way=way, **sizes)
                for way in ("usual", "ours", "body alone")
            }
            case["peak_bytes"] = memory
            case["memory_ratio"] = memory["usual"] / memory["ours"]
            say(f"{name}: memory measured")
        cases[name] = case
    return {"cases": cases, "claims": claims}


if __name__ == "__main__":
    run_benchmark("step", measure, rounds=3)
