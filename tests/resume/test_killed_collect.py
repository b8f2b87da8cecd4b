"""Collections that are killed go on where they were: nothing lost, nothing doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tabom.core.chunks import Chunks
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter

Done = Callable[[], bool]


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "tabom", "collect", "--config", str(recipe), "--quiet",
        "--output_dir", str(out), "--set", "collection.batch_size=4", *more,
    ]  # fmt: skip


def on_disk(out: Path) -> set[str]:
    """The responses that are safe: in objects, and in the batches of chunks in work."""
    found = {
        i
        for p in out.glob("data/[!.]*")
        for i in pq.read_table(p, columns=["id"])["id"].to_pylist()
    }
    return found.union(*(TrajectoryWriter(spool).done() for spool in out.glob("spool/*")))


def workers_of(process: subprocess.Popen) -> list[int]:
    """The pool's workers: its children, less the one that spawn needs to count things."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (
                parent == process.pid
                and b"resource_tracker" not in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def until(process: subprocess.Popen, done: Done) -> bool:
    """Wait for something, or for the end of the process."""
    while process.poll() is None:
        if done():
            return True
        time.sleep(0.02)
    return False


def answers(out: Path) -> dict[str, Any]:
    return {t.id: (t.response_ids_N.tolist(), t.step_N.tolist()) for t in TrajectoryStore(out)}


@pytest.mark.slow
def test_a_killed_collection_resumes(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = command(tiny_recipe, out, "--set", "prompts.args.num=96", "--chunk_size", "32")
    seen: set[str] = set()
    for wanted in (4, 40):
        process = subprocess.Popen(run)
        until(process, lambda wanted=wanted: len(on_disk(out)) >= wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = on_disk(out)
        assert seen <= now
        seen = now
        assert not (out / "manifest.json").exists()
    assert 40 <= len(seen) < 96
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert f"resumed: {len(seen)}" in done.stdout
    store = TrajectoryStore(out)
    ids = [t.id for t in store]
    assert len(ids) == len(set(ids)) == 96
    assert seen <= set(ids)
    assert store.manifest is not None
    assert store.manifest.counts["num_doubled"] == 0
    assert not (out / "spool").exists()


def test_sigterm_keeps_the_batch_and_gives_the_chunk_back(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = command(tiny_recipe, out, "--set", "prompts.args.num=400")
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
    assert until(process, lambda: len(on_disk(out)) >= 4)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143
    assert "finishing this batch" in said
    status = Chunks(out).status()
    assert (status.num_running, status.num_lost) == (0, 0)
    assert not list((out / "attempts").iterdir())
    assert len(on_disk(out)) % 4 == 0


@pytest.mark.slow
def test_a_pool_whose_workers_are_killed_and_then_its_driver(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    more = ["--set", "prompts.args.num=240", "--chunk_size", "16"]
    subprocess.run(command(tiny_recipe, one, *more), check=True, capture_output=True)
    run = command(tiny_recipe, out, *more, "--launcher", "local", "--chunk_workers", "2")
    chance = random.Random(0)
    kills = 0
    for number in range(12):
        process = subprocess.Popen(run)
        wanted = 16 * number
        # What the killed run left may be there before the new workers are.
        at_work = lambda wanted=wanted, process=process: (  # noqa: E731
            len(on_disk(out)) > wanted and workers_of(process)
        )
        if not until(process, at_work):
            break
        workers = workers_of(process)
        victim = process.pid if number % 3 == 2 or not workers else chance.choice(workers)
        os.kill(victim, signal.SIGKILL)
        kills += 1
        if victim != process.pid:
            until(process, lambda wanted=wanted: len(on_disk(out)) > wanted + 16)
            process.kill()
            kills += 1
        process.wait()
    assert kills >= 8
    subprocess.run(run, check=True, capture_output=True)
    assert answers(one) == answers(out)
    assert [t.id for t in TrajectoryStore(one)] == [t.id for t in TrajectoryStore(out)]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = command(
        tiny_recipe, out, "--set", "prompts.args.num=96", "--chunk_size", "8",
        "--chunk_workers", "2",
    )  # fmt: skip
    process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
    assert until(process, lambda: len(on_disk(out)) >= 8)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert "trajectories: 96" in said
    store = TrajectoryStore(out)
    assert len({t.id for t in store}) == len(store) == 96
    assert store.manifest is not None
    assert store.manifest.counts["num_failed"] == 0


@pytest.mark.slow
def test_a_prompt_that_kills_is_left_out_and_named(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = "{num: 12, task: general, split: train, bad: [5], folder: " + f"{out}}}"
    run = command(
        tiny_recipe, out, "--set", "prompts.function=poison:prompts",
        "--set", f"prompts.args={args}",
        "--chunk_size", "4", "--max_retries", "1", "--chunk_workers", "2",
    )  # fmt: skip
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed: 1" in done.stdout
    (row,) = pq.read_table(out / "failed.parquet").to_pylist()
    assert row["row"] == 5
    assert "died" in row["why"]
    store = TrajectoryStore(out)
    assert len(store) == 11
    assert row["id"] not in {t.row["prompt_id"] for t in store}
