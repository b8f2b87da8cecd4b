"""Stages are run, in this process or in several side by side, and it is shown how far they are."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from tabom.core.chunks import Chunks
from tabom.core.errors import StageError, TabomError
from tabom.core.place import remove
from tabom.core.preempt import Preemption
from tabom.core.progress import Bars, silent
from tabom.core.text import told
from tabom.stages import process
from tabom.stages.launch import Chunked
from tabom.stages.launch_config import LaunchConfig, StudyConfig
from tabom.stages.stage import Stage

CLAIMS = ".claims"  # beside the folder of a stage: who is at work in it
_WAIT_S = 1.0
_ALONE, _HERE = StudyConfig(), LaunchConfig()


def run_stages(
    todo: list[Stage],
    *,
    study: StudyConfig = _ALONE,
    launch: LaunchConfig = _HERE,
    is_quiet: bool = False,
    overwrite: bool = False,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Run stages that `pending_stages` gave: in this process, in several, or on a Ray cluster.

    share: (K, N), this is process K of N that run them together.
    """
    if not todo:
        return
    board = _Board(todo, is_quiet=is_quiet)
    try:
        if share[1] > 1:
            _run_together(todo, board, share=share, overwrite=overwrite)
        elif launch.launcher == "ray":
            from tabom.stages.ray_stages import RayStages

            _run_along_graph(todo, RayStages(launch, overwrite=overwrite, most=len(todo)), board)
        elif study.num_workers <= 1 or len(todo) == 1:
            process.limit_threads(study.threads_per_worker)
            for stage in todo:
                board.start(stage)
                try:
                    board.end(stage, stage.run(board.report, overwrite=overwrite))
                except TabomError as error:
                    raise _at(stage, error) from error
        else:
            _run_along_graph(todo, _Processes(study, overwrite=overwrite), board)
    finally:
        board.close()


