"""Which other model an objective compares with. Carried out by `training/reference.py`."""

from dataclasses import dataclass
from typing import Literal

from tabom.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model without gradient that is asked at the same slots.

    kind: "base": the model as training found it (the adapter off). "snapshot": the trained model
        as it was at the last step that `every` divides.
    every: optimiser steps between two snapshots.
    hint: it reads the prompt with the data's own answer behind it (a privileged teacher).
    """

    kind: Literal["base", "snapshot"] = "base"
    every: int = 10
    hint: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"reference_every must be at least 1 step, got {self.every}")
