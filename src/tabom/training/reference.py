"""The reference model of an objective: the same network with other weights in it for a moment.

No second copy of the model is held: the base is the model with its adapter off, a snapshot is a
copy of the trained weights alone, exchanged with them while the reference is asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tabom.core.errors import StageError
from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.reference import Reference

FILE = "tabom_reference.safetensors"


class ReferenceModel:
    """Answers as the reference does, inside `active()`.

    The base of a model with an adapter is the model without it; of another one its weights are
    copied before the first step.
    """

    def __init__(self, model: MaskedDiffusionModel, reference: Reference) -> None:
        self.model = model
        self.reference = reference
        self.is_adapter = hasattr(model.lm, "peft_config")
        self._weights: dict[str, Tensor] = {}

    @property
    def needs_weights(self) -> bool:
        """Whether weights are copied; then they belong into every checkpoint."""
        return self.reference.kind == "snapshot" or not self.is_adapter

    def refresh(self, step: int) -> None:
        """Before an optimiser step: copy the weights, if this is a step for it."""
        if not self.needs_weights:
            return
        is_due = self.reference.kind == "snapshot" and step % self.reference.every == 0
        if is_due or not self._weights:
            self._weights = {name: p.detach().clone() for name, p in self._trained()}

    @contextmanager
    def active(self) -> Iterator[None]:
        """The reference's weights are in the model, which is in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        try:
            if self.needs_weights:
                with self._exchanged():
                    yield
            else:
                lm: Any = self.model.lm
                with lm.disable_adapter():
                    yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        if not self._weights:  # asked before the first step, as by a held-out loss
            self.refresh(0)
        own = {name: p.data for name, p in self._trained()}
        for name, p in self._trained():
            p.data = self._weights[name]
        try:
            yield
        finally:
            for name, p in self._trained():
                p.data = own[name]

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.lm.named_parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """Put the copied weights into a checkpoint."""
        if self._weights:
            kept = {name: weight.contiguous().cpu() for name, weight in self._weights.items()}
            save_file(kept, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take the copied weights from a checkpoint.

        Raises: StageError if they are not there or are not those of this model.
        """
        if not self.needs_weights:
            return
        path = folder / FILE
        found = load_file(path) if path.is_file() else {}
        trained = dict(self._trained())
        if {n: w.shape for n, w in found.items()} != {n: p.shape for n, p in trained.items()}:
            raise StageError(
                f"checkpoint {folder} does not hold the reference weights of this model ({FILE}); "
                "remove it, or pass --resume never"
            )
        self._weights = {name: weight.to(trained[name]) for name, weight in found.items()}