class _Board:
    """What a study shows: how far it is as a whole, the stages that run, and those that ended."""

    def __init__(self, todo: list[Stage], *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._bars = Bars(is_quiet=is_quiet)
        self._costs = {stage.label: stage.cost for stage in todo}
        self._shares = dict.fromkeys(self._costs, 0.0)

    def start(self, stage: Stage) -> None:
        """Show the stage before it says anything."""
        self._show_study()
        self._bars(stage.label, 0, None)

    def report(self, label: str, done: int, total: int, note: str = "") -> None:
        """Move a stage's row and the study's (a stage with several phases never moves it back)."""
        if total:
            self._shares[label] = max(self._shares[label], done / total)
        self._bars(label, done, total, note)
        self._show_study()

    def end(self, stage: Stage, counts: dict[str, Any]) -> None:
        """Take the stage's row away and tell in a line what it counted."""
        self._shares[stage.label] = 1.0
        self._bars.end(stage.label)
        self._show_study()
        if not self._is_quiet:
            untold = (
                "forwards",
                "tokens per forward",
                "peak memory",
            )  # a line has to hold the rest
            words = [f"{n} {value}" for n, value in told(counts) if not n.endswith(untold)]
            print(f"{stage.label:<32} {', '.join(words)}", flush=True)

    def close(self) -> None:
        self._bars.close()

    def _show_study(self) -> None:
        if len(self._costs) > 1:
            done = sum(self._shares[label] * cost for label, cost in self._costs.items())
            self._bars("study", done, sum(self._costs.values()))


def _at(stage: Stage, error: TabomError) -> TabomError:
    """The same error, saying which stage it stopped."""
    return type(error)(f"{stage.label}: {error}")


# -- several processes -------------------------------------------------------------------------

_events: Any = None  # in a worker: the queue to the parent, set once by `_start_worker`


def _start_worker(events: Any, threads: int | None, stop: Any = None) -> None:
    global _events
    _events = events
    process.start(threads, stop)


def _run_in_worker(stage: Stage, overwrite: bool) -> dict[str, Any]:
    last = [0.0]

    def report(label: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now >= last[0] + 0.2 or done >= total:  # the parent draws no faster
            last[0] = now
            _events.put((label, done, total, note))

    return stage.run(report if _events is not None else silent, overwrite=overwrite)


def _run_together(
    todo: list[Stage], board: _Board, *, share: tuple[int, int], overwrite: bool
) -> None:
    """Run stages beside other processes that do the same: a chunked one by all, others by one.

    Who has a stage that is not chunked is said in a folder beside it, as with chunks: of two who
    want it one gets it, and when that one dies another does.
    """
    left = {stage.folder: stage for stage in todo}
    while left:
        busy = True
        for stage in _ready(left, ()):
            board.start(stage)
            counts: dict[str, Any] | None
            if isinstance(stage, Chunked):
                mine = replace(stage, rank=share[0], world_size=share[1], is_led=True)
                counts = mine.run(board.report, overwrite=overwrite)
            else:
                counts = _run_alone(stage, board, overwrite=overwrite)
            if counts is not None:
                board.end(stage, counts)
                del left[stage.folder]
                busy = False
        if busy:
            time.sleep(_WAIT_S)


def _run_alone(stage: Stage, board: _Board, *, overwrite: bool) -> dict[str, Any] | None:
    """Run a stage unless another process is at it; None: it is."""
    claims = Chunks(stage.folder.parent / CLAIMS / stage.fingerprint)
    claims.begin(stage.fingerprint, lambda: {"": [(0, 1)]})
    if (attempt := claims.take()) is None:
        for _, why in claims.failed():
            raise StageError(f"{stage.label}: {why}; delete {claims.folder} to try again")
        return None
    with attempt:
        counts = stage.run(board.report, overwrite=overwrite)
    remove(claims.folder)  # whoever comes later finds the stage complete
    return counts


class Runner(Protocol):
    """Where stages run side by side."""

    most: int
    """How many at one time."""

    def submit(self, stage: Stage) -> "Future[dict[str, Any]]":
        """Begin a stage; its counts, or the error that it raised."""

    def result(self, future: "Future[dict[str, Any]]") -> dict[str, Any]:
        """What a stage that has ended counted. Raises: its error, or a StageError if it died."""

    def events(self) -> Iterator[tuple[str, int, int, str]]:
        """What stages have reported since, as `Board.report` takes it."""

    def stop(self, *, patient: bool) -> None:
        """Tell all that run to end with their batch; end those that do not soon, unless patient."""

    def close(self) -> None:
        """Wait until all have ended."""


class _Processes:
    """Processes of this machine; see `Runner`."""

    def __init__(self, study: StudyConfig, *, overwrite: bool) -> None:
        self.most, self._overwrite, self._oom_kills = study.num_workers, overwrite, _oom_kills()
        context = get_context("spawn")
        # Without a lock or a waiter: a worker that is killed could take either with it.
        self._events, self._stop = context.SimpleQueue(), context.RawValue("b", 0)
        self._pool = ProcessPoolExecutor(
            self.most,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._events, study.threads_per_worker, self._stop),
        )
        self._processes: list[BaseProcess] = []
        self._running: list[Future[dict[str, Any]]] = []

    def submit(self, stage: Stage) -> "Future[dict[str, Any]]":
        found = self._pool.submit(_run_in_worker, stage, self._overwrite)
        self._running.append(found)
        self._processes = list((self._pool._processes or {}).values())
        return found

    def events(self) -> Iterator[tuple[str, int, int, str]]:
        while not self._events.empty():
            yield self._events.get()

    def result(self, future: "Future[dict[str, Any]]") -> dict[str, Any]:
        try:
            return future.result()
        except BrokenProcessPool as error:
            why = _why_broken(self._processes, is_short=_oom_kills() > self._oom_kills)
            raise StageError(f"{why}; run again: it goes on") from error

    def stop(self, *, patient: bool) -> None:
        # Not by a signal: an idle worker would die with the lock of the queue in its hands.
        self._stop.value = 1
        if not patient and wait(self._running, process.GRACE_S).not_done:
            for worker in self._processes:
                worker.kill()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _run_along_graph(todo: list[Stage], runner: Runner, board: _Board) -> None:
    """Run each stage when those that it needs are complete. SIGTERM ends all with their batch."""
    waiting = {stage.folder: stage for stage in todo}
    running: dict[Future[dict[str, Any]], Stage] = {}
    try:
        with Preemption(signal.SIGTERM, doing="every stage finishes its batch") as stop:
            while waiting or running:
                for stage in _ready(waiting, running.values())[: runner.most - len(running)]:
                    del waiting[stage.folder]
                    board.start(stage)
                    running[runner.submit(stage)] = stage
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for event in runner.events():  # before a stage is told to have ended
                    board.report(*event)
                for future in done:
                    stage = running.pop(future)
                    try:
                        board.end(stage, runner.result(future))
                    except TabomError as error:
                        raise _at(stage, error) from error
                if stop.is_asked:
                    stop.stop()
    except BaseException as error:
        runner.stop(patient=isinstance(error, SystemExit))
        raise
    finally:
        runner.close()


def _ready(waiting: dict[Path, Stage], running: Any) -> list[Stage]:
    """Stages whose needs are complete, those that open most work first."""
    blocked = set(waiting) | {stage.folder for stage in running}
    return [stage for stage in waiting.values() if not blocked.intersection(stage.needs)]


def _why_broken(processes: list[BaseProcess], *, is_short: bool) -> str:
    """How a worker process ended; want of memory is named only where the kernel says so."""
    if is_short:
        short = "the kernel killed a process for want of memory"
        return f"{short}; lower study.num_workers or a batch size"
    for worker in processes:
        worker.join(timeout=5)
    # The pool itself ends the others with SIGTERM.
    codes = {worker.exitcode or 0 for worker in processes} - {0, -signal.SIGTERM}
    code = min(codes, default=0)
    if code < 0:
        return f"a worker process was killed by {signal.Signals(-code).name}"
    return f"a worker process ended with status {code}; what it said is above"


def _oom_kills() -> int:
    """Processes that Linux has killed for want of memory since it started; 0 where unknown."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
