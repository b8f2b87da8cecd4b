"""A collection that is killed with SIGKILL goes on where it was: nothing lost, nothing doubled."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter


def test_a_killed_collection_resumes(tiny_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "tabom", "collect", "--config", str(tiny_recipe), "--quiet",
        "--output_dir", str(out), "--set", "prompts.args.num=96", "--set",
        "collection.batch_size=4",
    ]  # fmt: skip
    seen: set[str] = set()
    for wanted in (4, 24):
        process = subprocess.Popen(command)
        while len(TrajectoryWriter(out).done()) < wanted and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = TrajectoryWriter(out).done()
        assert seen <= now
        seen = now
        assert not (out / "manifest.json").exists()
    assert 24 <= len(seen) < 96
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"resumed: {len(seen)}" in done.stdout
    store = TrajectoryStore(out)
    ids = [t.id for t in store]
    assert len(ids) == len(set(ids)) == 96
    assert seen <= set(ids)
    assert store.manifest is not None
    assert store.manifest.counts["num_doubled"] == 0
