"""Model and objective in one module, so that the hooks of DDP and FSDP see the whole forward.

Legend: B batch, P prompt, N response slots, S = P + N, R gathered rows, V vocabulary, D hidden.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.compose import Objective
from tabom.vocabulary.head import linear_ce_entropy


class ObjectiveStep(nn.Module):
    """Hidden states -> rows that the context asks for -> CE and entropy -> sums of every term."""

    def __init__(
        self, model: MaskedDiffusionModel, *, objective: Objective, max_buffer_bytes: int
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.max_buffer_bytes = max_buffer_bytes
        # FSDP's automatic wrapping asks for these.
        self._no_split_modules = getattr(model.base_lm, "_no_split_modules", None)

    def forward(
        self,
        prompt_ids_BP: Tensor,
        attention_mask_BS: Tensor | None,
        context: Context,
        widest: int | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Local sums of one micro-batch.

        prompt_ids_BP: int64, left-padded. attention_mask_BS: None if nothing is padded.
        context: its tensors on the device of the model. widest: the most rows of one response;
            None counts them, which on a GPU waits for the device.
        Returns: {"sums": term -> 0-dim float32 with gradient, "metrics": name -> (sum, count)}.
        """
        num_prompt = prompt_ids_BP.shape[1]
        input_ids_BS = torch.cat([prompt_ids_BP, context.input_ids_BN], dim=1)
        hidden_RD = self.model.asked_hidden(
            input_ids_BS,
            attention_mask_BS,
            context.row_batch_R,
            context.row_slot_R + num_prompt,
            widest=widest,
        )
        # Entropies and cross-entropies are float32 by contract; autocast would round the logits.
        with torch.autocast(hidden_RD.device.type, enabled=False):
            ce_R, entropy_R = linear_ce_entropy(
                hidden_RD,
                self.model.head_weight_VD,
                context.label_R,
                max_buffer_bytes=self.max_buffer_bytes,
            )
            outputs = self.objective.term_sums(ce_R, entropy_R, context)
        # A plain dict: FSDP finds the tensors it must hook only in trees that it can walk.
        return {"sums": dict(outputs.sums), "metrics": dict(outputs.metrics)}


def step_inputs(batch: TrajectoryBatch, context: Context) -> dict[str, Any]:
    """The arguments of ObjectiveStep.forward, on the CPU, where looking for padding is free."""
    attention_mask_BS = None
    if not bool(batch.prompt_mask_BP.all()):
        attention_mask_BS = torch.cat(
            [batch.prompt_mask_BP, torch.ones_like(batch.response_ids_BN)], dim=1
        )
    return {
        "prompt_ids_BP": batch.prompt_ids_BP,
        "attention_mask_BS": attention_mask_BS,
        "context": context,
        "widest": int(context.row_batch_R.bincount(minlength=1).max()),
    }


def to_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move step inputs without a host sync (pinned memory, asynchronous copies)."""
    if device.type == "cpu":
        return inputs

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.device == device:
            return value
        return (value.pin_memory() if device.type == "cuda" else value).to(
            device, non_blocking=True
        )

    context = inputs["context"]
    moved = {f.name: move(getattr(context, f.name)) for f in fields(context)}
    return {
        **{name: move(value) for name, value in inputs.items()},
        "context": replace(context, **moved),
    }
