"""Context samplers: what is visible when the model is asked, and which slots are asked for.

Legend: B batch, N response slots, W window.

Every sampler is a frozen set of settings with one method, `sample`. `n` below counts the
participating slots of a response, the cut is the number of visible ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from tabom.core.errors import ConfigError
from tabom.objectives.batch import TrajectoryBatch
from tabom.objectives.slots import (
    CUT,
    END,
    SUBSET,
    TIME,
    Draws,
    Filler,
    OrderedSlots,
    scatter_slots,
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One drawn context per response, by slot.

    visible_BN, target_BN: bool. window_slot_BW: int64 slots in decoding order, -1 padding.
    cut_B: int64 as the sampler counts it. time_B: the masking probability, for 1/t weights.
    ties_ordered: pairs inside one step count even where their entropies were not recorded.
    is_short_B: bool, windows that the end of the response cut short.
    sets: bool [B, N] per name: further slots that terms may ask for by that name.
    weight_BN: float64, what a target weighs beside the objective's weighting; None: one.
    input_ids_BN: int64, what the model sees where that is not the visible tokens and masks.
    reference_ids_BN: int64, what the reference sees; None: the same as the model.
    """

    visible_BN: Tensor
    target_BN: Tensor
    window_slot_BW: Tensor
    cut_B: Tensor
    is_short_B: Tensor
    time_B: Tensor | None = None
    ties_ordered: bool = False
    sets: Mapping[str, Tensor] = field(default_factory=dict)
    weight_BN: Tensor | None = None
    input_ids_BN: Tensor | None = None
    reference_ids_BN: Tensor | None = None

    @classmethod
    def of(cls, visible_BN: Tensor, target_BN: Tensor, **more: Any) -> "Sample":
        """A sample without a window. more: any other field."""
        no_window_BW = torch.full((len(target_BN), 0), -1)
        defaults: dict[str, Any] = {
            "window_slot_BW": no_window_BW,
            "cut_B": visible_BN.sum(1),
            "is_short_B": torch.zeros(len(target_BN), dtype=torch.bool),
        }
        return cls(visible_BN=visible_BN, target_BN=target_BN, **{**defaults, **more})


class Sampler(Protocol):
    """What an objective needs from a sampler."""

    @property
    def filler(self) -> Filler: ...
    @property
    def needs_order(self) -> bool: ...

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class UniformMask:
    """Mask a random subset, whatever the order: the context of the NELBO.

    kind: "count": k ~ U{1..n} slots, every subset of size k alike (TABOM eq. 1). "bernoulli":
        t ~ U[eps, 1], every slot on its own with probability t (LLaDA; Dream with eps 0).
    schedule: of "bernoulli": the masking probability at time t is t ("linear") or cos(pi/2 (1-t))
        ("cosine", dLLM); weights are of the time.
    A forced cut fixes the number of visible slots instead of drawing it.
    """

    needs_order: ClassVar[bool] = False
    kind: Literal["count", "bernoulli"] = "count"
    schedule: Literal["linear", "cosine"] = "linear"
    eps: float = 0.0
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ConfigError(f"eps must be in [0, 1), got {self.eps}")

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        slot_BN = batch.slot_BN
        num_B = slot_BN.sum(1)
        draw_BN = draws.uniform_slots(slot_BN.shape[1], SUBSET)
        time_B: Tensor | None = None
        if self.kind == "bernoulli" and cut_B is None:
            time_B = self.eps + (1 - self.eps) * draws.uniform(TIME)
            is_cosine = self.schedule == "cosine"
            probability_B = (math.pi / 2 * (1 - time_B)).cos() if is_cosine else time_B
            masked_BN = slot_BN & (draw_BN < probability_B.unsqueeze(1))
        else:
            num_masked_B = draws.below(num_B, CUT) + 1 if cut_B is None else num_B - cut_B
            # The k smallest of n independent draws are a uniformly random subset of size k.
            place_BN = draw_BN.masked_fill(~slot_BN, 2.0).argsort(1).argsort(1)
            masked_BN = slot_BN & (place_BN < num_masked_B.unsqueeze(1))
            time_B = masked_BN.sum(1) / num_B.clamp(min=1)
        return Sample.of(
            slot_BN & ~masked_BN, masked_BN & self.filler.eligible(batch), time_B=time_B
        )


