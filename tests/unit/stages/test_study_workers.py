"""Worker processes of a study never outlive it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tabom.core.chunks import Chunks
from tabom.core.errors import StageError
from tabom.stages.launch_config import StudyConfig
from tabom.stages.pool import run_stages
from tabom.stages.stage import Counts, Done, Stage
from tabom.trajectory.store import TrajectoryStore

TWO = StudyConfig(num_workers=2, threads_per_worker=1)

SCRIPT = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tabom.stages.pool import _start_worker

if __name__ == "__main__":
    pool = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(None, 1)
    )
    print(pool.submit(os.getpid).result(), flush=True)
    os._exit(9)  # killed: no cleanup runs
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 9
    worker = int(done.stdout)
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    raise AssertionError("the worker is still there a minute after its parent")


@dataclass(frozen=True, kw_only=True)
class Dies(Stage):
    """Ends its process as it is told to."""

    kind: ClassVar[str] = "dies"
    how: str = ""

    def work(self, report: Done) -> Counts:
        if self.how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)


@pytest.mark.parametrize(("how", "words"), [("SIGKILL", "SIGKILL"), ("exit", "status 7")])
def test_a_worker_that_ends_is_told_as_it_ended(tmp_path: Path, how: str, words: str) -> None:
    """Want of memory is not guessed."""
    stages = [Dies(folder=tmp_path / name, label=name, how=how) for name in ("x", "y")]
    with pytest.raises(StageError, match=words) as caught:
        run_stages(list(stages), study=TWO, is_quiet=True)
    assert "memory" not in str(caught.value)


def _study(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tabom", "run", str(recipe), "--quiet", "--output_dir", str(out),
         "--set", "collection.batch_size=1", "--set", "evaluation.batch_size=1", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _same_results(one: Path, two: Path) -> None:
    """What a study found, but for times."""
    found = []
    for root in (one, two):
        rows = TrajectoryStore(root / "seed-0" / "collect")
        found.append(
            [
                sorted((t.id, t.response_ids_N.tolist(), t.step_N.tolist()) for t in rows),
                (root / "seed-0/tabom/evaluate/results.json").read_bytes(),
                (root / "base/diagnose/diagnostics.json").read_bytes(),
                json.loads((root / "summary.json").read_text())["comparison"],
            ]
        )
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_share_a_study(tiny_recipe: Path, tmp_path: Path) -> None:
    """As the tasks of a job array do; one is killed, and what it had begun is begun again."""
    one, two = tmp_path / "one", tmp_path / "two"
    done = _study(tiny_recipe, one)
    assert done.wait() == 0, done.stdout.read() if done.stdout else ""
    shares = [_study(tiny_recipe, two, "--shard", f"{k}/3", "--chunk_size", "5") for k in range(3)]
    while not (two / "seed-0/collect/manifest.json").is_file():
        assert all(share.poll() is None for share in shares)
        time.sleep(0.05)
    shares[0].kill()
    for share in shares[1:]:
        assert share.wait() == 0, share.stdout.read() if share.stdout else ""
    _same_results(one, two)
    assert not [p for p in two.rglob("chunk-*") if ".claims" in p.parts]


@pytest.mark.slow
def test_a_study_on_ray_outlives_its_workers(tiny_recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs tabom[ray]")
    one, two = tmp_path / "one", tmp_path / "two"
    done = _study(tiny_recipe, one)
    assert done.wait() == 0, done.stdout.read() if done.stdout else ""
    done = _study(tiny_recipe, two, "--launcher", "ray", "--gpus_per_worker", "0")
    killed: set[str] = set()
    while done.poll() is None:
        for name in ("seed-0/collect", "seed-0/tabom/train", "base/evaluate"):
            is_begun = name not in killed and (two / name / ".started.json").is_file()
            if is_begun and (workers := _ray_workers(done.pid)):
                os.kill(workers[len(killed) % len(workers)], signal.SIGKILL)
                killed.add(name)
        time.sleep(0.02)
    assert done.returncode == 0, done.stdout.read() if done.stdout else ""
    assert len(killed) == 3
    _same_results(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["--num_workers", "2"], ["--launcher", "ray", "--gpus_per_worker", "0"]]
)
def test_sigterm_ends_a_study_with_its_batches(
    tiny_recipe: Path, tmp_path: Path, more: list[str]
) -> None:
    if "ray" in more:
        pytest.importorskip("ray", reason="needs tabom[ray]")
    out = tmp_path / "out"
    more += ["--set", "prompts.args.num=2000", "--chunk_size", "32"]
    study = _study(tiny_recipe, out, *more)
    collected = out / "seed-0" / "collect"
    while len(list(collected.glob("data/*"))) < 2:
        assert study.poll() is None, study.stdout.read() if study.stdout else ""
        time.sleep(0.05)
    study.terminate()
    assert study.wait() == 143, study.stdout.read() if study.stdout else ""
    assert not (collected / "manifest.json").is_file()
    status = Chunks(collected).status()
    assert status.num_done >= 2
    assert status.num_running == status.num_lost == 0  # what was in work went back


def _ray_workers(driver: int) -> list[int]:
    """Processes in which a stage of this driver runs."""
    names, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            names[int(path.name)] = (path / "cmdline").read_bytes()
            after = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(after[1])
        except OSError:
            continue

    def is_of_driver(pid: int) -> bool:
        while pid > 1 and pid != driver:
            pid = parents.get(pid, 0)
        return pid == driver

    return [p for p, n in names.items() if n.startswith(b"ray::Actor") and is_of_driver(p)]
