"""`tabom verify` judges stored trajectories again, side by side, and collects nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from tabom.cli.main import main
from tabom.models.checkpoint import load_ids
from tabom.trajectory.store import TrajectoryWriter, finish
from tabom.trajectory.verdicts import read_verdicts


@pytest.fixture
def collected(tmp_path: Path, random_toy: Path, make, rows) -> Path:
    """A finished collection of HumanEval answers: right, wrong, and one row without tests."""
    end = load_ids(str(random_toy)).eos[0]
    folder = tmp_path / "collect"
    data = rows("HumanEval.jsonl")[:4]
    given = [
        make(
            row["canonical_solution"] if i % 2 == 0 else "    pass\n",
            id=row["task_id"],
            prompt=row["prompt"],
            row={k: v for k, v in row.items() if k != "prompt"},
            ids=(end, end),
        )
        for i, row in enumerate(data)
    ]
    given.append(make("    pass\n", id="bare", ids=(end, end), reference="5"))
    TrajectoryWriter(folder).append(given)
    finish(folder, fingerprint="f", settings={}, seconds=0.0, ids=[t.id for t in given])
    return folder


def verify(collected: Path, random_toy: Path, output: Path, *flags: str) -> dict[str, str]:
    status = main(
        [
            *("verify", "--trajectories", str(collected), "--output_dir", str(output), "--quiet"),
            *("--model_name_or_path", str(random_toy), *flags),
        ]
    )
    assert status == 0
    return {k: v.reason for k, v in read_verdicts(output / "verdicts.parquet").items()}


def test_code(sandbox, collected, random_toy, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in collected.rglob("*")}
    reasons = verify(collected, random_toy, tmp_path / "verdicts", "--verifier", "code")
    assert list(reasons.values()) == ["accepted", "wrong", "accepted", "wrong", "unverifiable"]
    assert {p: p.stat().st_mtime_ns for p in collected.rglob("*")} == before
    assert "accepted: 2" in capsys.readouterr().out
    # Another number of workers is the same work: nothing is refused, nothing done again.
    again = tmp_path / "verdicts" / "verdicts.parquet"
    time = again.stat().st_mtime_ns
    flags = ("--verifier", "code", "--verifier_num_workers", "1")
    assert verify(collected, random_toy, tmp_path / "verdicts", *flags) == reasons
    assert again.stat().st_mtime_ns == time


def test_unsafe_exec_is_a_flag(collected, random_toy, tmp_path, monkeypatch):
    from tabom.verify.sandbox import probe

    monkeypatch.setattr(probe, "missing_tools", lambda: "there is no bwrap")
    output = tmp_path / "unsafe"
    flags = ["--verifier", "code", "--unsafe_exec"]
    assert list(verify(collected, random_toy, output, *flags).values()).count("accepted") == 2
    verdicts = read_verdicts(output / "verdicts.parquet")
    assert {v.verifier for v in verdicts.values()} == {"code (no sandbox)"}


def test_without_a_sandbox_nothing_is_run(collected, random_toy, tmp_path, monkeypatch, capsys):
    from tabom.verify.sandbox import probe

    monkeypatch.setattr(probe, "missing_tools", lambda: "there is no bwrap")
    output = tmp_path / "refused"
    status = main(
        [
            *("verify", "--trajectories", str(collected), "--output_dir", str(output), "--quiet"),
            *("--model_name_or_path", str(random_toy), "--verifier", "code"),
        ]
    )
    assert status == 2
    assert "apt-get install bubblewrap" in capsys.readouterr().err
    assert not (output / "verdicts.parquet").exists()


def test_verifying_imports_no_torch(collected: Path, random_toy: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tabom.cli.main import main; status = main(sys.argv[1:]); "
        "print(status, [m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    arguments = [
        *("verify", "--trajectories", str(collected), "--output_dir", str(tmp_path / "out")),
        *("--model_name_or_path", str(random_toy), "--quiet", "--verifier", "accept_all"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "0 []"
