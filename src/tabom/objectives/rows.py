"""What a term is given of the model: losses of the asked rows, and the rows themselves.

Legend: R gathered rows, V vocabulary, D hidden.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tabom.core.errors import ObjectiveError
from tabom.vocabulary.divergence import DivergenceKind, linear_divergence
from tabom.vocabulary.head import linear_rows


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The asked rows of one forward pass.

    ce_R: cross-entropy of the label, nats. entropy_R: of the prediction, nats. Both float32 with
        gradient. is_best_R: bool, no logit is above the label's.
    label_R: int64. hidden_RD, weight_VD: the rows before the head, and the head; None where only
        losses are known (terms that need more then refuse).
    reference_RD, reference_weight_VD: the same rows of the reference, without gradient; None
        unless the objective has one.
    max_buffer_bytes: of logits that a further pass through the head may keep.
    """

    ce_R: Tensor
    entropy_R: Tensor
    is_best_R: Tensor | None = None
    label_R: Tensor | None = None
    hidden_RD: Tensor | None = None
    weight_VD: Tensor | None = None
    reference_RD: Tensor | None = None
    reference_weight_VD: Tensor | None = None
    max_buffer_bytes: int = 192 * 2**20

    @classmethod
    def of_head(
        cls,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        label_R: Tensor,
        *,
        reference: tuple[Tensor, Tensor] | None = None,
        max_buffer_bytes: int = 192 * 2**20,
    ) -> "Rows":
        """Send rows through the head. reference: (rows `[R, D]`, head `[V, D]`) of the other."""
        ce_R, entropy_R, is_best_R = linear_rows(
            hidden_RD, weight_VD, label_R, max_buffer_bytes=max_buffer_bytes
        )
        return cls(
            ce_R=ce_R,
            entropy_R=entropy_R,
            is_best_R=is_best_R,
            label_R=label_R,
            hidden_RD=hidden_RD,
            weight_VD=weight_VD,
            reference_RD=None if reference is None else reference[0],
            reference_weight_VD=None if reference is None else reference[1],
            max_buffer_bytes=max_buffer_bytes,
        )

    def narrow(self, rows: slice | Tensor) -> "Rows":
        """Some of the rows: a slice, or int64 indices."""
        names = (
            "ce_R", "entropy_R", "is_best_R", "label_R", "hidden_RD", "reference_RD",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        found: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
        return replace(self, **found)

    def tempered(self, temperature: float) -> "Rows":
        """The losses of logits over a temperature."""
        if temperature == 1:
            return self
        hidden_RD, weight_VD, label_R = self._head()
        return Rows.of_head(
            hidden_RD / temperature,
            weight_VD,
            label_R,
            max_buffer_bytes=self.max_buffer_bytes,
        )

    def cross_entropy(self, label_R: Tensor) -> Tensor:
        """Cross-entropy `[R]` of other labels (int64)."""
        hidden_RD, weight_VD, _ = self._head()
        return linear_rows(hidden_RD, weight_VD, label_R, max_buffer_bytes=self.max_buffer_bytes)[0]

    def reference_tokens(self) -> Tensor:
        """The reference's likeliest token `[R]`, a chunk of rows at a time."""
        rows_RD, weight_VD = self._reference()
        weight_VD = weight_VD.to(rows_RD.dtype)
        chunks = [(rows_CD @ weight_VD.t()).argmax(-1) for rows_CD in rows_RD.split(256)]
        return torch.cat(chunks) if chunks else rows_RD.new_zeros(0, dtype=torch.int64)

    def reference_logits(self) -> Tensor:
        """The reference's logits `[R, V]`, without gradient: for rows already made few."""
        rows_RD, weight_VD = self._reference()
        return (rows_RD @ weight_VD.to(rows_RD.dtype).t()).detach()

    def of_reference(self, label_R: Tensor) -> Tensor:
        """The reference's cross-entropy `[R]` of labels, without gradient."""
        rows_RD, weight_VD = self._reference()
        return linear_rows(rows_RD.detach(), weight_VD.detach(), label_R)[0]

    def divergence(self, kind: DivergenceKind) -> Tensor:
        """The divergence `[R]` from the reference."""
        hidden_RD, weight_VD, _ = self._head()
        return linear_divergence(hidden_RD, weight_VD, *self._reference(), kind=kind)

    def _head(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.hidden_RD is None or self.weight_VD is None or self.label_R is None:
            raise ObjectiveError("a term needs the rows before the head; make them by Rows.of_head")
        return self.hidden_RD, self.weight_VD, self.label_R

    def _reference(self) -> tuple[Tensor, Tensor]:
        if self.reference_RD is None or self.reference_weight_VD is None:
            raise ObjectiveError(
                "a term compares with a reference model, and the objective names none; give it "
                "reference: base or snapshot"
            )
        return self.reference_RD, self.reference_weight_VD
