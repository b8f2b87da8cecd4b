"""From `main` to the model there are few hand-overs."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "frames.py"


def test_few_frames_lie_between_main_and_the_model() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--require", "9"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for verb in ("collect", "evaluate"):
        assert f"{verb}: 9 frames, 5 before Decoder.decode" in done.stdout
