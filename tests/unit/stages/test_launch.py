"""Launchers: the same results by several workers; scripts for Slurm; status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tabom.cli.main import main
from tabom.core.chunks import Chunks, cut
from tabom.core.errors import ConfigError
from tabom.evaluation.run import cut_questions
from tabom.stages.launch import visible_gpus
from tabom.stages.launch_config import LaunchConfig
from tabom.trajectory.verdicts import read_verdicts


@pytest.mark.parametrize("given", [0, -1, "all", True, 1.5])
def test_a_number_of_workers_that_there_is_not(given: object) -> None:
    with pytest.raises(ConfigError, match="chunk_workers"):
        LaunchConfig(chunk_workers=given)


def test_gpus_are_those_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, found in (("", []), ("-1", []), ("3", ["3"]), ("0,GPU-ab", ["0", "GPU-ab"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == found


def test_a_job_script_is_printed_and_nothing_else_happens(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o u t"
    assert main(["collect", "--config", str(tiny_recipe), "--output_dir", str(out), "--launcher",
                 "slurm", "--chunk-workers=4", "--chunk_size", "64"]) == 0  # fmt: skip
    script = capsys.readouterr().out
    for line in (
        "#SBATCH --array=0-3", "#SBATCH --signal=TERM@120", "#SBATCH --requeue",
        "#SBATCH --gpus-per-task=1", "--chunk_size 64", f"--output_dir '{out}'",
    ):  # fmt: skip
        assert line in script
    assert script.count("--launcher") == 2  # in the comment, and the worker's own
    assert not out.exists()
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_of_what_is_begun_done_and_not_there(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["status", str(out)]) == 2
    assert "nothing of tabom's" in capsys.readouterr().err
    command = ["collect", "--config", str(tiny_recipe), "--quiet", "--output_dir", str(out)]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    assert "collect complete" in capsys.readouterr().out
    half = tmp_path / "half"
    half.mkdir()
    (half / ".started.json").write_text("{}")
    mine = Chunks(half, size=8)
    mine.begin("f", lambda: {"": cut(24, 8)})
    attempt = mine.take()
    assert attempt is not None
    mine.put(attempt, b"x")
    assert main(["status", str(half)]) == 4
    assert "8 of 24 rows, 1 of 3 chunks done, 0 running" in capsys.readouterr().out
    attempt = mine.take()
    assert main(["status", str(half)]) == 3
    assert "1 running" in capsys.readouterr().out


def test_questions_are_cut_in_whole_batches_and_fields_apart() -> None:
    class One:
        questions = tuple(range(100))
        decodings = ()

    from tabom.decoding.config import DecodingConfig

    one = One()
    one.decodings = (DecodingConfig(), DecodingConfig(tokens_per_step=4))  # type: ignore[assignment]
    ranges = cut_questions([one], size=30, batch_size=8, num_fields=10)  # type: ignore[list-item]
    assert ranges == {
        "0/1": [(0, 10), (10, 34), (34, 58), (58, 82), (82, 100)],
        "0/4": [(0, 24), (24, 48), (48, 72), (72, 96), (96, 100)],
    }


@pytest.mark.slow
def test_verification_and_evaluation_by_two_workers_equal_one(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tabom", *words, "--config", str(tiny_recipe), "--quiet",
             "--set", "collection.batch_size=1", "--set", "evaluation.batch_size=1",
             "--set", "evaluation.num_fields=3"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    store = str(tmp_path / "store")
    run("collect", "--output_dir", store)
    for number, more in enumerate([[], ["--chunk_workers", "2", "--chunk_size", "5"]]):
        here = tmp_path / str(number)
        run("verify", "--trajectories", store, "--output_dir", str(here / "v"), *more)
        run("evaluate", "--output_dir", str(here / "e"), *more)
    one, two = tmp_path / "0", tmp_path / "1"
    assert read_verdicts(one / "v/verdicts.parquet") == read_verdicts(two / "v/verdicts.parquet")
    for name in ("records.parquet", "trajectories.parquet"):
        assert pq.read_table(one / "e" / name).equals(pq.read_table(two / "e" / name))
    for name in ("fields.json", "results.json", "evaluation.json"):
        assert (one / "e" / name).read_bytes() == (two / "e" / name).read_bytes()
    for folder in (two / "v", two / "e"):
        assert not (folder / ".unfinished").exists()
        assert (folder / "manifest.json").is_file()


@pytest.mark.slow
def test_ray_workers_and_driver_are_killed(tiny_recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    one, out = tmp_path / "one", tmp_path / "out"
    command = [
        sys.executable, "-m", "tabom", "collect", "--config", str(tiny_recipe), "--quiet",
        "--set", "prompts.args.num=800", "--set", "collection.batch_size=1", "--chunk_size", "8",
    ]  # fmt: skip
    subprocess.run([*command, "--output_dir", str(one)], check=True, capture_output=True)
    run = [*command, "--output_dir", str(out), "--launcher", "ray", "--chunk_workers", "2",
           "--gpus_per_worker", "0"]  # fmt: skip
    for kills in range(2):
        process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
        wanted = len(list(out.glob("data/*"))) + 3
        while len(list(out.glob("data/*"))) < wanted:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        if kills == 0:
            (victim, *_) = _actors()
            os.kill(victim, signal.SIGKILL)
            while len(list(out.glob("data/*"))) < wanted + 5 and process.poll() is None:
                time.sleep(0.05)
        process.kill()
        process.wait()
        while _actors():  # they end with the driver
            time.sleep(0.1)
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = [
        pq.read_table(folder / "data", columns=["id", "response_ids", "step"])
        for folder in (one, out)
    ]
    assert read[0].sort_by("id").equals(read[1].sort_by("id"))


def _actors() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::Actor"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_job_script_of_a_recipe(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", str(tiny_recipe), "--output_dir", str(tmp_path / "out"), "--launcher", "slurm",
           "--chunk_workers", "3"]  # fmt: skip
    assert main(run) == 0
    script = capsys.readouterr().out
    for line in ("#SBATCH --array=0-2", "srun tabom run", '--shard "$SLURM_ARRAY_TASK_ID/'):
        assert line in script
    assert not (tmp_path / "out").exists()
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
