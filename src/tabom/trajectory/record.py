"""One decoding trajectory: what a model answered, and when it became sure of each token.

Legend: N response slots.
"""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from tabom.core.errors import DataError
from tabom.trajectory.order import FloatArray, IntArray, order_from_step

__all__ = ["FIXED", "TRUNCATED", "FloatArray", "IntArray", "Trajectory"]

# Of a trajectory's `row`: true where decoding stopped with the text final and slots undecoded.
TRUNCATED = "is_truncated"
# Of a trajectory's `row`: the slots whose tokens were given (infilling); they have no step.
FIXED = "fixed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A response of N slots with the step at which each slot was revealed.

    id: content id of the prompt ids and the prompt's own key (and, for several samples of one
        prompt, the sample number). Unique in a store.
    prompt: the user's text, not templated. prompt_ids: what the model saw, template included.
    response: decoded text up to the first end token, special tokens left out.
    response_ids_N: int32, every slot of the canvas; a slot never revealed holds the mask id, or
        the filler where decoding stopped at the text (then `row` has is_truncated).
    step_N: int32, 0-based index of the model call that revealed the slot, -1 never. Gaps and ties
        are allowed (official schedules have both).
    entropy_N, confidence_N: float32, nats and probability at reveal, of the untempered
        distribution with the mask token excluded; NaN where never revealed. NaN everywhere: not
        recorded (files of others have neither); slots of one step are then ordered by slot.
    num_forwards: model calls spent on this response.
    edits: int32 `[E, 4]`, tokens replaced after they were revealed (slot, step, old token, new
        token), in the order of the calls: LLaDA2.1's published decoding does that. `response_ids_N`
        has the last tokens, step, entropy and confidence are those of the first reveal; whoever
        trains on it learns the last token at the first step.
    reference: the prompt's gold answer as text (what a verifier compares with), "" if none.
    row: further columns of the prompt row that a verifier or a diagnostic may need.
    fingerprint: of the run that made it (model, adapter, template, decoding, code version).
    """

    id: str
    prompt: str
    prompt_ids: IntArray
    response: str
    response_ids_N: IntArray
    step_N: IntArray
    entropy_N: FloatArray
    confidence_N: FloatArray
    num_forwards: int
    edits: IntArray = field(default_factory=lambda: np.empty((0, 4), dtype=np.int32))
    method: str = "entropy"
    task: str = ""
    reference: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        cast = object.__setattr__
        for name in ("prompt_ids", "response_ids_N", "step_N"):
            cast(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.int32))
        for name in ("entropy_N", "confidence_N"):
            cast(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        if np.size(self.edits) % 4:
            raise DataError(
                f"trajectory {self.id!r}: edits has {np.size(self.edits)} numbers, "
                "expected four for each"
            )
        cast(self, "edits", np.ascontiguousarray(self.edits, dtype=np.int32).reshape(-1, 4))
        problem = self.problem()
        if problem is not None:
            raise DataError(f"trajectory {self.id!r}: {problem}")

    def __repr__(self) -> str:
        shown = self.response if len(self.response) <= 40 else self.response[:37] + "..."
        return (
            f"Trajectory({self.id!r}, {self.num_revealed} of {self.num_slots} slots in "
            f"{self.num_forwards} calls, {shown!r})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: each slot with its step, the early ones light and the late ones dark."""
        last = max(int(self.step_N.max()), 1)
        cells = []
        for token, step, entropy in zip(
            self.response_ids_N.tolist(), self.step_N.tolist(), self.entropy_N.tolist(), strict=True
        ):
            light = 96 - 46 * step / last if step >= 0 else 100
            ink = "#fff" if light < 65 else "#1d1f22"
            title = f"token {token}, step {step}, entropy {entropy:.3f} nats"
            cells.append(
                f'<td title="{title}" style="background:hsl(215 60% {light:.0f}%);color:{ink};'
                f'text-align:center;padding:2px 6px">{step if step >= 0 else ""}</td>'
            )
        said = "".join(f"<div><b>{k}</b> {escape(v)}</div>" for k, v in self._said().items())
        return f"{said}<table><tr>{''.join(cells)}</tr></table><div>step of each slot</div>"

    def _said(self) -> dict[str, str]:
        told = {"prompt": self.prompt, "response": self.response, "reference": self.reference}
        return {key: text for key, text in told.items() if text}

    @property
    def num_slots(self) -> int:
        return len(self.response_ids_N)

    @property
    def num_revealed(self) -> int:
        return int((self.step_N >= 0).sum())

    @property
    def order_N(self) -> IntArray:
        """0-based total order over revealed slots (step, then entropy, then slot); -1 never."""
        return order_from_step(self.step_N, self.entropy_N)

    def problem(self) -> str | None:
        """The first broken invariant, beginning with the name of the column at fault, or None."""
        num_slots = self.num_slots
        if not self.id:
            return "id is empty"
        if num_slots == 0:
            return "response_ids has no slots"
        for name in ("step_N", "entropy_N", "confidence_N"):
            if len(getattr(self, name)) != num_slots:
                return f"{name[:-2]} has {len(getattr(self, name))} values for {num_slots} slots"
        if len(self.prompt_ids) == 0:
            return "prompt_ids is empty"
        for name, ids in (("prompt_ids", self.prompt_ids), ("response_ids", self.response_ids_N)):
            if (least := int(ids.min())) < 0:
                return f"{name} has the negative token id {least}"
        if (least := int(self.step_N.min())) < -1:
            return f"step has {least}; the least value is -1 (never revealed)"
        if (largest := int(self.step_N.max())) >= self.num_forwards:
            return f"step {largest} is not below num_forwards {self.num_forwards}"
        if len(self.edits):
            slot, step = self.edits[:, 0], self.edits[:, 1]
            if slot.min() < 0 or slot.max() >= num_slots:
                return f"edits name a slot outside of the {num_slots}"
            if (step <= self.step_N[slot]).any() or (step >= self.num_forwards).any():
                return "edits come before their slot was revealed, or after the last call"
            if (self.step_N[slot] < 0).any() or self.edits[:, 2:].min() < 0:
                return "edits of a slot that was never revealed, or with a negative token id"
        # A number is recorded at every revealed slot, or at none of them: a NaN in between is a
        # defect of the recorder and not a gap in the file.
        revealed = self.step_N >= 0
        for name, values in (("entropy", self.entropy_N), ("confidence", self.confidence_N)):
            known = values[revealed]
            highest = 1 + 1e-6 if name == "confidence" else np.finfo(np.float32).max
            is_fine = ((known >= -1e-6) & (known <= highest)).all()
            if not is_fine and not np.isnan(known).all():
                return f"{name} of a revealed slot is negative, too large or not finite"
        return None
