"""Where the chunks of a stage are worked on: here, by a pool of processes, on Ray or on Slurm.

Workers know nothing of each other. Each runs the stage as it is, takes chunks until none is left
(`core.chunks`), and the one that sees the end finishes it. A launcher starts them, starts those
again that die, and shows how far all are.
"""

import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tabom.core import manifest
from tabom.core.chunks import Chunks
from tabom.core.errors import ConfigError, DataError, StageError, TabomError
from tabom.core.identity import FLAGGED, FREE
from tabom.core.place import is_remote, remove
from tabom.core.preempt import Preemption
from tabom.core.progress import Report
from tabom.core.text import without_flags
from tabom.stages.launch_config import LaunchConfig
from tabom.stages.process import start
from tabom.stages.stage import UNFINISHED, Counts, Stage

_POLL_S = 1.0
_STRIKES = 3  # deaths in a row that leave no trace


@dataclass(frozen=True, kw_only=True)
class Chunked(Stage):
    """A stage whose work is cut into chunks, for any number of processes."""

    resumes: ClassVar[bool] = True
    plan_in: ClassVar[str] = UNFINISHED
    """Where in the folder its chunks are."""
    uses_gpus: ClassVar[bool] = True
    """Whether a worker of its own for each GPU is what auto means."""

    launch: LaunchConfig = field(default_factory=LaunchConfig, metadata=FLAGGED)
    rank: int = field(default=0, metadata=FREE)
    world_size: int = field(default=1, metadata=FREE)
    """Which of so many workers this process is; each begins with chunks of its own."""
    is_led: bool = field(default=False, metadata=FREE)
    """Whether a launcher started this process, which then waits for the chunks of others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank {self.rank} of {self.world_size} processes; expected one from 0 to "
                f"{self.world_size - 1} (--shard, or RANK and WORLD_SIZE of the environment)"
            )

    def chunks(self) -> Chunks:
        """Its chunks, for this worker."""
        return Chunks(
            self.folder / self.plan_in if self.plan_in else self.folder,
            size=self.launch.chunk_size,
            max_retries=self.launch.max_retries,
            share=(self.rank, self.world_size),
            waits=self.is_led,
            suffix=".parquet" if not self.plan_in else ".json",
            is_over=self.is_complete,
        )

    @property
    def is_worker(self) -> bool:
        """Whether it was started as one of several."""
        return self.is_led or self.world_size > 1

    @property
    def is_one_of_many(self) -> bool:
        """Whether others work on its chunks, too; at a URL, without locks, nobody can know."""
        return self.is_worker or is_remote(self.folder)

    def ended(self, chunks: Chunks, write: Callable[[], Counts]) -> Counts:
        """What the stage counts, when its chunks are done: by one of all workers.

        write: makes the result of the chunks. Its counts have `missing` where others still work.
        """
        chunks.scan()
        if failed := chunks.failed():
            raise StageError(
                f"{self.folder}: {len(failed)} parts of the work kill every worker, the first "
                f"{failed[0][0].group} from {failed[0][0].start}: {failed[0][1]}"
            )
        if left := chunks.left():
            return {"missing": sum(chunk.size for chunk in left)}
        if (end := chunks.end()) is None:
            found = manifest.check_manifest(self.folder, self.mark)
            return {"missing": 0} if found is None else dict(found.counts)
        with end:
            return write()

    def finish(self, counts: Counts, *, seconds: float) -> None:
        """Declare the folder complete, if this is the worker that made the result."""
        if not self.is_one_of_many:
            super().finish(counts, seconds=seconds)
        elif "missing" not in counts and not self.is_complete():
            manifest.write_manifest(self.folder, self.mark, counts=counts, seconds=seconds)
            remove(self.folder / UNFINISHED)

    def _lock(self, *, is_shared: bool = False) -> AbstractContextManager[None]:
        return super()._lock(is_shared=self.is_one_of_many or not self.plan_in)

    def elsewhere(self, report: Report, *, overwrite: bool) -> Counts | None:
        """Have the work done by the workers that the settings ask for; None: it is done here."""
        if self.launch.launcher == "slurm":  # a verb prints its script and does not come here
            raise ConfigError(
                "launch.launcher slurm: prints a job script, for a verb or `tabom run` with "
                "--launcher slurm; what runs takes local or ray"
            )
        num_workers = 1 if self.is_worker else self.num_workers()
        if self.is_worker or (num_workers == 1 and self.launch.launcher == "local"):
            return None
        if overwrite:
            self.make_way()
        if not self.is_complete():
            with super()._lock(is_shared=True):
                run_pool(self, self._pool(num_workers), report)
        found = manifest.check_manifest(self.folder, self.mark)
        if found is None:
            raise StageError(f"{self.folder}: not finished, though no worker is left; run it again")
        return {**found.counts, "seconds": found.seconds}

    def _pool(self, num_workers: int) -> "Pool":
        if self.launch.launcher == "local":
            return LocalPool(self, num_workers)
        from tabom.stages.ray_pool import RayPool

        return RayPool(self, self.launch, num_workers)

    def num_workers(self) -> int:
        """How many processes are asked for."""
        if self.launch.chunk_workers != "auto":
            return int(self.launch.chunk_workers)
        if self.launch.launcher == "ray":
            return 0  # what the cluster has, which is known when it is reached
        device = getattr(getattr(self, "model", None), "device", None) or "cuda"
        # One that runs beside other stages has no machine of its own.
        if parent_process() is not None or not self.uses_gpus or device != "cuda":
            return 1
        return max(int(len(visible_gpus()) / max(self.launch.gpus_per_worker, 1)), 1)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Imports no torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


_JOB = """\
#!/bin/bash
# Written by: tabom {written}
# Look at it, add your partition and account, then: sbatch FILE
#SBATCH --job-name=tabom-{verb}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
{gpus}#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

