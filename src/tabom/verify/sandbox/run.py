"""Run one job in the sandbox: a clock, a cap on what is read back, and a nonce."""

import contextlib
import json
import os
import queue
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from tabom.core.errors import ConfigError
from tabom.verify.sandbox.command import sandbox_command

State = Literal["passed", "failed", "bad_tests", "timeout", "ended", "not_started"]
_CAP = 2**18  # bytes read back from a job; a verdict is far shorter


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may use.

    timeout_s: seconds by the clock for a row's whole run. memory_mb: address space of a process.
    processes: processes and threads at a time. file_mb: largest file. tmp_mb: the one writable
    folder, which is memory.
    """

    timeout_s: float = 10.0
    memory_mb: int = 1024
    processes: int = 16
    file_mb: int = 8
    tmp_mb: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"verifier.args.{name} must be a positive number, got {value!r}")


@dataclass(frozen=True)
class Outcome:
    """How a job ended. state: passed, failed, bad_tests (a test does not compile), timeout, ended
    (without a verdict), not_started (the sandbox itself). detail: for a person.
    """

    state: State
    detail: str = ""


class Sandbox:
    """Runs jobs; safe to call from `num_slots` threads at a time.

    python: the interpreter inside. is_shut: False runs jobs as plain processes of ours, which
    only limits and the clock hold: the caller has said that this is wanted.
    """

    def __init__(self, *, python: str, limits: Limits, num_slots: int, is_shut: bool = True):
        self.python, self.limits, self.num_slots, self.is_shut = python, limits, num_slots, is_shut
        self._harness = (files("tabom.verify.sandbox") / "harness.py").read_text(encoding="utf-8")
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(num_slots):
            self._slots.put(slot)

    def run(
        self,
        code: str,
        *,
        kind: Literal["asserts", "programs"],
        tests: Sequence[Any],
        entry_point: str | None = None,
    ) -> Outcome:
        """Run `code` against its tests.

        kind: asserts (each test is source run in the solution's namespace) or programs (each test
        has an input and an output as text). entry_point: a name that the code must define.
        """
        nonce = secrets.token_hex(16)
        job = {
            "nonce": nonce,
            "code": code,
            "kind": kind,
            "tests": list(tests),
            "entry_point": entry_point,
            "limits": {
                "cpu_s": max(1, int(self.limits.timeout_s) + 1),
                "memory_mb": self.limits.memory_mb,
                "file_mb": self.limits.file_mb,
                "processes": self.limits.processes,
            },
        }
        slot = self._slots.get()
        try:
            outcome = self._outcome(*self._execute(job, slot), nonce)
            if outcome.state == "not_started":  # a busy machine: one that is broken fails again
                outcome = self._outcome(*self._execute(job, slot), nonce)
        finally:
            self._slots.put(slot)
        return outcome

    def _execute(self, job: Mapping[str, Any], slot: int) -> tuple[bytes, str, bool]:
        arguments = ["-I", "-S", "-c", self._harness]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            given.write(json.dumps(job).encode())
            given.seek(0)
            with contextlib.ExitStack() as stack:
                command, folder = [self.python, *arguments], None
                if self.is_shut:
                    command = sandbox_command(
                        self.python, arguments, slot=slot, tmp_mb=self.limits.tmp_mb
                    )
                else:
                    folder = stack.enter_context(tempfile.TemporaryDirectory())
                process = subprocess.Popen(
                    command,
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=folder or "/",
                    env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
                    start_new_session=True,
                )
                try:
                    output, is_late = self._read(process)
                finally:
                    _kill(process)
            errors.seek(0)
            return output, errors.read(2000).decode(errors="replace"), is_late

    def _read(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, bool]:
        """What the job says until it ends, its time is over or it says too much."""
        assert process.stdout is not None
        deadline = time.monotonic() + self.limits.timeout_s
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(output) < _CAP:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return output, True
                part = os.read(process.stdout.fileno(), 2**16)
                if not part:
                    break
                output += part
        return output, False

    def _outcome(self, output: bytes, errors: str, is_late: bool, nonce: str) -> Outcome:
        said = []
        for line in output.decode(errors="replace").split("\n"):
            if line.startswith(nonce + " "):
                with contextlib.suppress(ValueError):
                    said.append(json.loads(line[len(nonce) + 1 :]))
        if not said:
            if is_late:
                return Outcome("not_started", "it did not start in time")
            return Outcome("not_started", " ".join(errors.split())[-300:] or "no reason was given")
        state, detail = said[-1]
        if state in ("passed", "failed", "bad_tests"):
            return Outcome(state, detail)
        where = f" in {detail}" if state == "at" and detail else ""
        if is_late:
            return Outcome("timeout", f"no end within {self.limits.timeout_s:g} s{where}")
        return Outcome("ended", f"the program ended before its tests did{where}")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the whole process group; bubblewrap takes its namespace, so its orphans, with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
