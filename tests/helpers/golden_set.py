"""Where golden data lie: in the folder that $TABOM_GOLDEN names, or in the copy of the tests."""

import os
from pathlib import Path

IS_OTHER = "TABOM_GOLDEN" in os.environ
GOLDEN = Path(os.environ.get("TABOM_GOLDEN", Path(__file__).parents[1] / "golden"))


def folders(file: str) -> list[Path]:
    """The checkpoints of the set that have a file."""
    return sorted(path.parent for path in GOLDEN.glob(f"*/{file}"))
