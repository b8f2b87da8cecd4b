"""What a worker process of ours does first: it ends with its parent, and limits its threads."""

import os
import signal
import threading
import time
from multiprocessing import parent_process
from typing import Any

from tabom.core import preempt

GRACE_S = 10.0  # for stages to end with their batch after an error, before they are killed


def start(threads: int | None, stop: Any = None) -> None:
    """Begin as a worker. threads: of torch; None leaves torch's own choice.

    stop: a value that the parent shares; when it is set, what runs here ends with its batch.
    """
    # Ctrl-C reaches the whole group: the parent alone acts on it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if stop is not None:
        threading.Thread(target=_wait_for, args=(stop,), daemon=True).start()
    limit_threads(threads)


def _wait_for(stop: Any) -> None:
    while not stop.value:
        time.sleep(0.2)
    preempt.ask_all()


def _follow_parent() -> None:
    """End with the parent. One that is killed cannot end its workers, which would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def limit_threads(threads: int | None) -> None:
    """Size torch's thread pools. Works only before torch is imported, as in a new process."""
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)
