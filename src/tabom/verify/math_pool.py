"""A pool of worker processes for math-verify; one that hangs is killed by its parent."""

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

from tabom.core.configs import Bound, Settings
from tabom.core.errors import ConfigError

_START_S = 120.0  # for a worker's first answer: it imports sympy, perhaps from a slow disk


@dataclass(frozen=True, kw_only=True)
class MathArgs(Settings):
    """The `args` of a verifier of type math."""

    timeout_s: Annotated[float, Bound(">", 0)] = 10.0
    """Seconds after which a comparison is given up."""


def require_math_verify() -> None:
    """Raise ConfigError with the command that installs it if math-verify is missing."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            "verifier.type math needs math-verify, which is not installed: "
            "pip install 'tabom[math]' (or use verifier.type number for plain numbers)"
        )


class MathPool:
    """Compares answers in worker processes; safe to call from several threads.

    num_workers: processes, started when first needed; they end with the pool or with this process.
    timeout_s: seconds after which a comparison is given up and its worker killed.
    """

    def __init__(self, *, num_workers: int, timeout_s: float = 10.0) -> None:
        require_math_verify()
        self.timeout_s = timeout_s
        self._workers: queue.LifoQueue[_Worker] = queue.LifoQueue()
        workers = [_Worker() for _ in range(num_workers)]
        for worker in workers:
            self._workers.put(worker)
        self._finalizer = weakref.finalize(self, _stop_all, workers)

    def compare(
        self,
        reference: str,
        answer: str,
        *,
        known: frozenset[str] = frozenset(),
        is_whole: bool = False,
    ) -> tuple[str, str]:
        """(reason, detail) of an answer against a reference.

        known: words of the question, which may stand behind a number.
        is_whole: `answer` is a whole response, in which math-verify looks for the answer itself;
            the detail is then what it found.
        """
        worker = self._workers.get()
        try:
            question = [is_whole, reference, answer, sorted(known)]
            return worker.ask(question, timeout_s=self.timeout_s)
        finally:
            self._workers.put(worker)

    def close(self) -> None:
        """End the workers; a later comparison starts them again."""
        _stop_all(list(self._workers.queue))


def _stop_all(workers: "list[_Worker]") -> None:
    for worker in workers:
        worker.stop()


class _Worker:
    """One process, started at its first question and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, question: list[Any], *, timeout_s: float) -> tuple[str, str]:
        """The worker's answer to [is it a whole response, reference, answer, known words]."""
        process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            deadline = time.monotonic() + timeout_s
            line = self._line(deadline)
            knows_gold = line == b"gold"
            if knows_gold:
                line = self._line(deadline)
        except (BrokenPipeError, EOFError):
            self.stop()
            return "wrong", "could not be compared: the worker process died"
        if line is None:
            self.stop()
            if knows_gold:
                return "wrong", f"not compared within {timeout_s:g} s: {question[2][:60]}"
            return "unverifiable", f"the reference was not read within {timeout_s:g} s"
        reason, detail = json.loads(line)
        return reason, detail

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        # A new interpreter and no fork: the parent may hold threads, and torch.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tabom.verify.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, EOFError):
            self._process.stdin.write(b'[false, "x", "x + 0", []]\n')
            self._process.stdin.flush()
            deadline = time.monotonic() + _START_S
            if self._line(deadline) == b"gold" and self._line(deadline) is not None:
                return self._process
        self.stop()
        raise ConfigError(
            f"a math-verify worker did not start: {sys.executable} -m tabom.verify.math_worker; "
            "run it by hand to see why"
        )

    def _line(self, deadline: float) -> bytes | None:
        """The next line of the worker, None if there is none by the deadline. EOFError at its end.

        Read without a buffer of Python's, which would wait for more than there is.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                part = os.read(stream.fileno(), 2**16)
                if not part:
                    raise EOFError
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def stop(self) -> None:
        process: Any = self._process
        self._process, self._rest = None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
