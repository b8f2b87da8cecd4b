"""What Ray costs beside a pool of processes: CPU seconds of all processes, start-up left out.

    python benchmarks/launchers.py            # five pairs of 60 s of work: half an hour, two cores

The same collection by two workers, by each launcher in turns. CPU time is summed over all processes
below the command (workers, and of Ray its servers), looked at every tenth of a second. What a
collection of two chunks takes is start-up, and is taken off. The rows of both must be equal.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import ratio, run_benchmark, say
from kills import RECIPE, collected, command, descendants

TICK = os.sysconf("SC_CLK_TCK")
CHUNK = 256
_FEW = 2 * CHUNK


def cpu_of(pid: int) -> float:
    """User and system seconds of a process; 0 for one that is gone."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after[11]) + int(after[12])) / TICK


def run(words: list[str]) -> tuple[float, float]:
    """CPU seconds of a command and all below it, and its wall time."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    used: dict[int, float] = {}
    while process.poll() is None:
        for pid in (process.pid, *descendants(process.pid)):
            used[pid] = max(used.get(pid, 0.0), cpu_of(pid))
        time.sleep(0.1)
    assert process.returncode == 0
    return sum(used.values()), time.monotonic() - started


def measure(args: argparse.Namespace) -> Mapping[str, Any]:
    num = 4 * CHUNK if args.tiny else args.num
    times: dict[str, list[float]] = {"local": [], "ray": []}
    wall: dict[str, list[float]] = {"local": [], "ray": []}
    start_up: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for size in (_FEW, num):
            (root / f"{size}.yaml").write_text(RECIPE.format(num=size, num_eval=8))

        def collect(launcher: str, size: int, out: Path) -> tuple[float, float]:
            return run(
                command("collect", root / f"{size}.yaml", out, "--launcher", launcher,
                        "--chunk_workers", "2", "--gpus_per_worker", "0", "--chunk_size",
                        str(CHUNK))
            )  # fmt: skip

        for launcher in times:
            start_up[launcher], _ = collect(launcher, _FEW, root / f"{launcher}-few")
        for number in range(args.rounds):
            for launcher in list(times)[:: 1 if number % 2 else -1]:
                cpu, seconds = collect(launcher, num, root / f"{launcher}-{number}")
                times[launcher].append(cpu - start_up[launcher])
                wall[launcher].append(seconds)
                say(f"{number} {launcher}: {times[launcher][-1]:.1f} s of work, {seconds:.1f} s")
            rows = [collected(root / f"{launcher}-{number}") for launcher in times]
            assert rows[0] == rows[1]
    return {
        "workers": 2,
        "prompts": num,
        "start_up_cpu_seconds": start_up,
        "cpu_seconds": times,
        "wall_seconds": wall,
        "ray_to_local": ratio(times, "ray", "local"),
    }


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--num", type=int, default=12800, help="prompts of a collection")

    run_benchmark("launchers", measure, add_arguments=add)


if __name__ == "__main__":
    main()
