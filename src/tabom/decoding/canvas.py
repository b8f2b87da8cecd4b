"""A batch of responses while they are decoded, and the trajectories they end as.

Legend: B batch, S prompt + response, P prompt, N response slots, K steps, L live rows (those with
slots left to decode), R slots asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.core.keys import text_key
from tabom.decoding.requests import Decoded, DecodeRequest, StepView
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.record import TRUNCATED, Trajectory

# What a row takes along when it moves to another canvas.
SLOT_STATE = ("open_BN", "step_BN", "entropy_BN", "confidence_BN")
ROW_STATE = (*SLOT_STATE, "num_forwards_B", "is_truncated_B")
# Prompts enter when one row in so many is finished.
REFILL_SHARE = 4
# Tokens of a refilled batch, pads included, over those that are none. Beyond it the batch runs
# empty first: what an empty seat costs is less than what it costs every other row to be padded.
MAX_PADDING = 1.02


def require_finite(entropy_R: Tensor, model: MaskedDiffusionModel, step_R: Tensor) -> None:
    """Raises `ModelError` if an entropy is not finite: then the logits were not.

    step_R: int64, of the call of each row.
    """
    is_finite_R = torch.isfinite(entropy_R)
    if not bool(is_finite_R.all()):
        found = int(step_R[~is_finite_R].min())
        raise ModelError(
            f"{model.name_or_path} gives logits that are not finite at step {found}; the weights "
            "or the dtype are broken (float16 overflows; take bfloat16 or float32)"
        )


def left_padded(
    rows: Sequence[Sequence[int] | NDArray[np.integer]], *, pad_id: int
) -> tuple[Tensor, Tensor | None]:
    """Token ids, int64 `[B, P]`, padded on the left; and 1 where they are real, None without pads.

    rows: token ids, of lengths that may differ.
    """
    width = max(len(row) for row in rows)
    ids_BP = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask_BP = np.zeros_like(ids_BP)
    for b, row in enumerate(rows):
        ids_BP[b, width - len(row) :], mask_BP[b, width - len(row) :] = row, 1
    return torch.from_numpy(ids_BP), None if mask_BP.all() else torch.from_numpy(mask_BP)


@dataclass(kw_only=True)
class Canvas:
    """The state of one batch while it is decoded.

    requests: a row each. ids_BS: int64, left-padded prompts and the response slots.
    attention_mask_BS: None without pads. key_B: of the draws of each row.
    open_BN: bool, slots without an answer yet. A slot whose answer is the mask token itself (only
        with `suppress_mask=False`) is closed, stays masked and has step -1.
    step_BN, entropy_BN, confidence_BN: at reveal. num_forwards_B: model calls a row took part in,
        which is the step of the next one.
    is_truncated_B: bool, rows whose text was final before all slots were decoded.
    fields: the entropies `[B, N]` of each call, where they are recorded.
    edits: by row, what replaced a revealed token, as in the trajectory.
    """

    requests: list[DecodeRequest]
    ids_BS: Tensor
    attention_mask_BS: Tensor | None
    key_B: Tensor
    open_BN: Tensor
    step_BN: Tensor
    entropy_BN: Tensor
    confidence_BN: Tensor
    num_forwards_B: Tensor
    is_truncated_B: Tensor
    fields: list[Tensor] = field(default_factory=list)
    edits: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def blank(
        cls, model: MaskedDiffusionModel, requests: Sequence[DecodeRequest], num_slots: int
    ) -> "Canvas":
        """Prompts on the left, mask tokens in every slot."""
        device, shape = model.device, (len(requests), num_slots)
        ids_BP, mask_BP = left_padded([r.prompt_ids for r in requests], pad_id=model.ids.pad)
        ids_BS = torch.cat([ids_BP, ids_BP.new_full(shape, model.ids.mask)], dim=1)
        mask_BS = None if mask_BP is None else torch.cat([mask_BP, mask_BP.new_ones(shape)], dim=1)
        return cls(
            requests=list(requests),
            ids_BS=ids_BS.to(device),
            attention_mask_BS=None if mask_BS is None else mask_BS.to(device),
            key_B=torch.tensor([text_key(request.id) for request in requests], device=device),
            open_BN=torch.ones(shape, dtype=torch.bool, device=device),
            step_BN=torch.full(shape, -1, dtype=torch.long, device=device),
            entropy_BN=torch.full(shape, torch.nan, device=device),
            confidence_BN=torch.full(shape, torch.nan, device=device),
            num_forwards_B=torch.zeros(len(requests), dtype=torch.long, device=device),
            is_truncated_B=torch.zeros(len(requests), dtype=torch.bool, device=device),
        )

    @property
    def num_slots(self) -> int:
        return self.open_BN.shape[1]

    @property
    def response_BN(self) -> Tensor:
        """The slots' tokens, int64: a view, so that writing to it writes to the canvas."""
        return self.ids_BS[:, -self.num_slots :]

    @property
    def prompt_length_B(self) -> Tensor:
        """Real tokens of each prompt, int64 `[B]`."""
        num_prompt = self.ids_BS.shape[1] - self.num_slots
        if self.attention_mask_BS is None:
            return torch.full_like(self.num_forwards_B, num_prompt)
        return self.attention_mask_BS[:, :num_prompt].sum(dim=1)

    def live_L(self) -> Tensor:
        """The rows with slots left to decode."""
        return self.open_BN.any(dim=1).nonzero().squeeze(1)

    def num_entering(self, waiting: Sequence[DecodeRequest], *, batch_size: int) -> int:
        """How many of the first requests that wait would come in now; 0: it does not pay.

        0 as well if no row is at work: then the next batch is a new one.
        """
        live = self.live_L().tolist()
        # A refill rebuilds the batch, which pays only for a good share of its rows.
        num_free = batch_size - len(live)
        if num_free * REFILL_SHARE < batch_size or not live:
            return 0
        # A much longer prompt would make pads of all others; it waits for a batch of its own.
        lengths = [len(self.requests[b].prompt_ids) for b in live]
        num_fitting = 0
        for request in waiting[:num_free]:
            lengths.append(len(request.prompt_ids))
            num_padded = (max(lengths) + self.num_slots) * len(lengths)
            if num_padded > MAX_PADDING * (sum(lengths) + self.num_slots * len(lengths)):
                break
            num_fitting += 1
        return num_fitting

    def refilled(self, model: MaskedDiffusionModel, entering: Sequence[DecodeRequest]) -> "Canvas":
        """A canvas with the live rows as they are, and new ones behind them."""
        live_L = self.live_L()
        staying = [self.requests[b] for b in live_L.tolist()]
        new = Canvas.blank(model, [*staying, *entering], self.num_slots)
        new.response_BN[: len(live_L)] = self.response_BN[live_L]
        for name in ROW_STATE:
            getattr(new, name)[: len(live_L)] = getattr(self, name)[live_L]
        return new

    def asked(self, live_L: Tensor, batch_R: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Ids and attention mask of the live rows, and which of these each of `batch_R` is."""
        # Nothing is copied as long as every row is at work.
        if len(live_L) == len(self.ids_BS):
            return self.ids_BS, self.attention_mask_BS, batch_R
        mask_BS = self.attention_mask_BS
        mask_LS = None if mask_BS is None else mask_BS[live_L]
        return self.ids_BS[live_L], mask_LS, torch.searchsorted(live_L, batch_R)

    def finish_texts(self, model: MaskedDiffusionModel) -> None:
        """Close every row with no open slot left of its leftmost end token: its text is final.

        What is decoded later lies right of that token. The slots still open are filled.
        """
        end_ids = torch.tensor(model.ids.eos, device=self.ids_BS.device)
        is_end_BN = torch.isin(self.response_BN, end_ids) & ~self.open_BN
        is_right_BN = is_end_BN.int().cumsum(dim=1) > 0  # of the leftmost end, or that itself
        is_final_B = is_right_BN[:, -1] & ~(self.open_BN & ~is_right_BN).any(dim=1)
        tail_BN = self.open_BN & is_final_B[:, None]
        self.response_BN[tail_BN] = model.ids.filler
        self.is_truncated_B |= tail_BN.any(dim=1)
        self.open_BN &= ~tail_BN

    def reveal(self, revealed_BN: Tensor, entropy_BN: Tensor, confidence_BN: Tensor) -> None:
        """Note the step, the entropy and the confidence of the slots that a call has revealed.

        A row's step is the number of calls that it took part in before.
        """
        self.step_BN = torch.where(revealed_BN, self.num_forwards_B[:, None], self.step_BN)
        self.entropy_BN = torch.where(revealed_BN, entropy_BN, self.entropy_BN)
        self.confidence_BN = torch.where(revealed_BN, confidence_BN, self.confidence_BN)

    def view(self, *, step: int) -> StepView:
        """Copies of the state after a reveal, for an observer."""
        ids = tuple(request.id for request in self.requests)
        return StepView(step=step, ids=ids, **self._arrays(SLOT_STATE))

    def finished(
        self, model: MaskedDiffusionModel, *, method: str, fingerprint: str
    ) -> list[Decoded]:
        """The responses of the rows without open slots.

        method, fingerprint: for the trajectories.
        """
        rows = (~self.open_BN.any(dim=1)).nonzero().squeeze(1).tolist()
        arrays = self._arrays(ROW_STATE)
        field_KBN = torch.stack(self.fields).cpu().numpy() if self.fields else None
        decoded = []
        for num_done, b in enumerate(rows, start=1):
            request, num_forwards = self.requests[b], int(arrays["num_forwards_B"][b])
            ids_N, is_truncated = arrays["response_ids_BN"][b], arrays["is_truncated_B"][b]
            trajectory = Trajectory(
                id=request.id,
                prompt=request.prompt,
                prompt_ids=np.asarray(request.prompt_ids, dtype=np.int32),
                response="" if model.tokenizer is None else model.decode_response(ids_N.tolist()),
                response_ids_N=ids_N,
                step_N=arrays["step_BN"][b],
                entropy_N=arrays["entropy_BN"][b],
                confidence_N=arrays["confidence_BN"][b],
                num_forwards=num_forwards,
                edits=np.asarray(self.edits.get(b, ()), dtype=np.int32),
                method=method,
                task=request.task,
                reference=request.reference,
                row={**request.row, TRUNCATED: True} if is_truncated else dict(request.row),
                fingerprint=fingerprint,
            )
            field_KN = None if field_KBN is None else field_KBN[:num_forwards, b].copy()
            num_left = len(rows) - num_done
            decoded.append(
                Decoded(trajectory=trajectory, field_KN=field_KN, num_following=num_left)
            )
        return decoded

    def _arrays(self, names: Sequence[str]) -> dict[str, Any]:
        """Copies, on the CPU, of the responses and of some attributes."""
        arrays = {name: getattr(self, name).cpu().numpy().copy() for name in names}
        return {"response_ids_BN": self.response_BN.cpu().numpy().copy(), **arrays}
