"""The state of a batch of responses while it is decoded, and the trajectories it ends as.

Legend: B batch, S prompt + response, P prompt, N response slots, K steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.core.keys import text_key
from tabom.decoding.requests import Decoded, DecodeRequest, StepView
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.record import TRUNCATED, Trajectory

PER_ROW = (
    *("open_BN", "step_BN", "entropy_BN", "confidence_BN"),
    *("num_forwards_B", "is_truncated_B"),
)


def require_finite(entropy_R: Tensor, model: MaskedDiffusionModel, step: int | Tensor) -> None:
    """Raises `ModelError` if an entropy is not finite: then the logits were not.

    step: of all rows, or int64 `[R]` of each.
    """
    is_finite_R = torch.isfinite(entropy_R)
    if not bool(is_finite_R.all()):
        found = step if isinstance(step, int) else int(step[~is_finite_R].min())
        raise ModelError(
            f"{model.name_or_path} gives logits that are not finite at step {found}; the weights "
            "or the dtype are broken (float16 overflows; take bfloat16 or float32)"
        )


@dataclass(kw_only=True)
class Canvas:
    """The state of one batch while it is decoded.

    ids_BS: int64, left-padded prompts and the response slots. attention_mask_BS: None without pads.
    open_BN: bool, slots without an answer yet. A slot whose answer is the mask token itself (only
        with `suppress_mask=False`) is closed, stays masked and has step -1.
    step_BN, entropy_BN, confidence_BN: at reveal. num_forwards_B: model calls a row took part in,
        which is the step of the next one.
    is_truncated_B: bool, rows whose text was final before all slots were decoded.
    """

    ids_BS: Tensor
    attention_mask_BS: Tensor | None
    key_B: Tensor
    open_BN: Tensor
    step_BN: Tensor
    entropy_BN: Tensor
    confidence_BN: Tensor
    num_forwards_B: Tensor
    is_truncated_B: Tensor

    @classmethod
    def blank(
        cls, model: MaskedDiffusionModel, requests: Sequence[DecodeRequest], num_slots: int
    ) -> "Canvas":
        """Prompts on the left, mask tokens in every slot."""
        B, P = len(requests), max(len(request.prompt_ids) for request in requests)
        ids_BS = torch.full((B, P + num_slots), model.ids.mask, dtype=torch.long)
        mask_BS = torch.ones_like(ids_BS)
        for b, request in enumerate(requests):
            pads = P - len(request.prompt_ids)
            ids_BS[b, :pads], mask_BS[b, :pads] = model.ids.pad, 0
            ids_BS[b, pads:P] = torch.as_tensor(np.asarray(request.prompt_ids), dtype=torch.long)
        key_B = torch.tensor([text_key(request.id) for request in requests])
        device = model.device
        shape = (B, num_slots)
        return cls(
            ids_BS=ids_BS.to(device),
            attention_mask_BS=None if bool(mask_BS.all()) else mask_BS.to(device),
            key_B=key_B.to(device),
            open_BN=torch.ones(shape, dtype=torch.bool, device=device),
            step_BN=torch.full(shape, -1, dtype=torch.long, device=device),
            entropy_BN=torch.full(shape, torch.nan, device=device),
            confidence_BN=torch.full(shape, torch.nan, device=device),
            num_forwards_B=torch.zeros(B, dtype=torch.long, device=device),
            is_truncated_B=torch.zeros(B, dtype=torch.bool, device=device),
        )

    def take(self, other: "Canvas", row_L: Tensor) -> None:
        """Let the first rows go on where `row_L` of another canvas, of the same requests, are."""
        num_slots, num_rows = self.open_BN.shape[1], len(row_L)
        self.ids_BS[:num_rows, -num_slots:] = other.ids_BS[row_L, -num_slots:]
        for name in PER_ROW:
            getattr(self, name)[:num_rows] = getattr(other, name)[row_L]

    def finish_texts(self, model: MaskedDiffusionModel) -> None:
        """Close every row with no open slot left of its leftmost end token: its text is final.

        What is decoded later lies right of that token. The slots still open are filled.
        """
        response_BN = self.ids_BS[:, -self.open_BN.shape[1] :]
        end_ids = torch.tensor(model.ids.eos, device=response_BN.device)
        is_end_BN = torch.isin(response_BN, end_ids) & ~self.open_BN
        is_right_BN = is_end_BN.int().cumsum(dim=1) > 0  # of the leftmost end, or that itself
        is_final_B = is_right_BN[:, -1] & ~(self.open_BN & ~is_right_BN).any(dim=1)
        tail_BN = self.open_BN & is_final_B[:, None]
        response_BN[tail_BN] = model.ids.filler  # a view: written in place
        self.is_truncated_B |= tail_BN.any(dim=1)
        self.open_BN &= ~tail_BN

    @property
    def prompt_length_B(self) -> Tensor:
        """Real tokens of each prompt, int64 `[B]`."""
        num_prompt = self.ids_BS.shape[1] - self.open_BN.shape[1]
        if self.attention_mask_BS is None:
            return torch.full_like(self.num_forwards_B, num_prompt)
        return self.attention_mask_BS[:, :num_prompt].sum(dim=1)

    def view(self, requests: Sequence[DecodeRequest], *, step: int) -> StepView:
        """Copies of the state after a reveal, for an observer."""

        def copy(value_BN: Tensor) -> Any:
            return value_BN.cpu().numpy().copy()

        return StepView(
            step=step,
            ids=tuple(request.id for request in requests),
            response_ids_BN=copy(self.ids_BS[:, -self.open_BN.shape[1] :]),
            open_BN=copy(self.open_BN),
            step_BN=copy(self.step_BN),
            entropy_BN=copy(self.entropy_BN),
            confidence_BN=copy(self.confidence_BN),
        )

    def results(
        self,
        model: MaskedDiffusionModel,
        requests: Sequence[DecodeRequest],
        fields: list[Tensor],
        *,
        rows: Sequence[int],
        method: str,
        fingerprint: str,
    ) -> list[Decoded]:
        """The trajectories of some rows; `requests` and `fields` are of all rows.

        fields: the entropies `[B, N]` of each step, or empty.
        """
        num_slots = self.open_BN.shape[1]
        is_truncated_B = self.is_truncated_B.tolist()
        response_BN = self.ids_BS[:, -num_slots:].cpu().numpy()
        step_BN, num_forwards_B = self.step_BN.cpu().numpy(), self.num_forwards_B.tolist()
        entropy_BN = self.entropy_BN.cpu().numpy()
        confidence_BN = self.confidence_BN.cpu().numpy()
        field_KBN = torch.stack(fields).cpu().numpy() if fields else None
        decoded = []
        for b in rows:
            request, ids = requests[b], response_BN[b].tolist()
            row = dict(request.row)
            if is_truncated_B[b]:
                row[TRUNCATED] = True
            trajectory = Trajectory(
                id=request.id,
                prompt=request.prompt,
                prompt_ids=np.asarray(request.prompt_ids, dtype=np.int32),
                response="" if model.tokenizer is None else model.decode_response(ids),
                response_ids_N=response_BN[b],
                step_N=step_BN[b],
                entropy_N=entropy_BN[b],
                confidence_N=confidence_BN[b],
                num_forwards=num_forwards_B[b],
                method=method,
                task=request.task,
                reference=request.reference,
                row=row,
                fingerprint=fingerprint,
            )
            field_KN = None
            if field_KBN is not None:
                field_KN = field_KBN[: num_forwards_B[b], b].copy()
            decoded.append(Decoded(trajectory=trajectory, field_KN=field_KN))
        return decoded