# At SIGTERM (the end of the time, or a preemption) the worker keeps its batch, gives its chunk back
# and ends with status 143. Requeued, it takes chunks again.
srun {command} --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
code=$?
if [ "$code" -eq 143 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def job_script(arguments: Sequence[str], launch: LaunchConfig) -> str:
    """A Slurm array job that runs a command of ours, each task a worker that takes chunks.

    arguments: of the command, as they were given.
    """
    words = list(without_flags(arguments, "launcher", "chunk_workers", "shard"))
    num = 8 if launch.chunk_workers == "auto" else int(launch.chunk_workers)
    gpus = launch.gpus_per_worker
    return _JOB.format(
        written=shlex.join(arguments),
        verb=words[0],
        last=num - 1,
        gpus=f"#SBATCH --gpus-per-task={gpus:g}\n" if gpus else "",
        command=shlex.join(["tabom", *words, "--launcher", "local", "--chunk_workers", "1"]),
    )


# -- a pool of processes on this machine --


class Pool(Protocol):
    """Workers of a stage, by their rank."""

    workers: dict[int, Any]

    def start(self) -> None:
        """Start the first worker that is not there."""

    def ended(self, *, timeout: float) -> Iterator[str]:
        """How workers ended that did, after some seconds at the latest; "" for one that is done.

        Raises: the error that a worker told.
        """

    def terminate(self) -> None:
        """Tell all to finish their batch and end."""

    def close(self) -> None:
        """End all; what is in their hands goes back."""


def run_pool(stage: Chunked, pool: Pool, report: Report) -> None:
    """Run workers until one of them has finished the stage; those that die are started again."""
    chunks = stage.chunks()
    strikes, seen = 0, None
    try:
        with Preemption(signal.SIGTERM, doing="every worker finishes its batch") as stop:
            while pool.workers:
                for how in pool.ended(timeout=_POLL_S):
                    if stop.is_asked or not how:
                        continue
                    # Deaths over a chunk are counted in the store, and end by themselves. Others
                    # (no memory for the model) would go on for ever.
                    now = chunks.num_traces()
                    strikes, seen = (strikes + 1 if now == seen else 1), now
                    if strikes >= _STRIKES:
                        raise StageError(
                            f"{stage.folder}: {strikes} workers ended ({how}) before they began a "
                            "chunk; what they said is above. Lower a batch size or chunk_workers"
                        )
                    pool.start()
                if stop.is_asked:
                    pool.terminate()
                show(stage, chunks, report)
            if stop.is_asked:
                stop.stop()
    finally:
        pool.close()


def show(stage: Chunked, chunks: Chunks, report: Report) -> None:
    """Report how far all workers are together, as the folder says it."""
    try:
        found = chunks.status()
    except DataError:  # the plan is not there yet, or no more
        return
    note = f"{found.rows_per_hour:.0f}/h, {found.num_running} chunks in work"
    report(stage.label, found.num_rows_done, found.num_rows, note)


class LocalPool:
    """Worker processes, each with GPUs of its own."""

    def __init__(self, stage: Chunked, num_workers: int) -> None:
        self.stage, self.num_workers = stage, num_workers
        gpus, each = visible_gpus(), int(stage.launch.gpus_per_worker)
        self._gpus = [gpus[i * each : (i + 1) * each] for i in range(num_workers)]
        self.workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self._is_told = False
        for _ in range(num_workers):
            self.start()

    def start(self) -> None:
        """See `Pool`."""
        rank = next(i for i in range(self.num_workers) if i not in self.workers)
        context = get_context("spawn")
        here, there = context.Pipe(duplex=False)
        stage = replace(self.stage, rank=rank, world_size=self.num_workers, is_led=True)
        threads = max((os.cpu_count() or 1) // self.num_workers, 1)
        process = context.Process(target=_work, args=(stage, self._gpus[rank], threads, there))
        process.start()
        there.close()
        self.workers[rank] = process, here

    def ended(self, *, timeout: float) -> Iterator[str]:
        """See `Pool`."""
        wait([process.sentinel for process, _ in self.workers.values()], timeout)
        for rank, (process, connection) in list(self.workers.items()):
            if process.is_alive():
                continue
            del self.workers[rank]
            if connection.poll():
                try:
                    raise connection.recv()
                except EOFError:
                    pass
            code = process.exitcode or 0
            yield signal.Signals(-code).name if code < 0 else f"status {code}" if code else ""

    def terminate(self) -> None:
        """See `Pool`."""
        for process, _ in self.workers.values() if not self._is_told else ():
            process.terminate()
        self._is_told = True

    def close(self) -> None:
        """See `Pool`."""
        self.terminate()
        try:
            for process, _ in self.workers.values():
                process.join()
        except KeyboardInterrupt:
            for process, _ in self.workers.values():
                process.kill()
            raise


def _work(stage: Chunked, gpus: list[str], threads: int, connection: Connection) -> None:
    """A worker: the stage as one of many, its error told to the parent."""
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    start(threads if "OMP_NUM_THREADS" not in os.environ else None)
    try:
        stage.run()
    except TabomError as error:
        connection.send(error)
