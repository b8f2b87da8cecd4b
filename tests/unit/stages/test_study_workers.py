"""Worker processes of a study never outlive it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tabom.core.errors import StageError
from tabom.stages.pool import run_stages
from tabom.stages.stage import Counts, Done, Stage

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
        run_stages(list(stages), num_workers=2, threads_per_worker=1, is_quiet=True)
    assert "memory" not in str(caught.value)
