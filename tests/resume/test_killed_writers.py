"""Writers killed with SIGKILL, round after round, with a changing number of them."""

import subprocess
import sys
from pathlib import Path

from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish

NUM_IDS = 90

# Collects what is not on disk yet of its share, and says an id aloud only after `append` has
# returned: what was said must never be lost. The share is cut from the whole plan: cut from what
# is left, it would depend on the moment of the scan, and a rank that starts late would do the work
# of another one again (this test caught that).
WRITER = """
import sys
import numpy as np
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryWriter

folder, rank, world, num_ids = sys.argv[1], *map(int, sys.argv[2:])
writer = TrajectoryWriter(folder)
done = writer.done()
todo = [i for i in range(num_ids)[rank::world] if f"id-{i}" not in done]
assert "torch" not in sys.modules
for i in todo:
    n = 4 + i % 5
    noise = np.random.default_rng(i).random(n)
    writer.append([Trajectory(
        id=f"id-{i}", prompt="p" * 3000, prompt_ids=[1, 2], response=str(i),
        response_ids_N=np.arange(n), step_N=np.arange(n), entropy_N=noise,
        confidence_N=noise, num_forwards=n)])
    print(f"id-{i}", flush=True)
    sys.stdin.readline()  # the test says go on, or kills
"""


def start(folder: Path, rank: int, world: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), str(rank), str(world), str(NUM_IDS)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    said: list[str] = []
    num_torn = 0
    for number, world in enumerate((2, 3, 1, 2, 4, 1, 2)):
        is_last = number == 6
        writers = [start(tmp_path, rank, world) for rank in range(world)]
        for rank, writer in enumerate(writers):
            assert writer.stdin is not None
            assert writer.stdout is not None
            budget = NUM_IDS if is_last else 3 + 2 * rank + number
            for name in writer.stdout:
                said.append(name.strip())
                budget -= 1
                if budget <= 0:
                    break
                writer.stdin.write("go\n")
        for writer in writers:
            if not is_last:
                writer.kill()  # SIGKILL: no handler, no flush, no close
            writer.communicate()
        assert set(said) <= TrajectoryWriter(tmp_path).done()
        if not is_last:
            # What a disk may leave of a file after a power cut, made by hand: a part of it.
            newest = max((tmp_path / "partial").glob("*.arrow"))
            content = newest.read_bytes()
            torn = newest.with_name(newest.name.replace(newest.name[:4], f"9{number:03d}"))
            torn.write_bytes(content[: len(content) * (number + 1) // 8])
            num_torn += 1
    assert len(said) == len(set(said))  # a resumed writer repeats nothing
    manifest = finish(
        tmp_path, fingerprint="f", settings={}, seconds=0, ids=[f"id-{i}" for i in range(NUM_IDS)]
    )
    assert manifest.counts["num_trajectories"] == NUM_IDS
    assert manifest.counts["num_doubled"] == 0
    assert manifest.counts["num_torn"] == num_torn == 6
    store = TrajectoryStore(tmp_path)
    assert [t.response for t in store] == [str(i) for i in range(NUM_IDS)]
