"""Made-up trajectories that are valid, distinct and the same in every run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tabom.trajectory.record import Trajectory

MASK = 99


def make_trajectory(i: int, **changes: Any) -> Trajectory:
    generator = np.random.default_rng(i)
    n = int(generator.integers(1, 9))
    step = generator.integers(-1, 2 * n, n)
    never = step < 0
    values: dict[str, Any] = {
        "id": f"id-{i:04d}",
        "prompt": f'prompt "{i}"\nüñ\\',
        "prompt_ids": generator.integers(0, 90, int(generator.integers(1, 6))),
        "response": f"answer {i}",
        "response_ids_N": np.where(never, MASK, generator.integers(0, 90, n)),
        "step_N": step,
        "entropy_N": np.where(never, np.nan, generator.random(n)),
        "confidence_N": np.where(never, np.nan, generator.random(n)),
        "num_forwards": 2 * n,
        "task": "toy",
        "reference": str(i),
        "row": {"k": i, "nested": {"a": [1, None, "x"]}},
        "fingerprint": "f",
    }
    return Trajectory(**{**values, **changes})


def content(trajectory: Trajectory) -> tuple[Any, ...]:
    """Everything a trajectory says, in values that compare (NaN equal to NaN)."""
    return tuple(
        (v.dtype.str, v.tobytes()) if isinstance(v, np.ndarray) else v
        for v in vars(trajectory).values()
    )


@pytest.fixture
def make() -> Callable[..., Trajectory]:
    return make_trajectory


@pytest.fixture
def says() -> Callable[[Trajectory], tuple[Any, ...]]:
    return content
