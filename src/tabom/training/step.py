"""Model and objective in one module, so that the hooks of DDP and FSDP see the whole forward.

Legend: B batch, P prompt, N response slots, S = P + N, R gathered rows, V vocabulary, D hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.batch import Context, TrajectoryBatch
from tabom.objectives.mixture import AnyObjective
from tabom.objectives.rows import Rows
from tabom.training.reference import ReferenceModel


class ObjectiveStep(nn.Module):
    """Hidden states -> rows that the context asks for -> their losses -> sums of every term."""

    def __init__(
        self,
        model: MaskedDiffusionModel,
        *,
        objective: AnyObjective,
        max_buffer_bytes: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.max_buffer_bytes = max_buffer_bytes
        named = objective.reference
        self.reference = None if named is None else ReferenceModel(model, named)
        # FSDP's automatic wrapping asks for these.
        self._no_split_modules = getattr(model.base_lm, "_no_split_modules", None)

    def forward(
        self,
        prompt_ids_BP: Tensor,
        attention_mask_BS: Tensor | None,
        context: Context,
        widest: int | None = None,
        hint_ids_BQ: Tensor | None = None,
        hint_mask_BS: Tensor | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Local sums of one micro-batch.

        prompt_ids_BP: int64, left-padded. attention_mask_BS: None if nothing is padded.
        context: its tensors on the device of the model. widest: the most rows of one context;
            None counts them, which on a GPU waits for the device.
        hint_ids_BQ, hint_mask_BS: the same of the prompts that a privileged reference reads.
        Returns: {"sums": term -> 0-dim float32 with gradient, "metrics": name -> (sum, count)}.
        """
        found = None
        if self.reference is not None:
            # Before the model itself: its weights must stand as they are until the backward pass.
            reads_hint = self.reference.reference.hint and hint_ids_BQ is not None
            seen_BN = context.reference_ids_BN
            with torch.no_grad(), self.reference.active():
                rows_RD = self._hidden(
                    hint_ids_BQ if reads_hint and hint_ids_BQ is not None else prompt_ids_BP,
                    hint_mask_BS if reads_hint else attention_mask_BS,
                    context,
                    context.input_ids_BN if seen_BN is None else seen_BN,
                    widest,
                )
                found = rows_RD, self.model.head_weight_VD.detach()
        hidden_RD = self._hidden(
            prompt_ids_BP, attention_mask_BS, context, context.input_ids_BN, widest
        )
        # Entropies and cross-entropies are float32 by contract; autocast would round the logits.
        with torch.autocast(hidden_RD.device.type, enabled=False):
            rows = Rows.of_head(
                hidden_RD,
                self.model.head_weight_VD,
                context.label_R,
                reference=found,
                max_buffer_bytes=self.max_buffer_bytes,
            )
            outputs = self.objective.term_sums(rows, context)
        # A plain dict: FSDP finds the tensors it must hook only in trees that it can walk.
        return {"sums": dict(outputs.sums), "metrics": dict(outputs.metrics)}

    def _hidden(
        self,
        prompt_ids_BP: Tensor,
        attention_mask_BS: Tensor | None,
        context: Context,
        response_ids_BN: Tensor,
        widest: int | None,
    ) -> Tensor:
        """The asked rows `[R, D]` behind prompts; each context behind its response's."""
        if context.response_C is not None:
            prompt_ids_BP = prompt_ids_BP[context.response_C]
            if attention_mask_BS is not None:
                attention_mask_BS = attention_mask_BS[context.response_C]
        return self.model.asked_hidden(
            torch.cat([prompt_ids_BP, response_ids_BN], dim=1),
            attention_mask_BS,
            context.row_batch_R,
            context.row_slot_R + prompt_ids_BP.shape[1],
            widest=widest,
        )


def step_inputs(batch: TrajectoryBatch, context: Context) -> dict[str, Any]:
    """The arguments of ObjectiveStep.forward, on the CPU, where looking for padding is free."""
    inputs: dict[str, Any] = {
        "prompt_ids_BP": batch.prompt_ids_BP,
        "attention_mask_BS": _padding(batch.prompt_mask_BP, batch.num_slots),
        "context": context,
        "widest": int(context.row_batch_R.bincount(minlength=1).max()),
    }
    if batch.hint_ids_BQ is not None and batch.hint_mask_BQ is not None:
        inputs["hint_ids_BQ"] = batch.hint_ids_BQ
        inputs["hint_mask_BS"] = _padding(batch.hint_mask_BQ, batch.num_slots)
    return inputs


def _padding(prompt_mask_BP: Tensor, num_slots: int) -> Tensor | None:
    """The attention mask of prompts with their slots; None where nothing is padded."""
    if bool(prompt_mask_BP.all()):
        return None
    return torch.nn.functional.pad(prompt_mask_BP, (0, num_slots), value=1)


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

    context: Context = inputs["context"]
    return {
        **{name: move(value) for name, value in inputs.items()},
        "context": context.moved(move),
    }
