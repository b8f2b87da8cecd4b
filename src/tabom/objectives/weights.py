"""What each target's cross-entropy weighs, and what their sum is divided by.

Legend: B batch, N response slots, S = P + N.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tabom.core.errors import ConfigError, ObjectiveError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.contexts import Sample

Reduction = Literal["response", "token", "sum", "length", "labelled", "batch"]
Kind = Literal["one", "inv_p", "linear", "scheduler", "cart"]


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """The weight of a target, before it is reduced.

    kind: "one"; "inv_p": one over the masking time; "linear": 1 - time (Dream); "scheduler": the
        rate -alpha'(t) / (1 - alpha(t) + eps) of the masking `schedule` (dLLM); "cart": sum over
        the visible positions q of the row of p/2 (1-p)^(|r-q|-1), geometric in the distance.
    schedule: of "scheduler": alpha is 1 - t ("linear") or 1 - cos(pi/2 (1 - t)) ("cosine").
    p: of "cart". pads: under "cart" pads of the prompt count as visible, as published.
    Source: the trainers of Dream (inv_p, linear, cart) and dLLM (scheduler, cart).
    """

    kind: Kind = "one"
    schedule: Literal["linear", "cosine"] = "linear"
    eps: float = 1e-6
    p: float = 0.3
    pads: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ConfigError(f"cart_p must be between 0 and 1, got {self.p}")
        if self.eps < 0:
            raise ConfigError(f"weighting eps must be at least 0, got {self.eps}")

    def of(self, batch: TrajectoryBatch, sample: Sample) -> Tensor:
        """float64 `[B, 1]` or `[B, N]`.

        Raises: ObjectiveError where the weight is of a masking time and the context has none.
        """
        if self.kind == "cart":
            return self._cart(batch, sample)
        if self.kind == "one":
            return torch.ones(len(batch.key_B), 1, dtype=torch.float64)
        if sample.time_B is None:
            raise ObjectiveError(
                f"weighting {self.kind!r} is of the masking probability, and this context has "
                "none; it goes with random masks only"
            )
        # A response of which nothing was masked has no target; its time may be 0.
        time_B = torch.where(sample.target_BN.any(1), sample.time_B.double(), 1.0)
        if self.kind == "inv_p":
            weight_B = 1 / time_B
        elif self.kind == "linear":
            weight_B = 1 - time_B
        elif self.schedule == "linear":
            weight_B = 1 / (time_B + self.eps)
        else:
            angle_B = math.pi / 2 * (1 - time_B)
            weight_B = math.pi / 2 * angle_B.sin() / (angle_B.cos() + self.eps)
        return weight_B.unsqueeze(1)

    def _cart(self, batch: TrajectoryBatch, sample: Sample) -> Tensor:
        prompt_BP = batch.prompt_mask_BP.bool()
        if self.pads:
            prompt_BP = torch.ones_like(prompt_BP)
        visible_BS = torch.cat([prompt_BP, sample.visible_BN], dim=1).double()
        place_S = torch.arange(visible_BS.shape[1])
        distance_SS = (place_S.unsqueeze(1) - place_S).abs()
        weight_SS = 0.5 * self.p * (1 - self.p) ** (distance_SS - 1).double()
        weight_SS.fill_diagonal_(0)
        return (visible_BS @ weight_SS)[:, prompt_BP.shape[1] :]


def target_weights(
    batch: TrajectoryBatch,
    sample: Sample,
    *,
    weighting: Weighting,
    reduction: Reduction,
    eligible_BN: Tensor,
) -> tuple[Tensor, float]:
    """float32 weight `[B, N]` of each target, and the count that their sum is divided by.

    eligible_BN: slots that may be targets at all. The targets are those of the sample.
    """
    target_BN = sample.target_BN
    if batch.advantage_B is not None:
        # What was judged wrong teaches no token; terms with an advantage look at it themselves.
        target_BN = target_BN & (batch.advantage_B > 0).unsqueeze(1)
    size_B = target_BN.sum(1)
    labelled_B = (batch.slot_BN & eligible_BN).sum(1)
    # Quotients are taken in float64 and rounded once, when all of them are applied.
    weight_BN = target_BN.double()
    if sample.weight_BN is not None:
        weight_BN = weight_BN * sample.weight_BN
    count = float((size_B > 0).sum())
    if reduction == "response":
        weight_BN = weight_BN / size_B.clamp(min=1).unsqueeze(1)
    elif reduction == "token":
        count = float(size_B.sum())
    elif reduction == "length":
        weight_BN = weight_BN / labelled_B.clamp(min=1).unsqueeze(1)
        count = float((labelled_B > 0).sum())
    elif reduction == "labelled":
        count = float(labelled_B.sum())
    elif reduction == "batch":
        count = float((labelled_B > 0).sum())
    if weighting.kind != "one":
        weight_BN = weight_BN * weighting.of(batch, sample)
    return weight_BN.float(), count
