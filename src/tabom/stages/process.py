"""What a worker process of ours does first: it ends with its parent, and limits its threads."""

import os
import signal
import threading
from multiprocessing import parent_process


def start(threads: int | None) -> None:
    """Begin as a worker. threads: of torch; None leaves torch's own choice."""
    # Ctrl-C reaches the whole group: the parent alone acts on it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    limit_threads(threads)


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
