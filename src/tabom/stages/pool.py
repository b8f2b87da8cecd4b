"""Stages are run, in this process or in several side by side, and it is shown how far they are."""

import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tabom.core.errors import StageError, TabomError
from tabom.core.progress import Bars, silent
from tabom.core.text import told
from tabom.stages.stage import Stage


def run_stages(
    todo: list[Stage], *, num_workers: int, threads_per_worker: int | None, is_quiet: bool = False
) -> None:
    """Run stages that `pending_stages` gave, in this process or side by side."""
    if not todo:
        return
    board = _Board(todo, is_quiet=is_quiet)
    try:
        if num_workers <= 1 or len(todo) == 1:
            _limit_threads(threads_per_worker)
            for stage in todo:
                board.start(stage)
                try:
                    board.end(stage, stage.run(board.report))
                except TabomError as error:
                    raise _at(stage, error) from error
        else:
            _run_side_by_side(todo, num_workers, threads_per_worker, board)
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


def _start_worker(events: Any, threads: int | None) -> None:
    global _events
    _events = events
    # Ctrl-C reaches the whole group: the parent alone acts on it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _limit_threads(threads)


def _follow_parent() -> None:
    """End with the parent. One that is killed cannot end its workers, which would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _limit_threads(threads: int | None) -> None:
    """Size torch's thread pools. Works only before torch is imported, as in a new process."""
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


def _run_in_worker(stage: Stage) -> dict[str, Any]:
    last = [0.0]

    def report(label: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now >= last[0] + 0.2 or done >= total:  # the parent draws no faster
            last[0] = now
            _events.put((label, done, total, note))

    return stage.run(report if _events is not None else silent)


def _run_side_by_side(
    todo: list[Stage], num_workers: int, threads: int | None, board: _Board
) -> None:
    context = get_context("spawn")
    events = context.SimpleQueue()
    waiting = {stage.folder: stage for stage in todo}
    running: dict[Future[dict[str, Any]], Stage] = {}
    processes: list[BaseProcess] = []
    oom_kills = _oom_kills()
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(events, threads),
    )
    try:
        while waiting or running:
            for stage in _ready(waiting, running.values())[: num_workers - len(running)]:
                del waiting[stage.folder]
                board.start(stage)
                running[pool.submit(_run_in_worker, stage)] = stage
                processes = list((pool._processes or {}).values())
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            while not events.empty():  # before a stage is told to have ended
                board.report(*events.get())
            for future in done:
                stage = running.pop(future)
                try:
                    board.end(stage, future.result())
                except TabomError as error:
                    raise _at(stage, error) from error
                except BrokenProcessPool as error:
                    why = _why_broken(processes, is_short=_oom_kills() > oom_kills)
                    raise StageError(f"{stage.label}: {why}; run again: it goes on") from error
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ready(waiting: dict[Path, Stage], running: Any) -> list[Stage]:
    """Stages whose needs are complete, those that open most work first."""
    blocked = set(waiting) | {stage.folder for stage in running}
    return [stage for stage in waiting.values() if not blocked.intersection(stage.needs)]


def _why_broken(processes: list[BaseProcess], *, is_short: bool) -> str:
    """How a worker process ended; want of memory is named only where the kernel says so."""
    if is_short:
        short = "the kernel killed a process for want of memory"
        return f"{short}; lower study.num_workers or a batch size"
    for process in processes:
        process.join(timeout=5)
    # The pool itself ends the others with SIGTERM.
    codes = {process.exitcode or 0 for process in processes} - {0, -signal.SIGTERM}
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