@dataclass(frozen=True, kw_only=True)
class OrderPrefix:
    """The first c slots in decoding order are visible; the next W eligible ones are asked for.

    window: W, in tokens.
    cut_rule: "shortened": c ~ U{0..n-1}, the window ends with the response, so that the tokens
        revealed last are trained in their true context. "full_window": c ~ U{0..n-W}, windows
        always full where n >= W (TABOM eq. 9).
    Where filler is ignored, the cut is drawn uniformly over the states in which the next eligible
    token is revealed, so that no draw is wasted and every context is a visited state.
    """

    needs_order: ClassVar[bool] = True
    window: int = 32
    cut_rule: Literal["shortened", "full_window"] = "shortened"
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        _check_window(self.window)

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        slots = OrderedSlots.of(batch, self.filler)
        if cut_B is None:
            num_eligible_B = slots.eligible_BN.sum(1)
            spare = 0 if self.cut_rule == "shortened" else self.window - 1
            cut_B = slots.place_of_eligible(draws.below(num_eligible_B - spare, CUT))
            cut_B = torch.minimum(cut_B, slots.num_B)
        return _window_sample(batch, slots, cut_B, slots.num_B, self.window)


@dataclass(frozen=True, kw_only=True)
class StepPrefix:
    """As `OrderPrefix`, but only states that the decoder visited: a step's tokens stay together.

    window: the next W eligible tokens are asked for. None: a later state of the trajectory is
        drawn with it, every unordered pair of states alike, and the tokens revealed between the
        two are asked for (dInfer's compressed transitions).
    A forced cut inside a step is moved back to the start of that step.
    """

    needs_order: ClassVar[bool] = True
    window: int | None = None
    filler: Filler = field(default_factory=Filler)

    def __post_init__(self) -> None:
        if self.window is not None:
            _check_window(self.window)

    def sample(self, batch: TrajectoryBatch, draws: Draws, cut_B: Tensor | None) -> Sample:
        slots = OrderedSlots.of(batch, self.filler)
        assert batch.step_BN is not None  # `Objective` has looked
        step_BN = batch.step_BN.gather(1, slots.slot_BN)  # by place
        in_use_BN = slots.places() < slots.num_B.unsqueeze(1)
        # A state is a place where a step begins that reveals an eligible token; the last state,
        # with everything visible, begins nothing.
        changes_BN = torch.ones_like(in_use_BN)
        changes_BN[:, 1:] = step_BN[:, 1:] != step_BN[:, :-1]
        group_BN = changes_BN.cumsum(1) - 1
        num_eligible_BN = torch.zeros_like(step_BN).scatter_add_(
            1, group_BN, slots.eligible_BN.long()
        )
        is_state_BN = in_use_BN & changes_BN & (num_eligible_BN.gather(1, group_BN) > 0)
        num_states_B = is_state_BN.sum(1)

        def start_of(state_B: Tensor) -> Tensor:
            place_B = (is_state_BN.cumsum(1) <= state_B.unsqueeze(1)).sum(1)
            return torch.minimum(place_B, slots.num_B)

        if cut_B is not None:
            start_BN = torch.where(changes_BN, slots.places(), 0).cummax(1).values
            clamped_B = cut_B.clamp(max=start_BN.shape[1] - 1)
            floor_B = start_BN.gather(1, clamped_B.unsqueeze(1)).squeeze(1)
            cut_B = torch.where(cut_B >= slots.num_B, slots.num_B, floor_B)
            state_B = (is_state_BN & (slots.places() < cut_B.unsqueeze(1))).sum(1)
            end_state_B = state_B + 1 + draws.below(num_states_B - state_B, END)
        elif self.window is not None:
            cut_B = start_of(draws.below(num_states_B, CUT))
        else:
            # Two distinct ones of the K + 1 states: every unordered pair alike.
            first_B = draws.below(num_states_B + 1, CUT)
            other_B = draws.below(num_states_B, END)
            other_B = other_B + (other_B >= first_B).long()
            end_state_B = torch.maximum(first_B, other_B)
            cut_B = start_of(torch.minimum(first_B, other_B))
        if self.window is not None:
            return _window_sample(batch, slots, cut_B, slots.num_B, self.window)
        return _window_sample(batch, slots, cut_B, start_of(end_state_B), None)


def _window_sample(
    batch: TrajectoryBatch,
    slots: OrderedSlots,
    cut_B: Tensor,
    end_B: Tensor,
    window: int | None,
) -> Sample:
    """The next eligible tokens from the cut on: `window` of them; None: all before the end."""
    num_slots = batch.slot_BN.shape[1]
    window_slot_BW = slots.window(cut_B, end_B, num_slots if window is None else window)
    size_B = (window_slot_BW >= 0).sum(1)
    return Sample(
        visible_BN=slots.visible(cut_B),
        target_BN=scatter_slots(window_slot_BW, num_slots),
        window_slot_BW=window_slot_BW,
        cut_B=cut_B,
        is_short_B=(size_B > 0) & (size_B < (window or 0)),
    )


def _check_window(window: int) -> None:
    if window < 1:
        raise ConfigError(f"window must be at least 1 token, got {window}")
