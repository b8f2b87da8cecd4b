"""What the tests of checkers share: sample rows, a trajectory, a sandbox where there is one."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tabom.core.errors import ConfigError
from tabom.trajectory.record import Trajectory

DATA = Path(os.environ.get("TABOM_DATA", Path(__file__).parents[2] / "data"))


@pytest.fixture(scope="session")
def rows() -> Callable[[str], list[dict[str, Any]]]:
    """The rows of a sample file, or of the whole file in $TABOM_DATA."""

    def read(name: str) -> list[dict[str, Any]]:
        lines = (DATA / name).read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    return read


@pytest.fixture(scope="session")
def make() -> Callable[..., Trajectory]:
    """A complete trajectory with a response; MASK is 1 and END is 2."""

    def build(
        response: str, *, reference: str = "", ids: tuple[int, ...] = (5, 2), **fields: Any
    ) -> Trajectory:
        n = len(ids)
        return Trajectory(
            id=fields.pop("id", "t"),
            prompt=fields.pop("prompt", "p"),
            prompt_ids=[3],
            response=response,
            response_ids_N=list(ids),
            step_N=[-1 if i == 1 else s for s, i in enumerate(ids)],
            entropy_N=[0.1] * n,
            confidence_N=[0.9] * n,
            num_forwards=n,
            reference=reference,
            **fields,
        )

    return build


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Any]:
    """A sandbox with a short clock; the tests that need one are skipped where there is none."""
    from tabom.verify.sandbox.command import missing_tools
    from tabom.verify.sandbox.probe import open_sandbox
    from tabom.verify.sandbox.run import Limits

    missing = missing_tools()
    if missing is not None:
        pytest.skip(f"no sandbox: {missing} (apt-get install bubblewrap)")
    try:
        yield open_sandbox(limits=Limits(timeout_s=2), num_slots=2)
    except ConfigError as error:
        if "does not start" not in str(error):
            raise  # one that leaks is a failure, not a reason to skip
        pytest.skip(str(error))
