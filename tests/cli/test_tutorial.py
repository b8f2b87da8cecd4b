"""The tutorial, each block as printed, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: str, tmp_path: Path) -> list[str]:
    """Do what a page says, and give what each command said.

    A block that names a file in its first line is that file; bash blocks are run in turn.
    """
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    said = []
    for language, text in BLOCK.findall((ROOT / "docs" / page).read_text()):
        if language != "bash":
            name = text.splitlines()[0].removeprefix("# ")
            (tmp_path / name).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout + done.stderr)
    return said


@pytest.mark.slow
def test_parts_of_ones_own_make_a_study(tmp_path: Path) -> None:
    """Each example is at most 15 lines of code, and all of them run together."""
    said = follow("extending.md", tmp_path)
    assert "late" in said[-1]
    assert "sharp" in said[-1]
    summary = json.loads((tmp_path / "runs" / "own" / "summary.json").read_text())
    assert "backwards" in json.dumps(summary["comparison"])
    for path in tmp_path.glob("my_*.py"):
        lines = [x for x in path.read_text().splitlines() if x.strip() and not x.startswith("#")]
        assert len(lines) <= 15, path


@pytest.mark.slow
def test_a_newcomer_reaches_a_report_by_the_tutorial_alone(tmp_path: Path) -> None:
    """Fifty pairs, each command as printed; the Python of it is twenty lines."""
    said = follow("tutorial.md", tmp_path)
    assert (tmp_path / "runs" / "my-study" / "report.html").is_file()
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    assert "TABOM" in "".join(said)
    assert "'num_responses': 50" in said[-1]
    program = (tmp_path / "study.py").read_text()
    assert len([line for line in program.splitlines() if line.strip()]) <= 21
