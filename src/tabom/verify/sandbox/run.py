"""Run one job in the sandbox: a clock, a cap on what is read back, and what came of each test."""

import contextlib
import ctypes
import json
import os
import queue
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, BinaryIO, Literal

from tabom.core.configs import Bound, Count, Settings
from tabom.verify.asserts import BAD_SOURCE, Check, VacuousError, decoded, take_apart
from tabom.verify.sandbox.command import sandbox_command
from tabom.verify.sandbox.filter import open_filter
from tabom.verify.sandbox.totals import excess

State = Literal["passed", "failed", "bad_tests", "timeout", "ended", "not_started"]
_CAP = 2**20  # bytes read back from a job of asserts; a value is far shorter
_EACH_S = 0.1  # between two looks at what the processes use together
_NOT_DUMPABLE = (4, 0, 0, 0, 0)  # of prctl: PR_SET_DUMPABLE, 0


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """What a program may use."""

    timeout_s: Annotated[float, Bound(">", 0)] = 10.0
    """Seconds by the clock for a row's whole run."""
    memory_mb: Count = 1024
    """Address space of a process, in MiB, and what all of them hold together."""
    processes: Count = 16
    """Processes and threads at a time."""
    file_mb: Count = 8
    """Largest file, in MiB."""
    tmp_mb: Count = 64
    """The one writable folder, which is memory, in MiB."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. state: passed, failed, bad_tests (the tests themselves cannot be run),
    timeout, ended (without a verdict), not_started (the sandbox itself). detail: for a person.
    """

    state: State
    detail: str = ""


@dataclass(frozen=True)
class _Said:
    """What came out of a job: its messages, its errors, and why it was stopped ("" it was not)."""

    messages: list[list[Any]]
    errors: str
    stopped: str


@dataclass(frozen=True)
class _Tests:
    """The tests of a job as they are judged here. texts: for a person. judges: of each message.
    number: how many the row has; one of them may have several asserts.
    """

    texts: list[str]
    judges: list["Judge"]
    number: int


class Sandbox:
    """Runs jobs; safe to call from `num_slots` threads at a time.

    python: the interpreter inside. is_shut: False runs jobs as plain processes of ours, which
    only limits and the clock hold: the caller has said that this is wanted.
    """

    def __init__(self, *, python: str, limits: Limits, num_slots: int, is_shut: bool = True):
        self.python, self.limits, self.num_slots, self.is_shut = python, limits, num_slots, is_shut
        self._inside = (files("tabom.verify.sandbox") / "inside.py").read_text(encoding="utf-8")
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(num_slots):
            self._slots.put(slot)
        if not is_shut:
            # A program of our own user could read the expected values in our memory.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(*_NOT_DUMPABLE)

    def run(
        self,
        code: str,
        *,
        kind: Literal["asserts", "programs"],
        tests: Sequence[Any],
        entry_point: str | None = None,
        setup: str = "",
    ) -> Outcome:
        """Run `code` against its tests, whose expected values stay here.

        kind: asserts (each test is a Check, or source that is taken apart here) or programs (each
        has an input and an output as text). entry_point: a name that the code must define.
        setup: source that runs in the solution's namespace before each test.
        """
        cap = _CAP
        if kind == "programs":
            # What a program prints is cut shortly behind the longest right output: more is wrong in
            # any case, and a flood would only fill our memory.
            largest = max((len(test["output"]) for test in tests), default=0)
            job = self._job(code, kind, [test["input"] for test in tests])
            job["limits"]["output"] = largest + 2**12
            wanted = [test["output"] for test in tests]
            judges = [_printed(i, output) for i, output in enumerate(wanted, start=1)]
            judged = _Tests([f"test {i + 1}" for i in range(len(tests))], judges, len(tests))
            cap += 6 * (largest + 2**12) * len(tests)  # a character is up to six bytes of JSON
        else:
            try:
                checks = [c for test in tests for c in _checks(test)]
            except BAD_SOURCE as error:
                return Outcome("bad_tests", f"a test does not compile: {_brief(error)}")
            job = self._job(code, kind, [(check.source, check.mode) for check in checks])
            judged = _Tests([c.text for c in checks], [_passed(c) for c in checks], len(tests))
        job |= {"entry_point": entry_point, "setup": setup}
        # As root each slot has a user id of its own, so that no program can signal another.
        slot = self._slots.get()
        try:
            outcome = _outcome(self._execute(job, slot, cap), judged, self.limits.timeout_s)
            if outcome.state == "not_started":  # a busy machine: one that is broken fails again
                outcome = _outcome(self._execute(job, slot, cap), judged, self.limits.timeout_s)
        finally:
            self._slots.put(slot)
        return outcome

    def _job(self, code: str, kind: str, tests: list[Any]) -> dict[str, Any]:
        limits = {
            "cpu_s": max(1, int(self.limits.timeout_s) + 1),
            "memory_mb": self.limits.memory_mb,
            "file_mb": self.limits.file_mb,
            "processes": self.limits.processes,
            "example_s": min(1.0, self.limits.timeout_s / 5),
        }
        return {"code": code, "kind": kind, "tests": tests, "limits": limits}

    def _execute(self, job: Mapping[str, Any], slot: int, cap: int) -> _Said:
        # A program cannot know it, so whatever it prints is not taken for a verdict.
        nonce = secrets.token_hex(16)
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            given.write(json.dumps({**job, "nonce": nonce}).encode())
            given.seek(0)
            with self._process(slot, given, errors) as process:
                output, stopped = self._read(process, cap)
            errors.seek(0)
            text = errors.read(2000).decode(errors="replace")
        return _Said(_messages(output, nonce), text, stopped)

    @contextmanager
    def _process(self, slot: int, given: Any, errors: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """The interpreter with its program; all that it started is gone when the block ends."""
        arguments = ["-I", "-S", "-c", self._inside]
        with contextlib.ExitStack() as stack:
            command, folder, passed = [self.python, *arguments], "/", []
            info = None
            if self.is_shut:
                ends = os.pipe()
                info, writer = (stack.enter_context(os.fdopen(end, "rb")) for end in ends)
                calls = open_filter()
                passed = [writer, *([] if calls is None else [stack.enter_context(calls)])]
                command = sandbox_command(
                    self.python,
                    arguments,
                    slot=slot,
                    tmp_mb=self.limits.tmp_mb,
                    filter_fd=None if calls is None else calls.fileno(),
                    info_fd=writer.fileno(),
                )
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
                start_new_session=True,
                pass_fds=[file.fileno() for file in passed],
            )
            # Ours are closed at once: a pipe ends only when every copy of its end is closed.
            for file in passed:
                file.close()
            try:
                yield process
            finally:
                _kill(process, info)

    def _read(self, process: "subprocess.Popen[bytes]", cap: int) -> tuple[bytes, str]:
        """What the job says until it ends, its time is over, or it says or uses too much."""
        assert process.stdout is not None
        deadline = time.monotonic() + self.limits.timeout_s
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(output) < cap:
                left = deadline - time.monotonic()
                if left <= 0:
                    return output, "late"
                # Silence is the time to count what all its processes hold together.
                if not selector.select(min(left, _EACH_S)):
                    if self.is_shut and (why := excess(process.pid, memory_mb=self._total_mb)):
                        return output, why
                    continue
                part = os.read(process.stdout.fileno(), 2**16)
                if not part:
                    break
                output += part
        return output, ""

    @property
    def _total_mb(self) -> int:
        """What all processes may hold together; each has some of its own for the interpreter."""
        return self.limits.memory_mb + 16 * self.limits.processes


def _checks(test: Check | str) -> list[Check]:
    if isinstance(test, Check):
        return [test]
    try:
        return take_apart(test)
    except VacuousError:  # what a caller wants to run all the same
        return [Check(test.strip()[-300:], test)]


Judge = Callable[[Any], Outcome | None]  # what a test's message ends the job with; None: nothing


def _printed(number: int, wanted: str) -> Judge:
    def judge(content: Any) -> Outcome | None:
        found = decoded(content)
        lines = [_lines(text if isinstance(text, str) else "") for text in (found, wanted)]
        if lines[0] == lines[1]:
            return None
        one, other = ("\n".join(part)[:150] for part in lines)
        return Outcome("failed", f"test {number}: printed {one!r}, wanted {other!r}")

    return judge


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _passed(check: Check) -> Judge:
    def judge(content: Any) -> Outcome | None:
        if check.holds is not None:
            return None if check.holds(decoded(content)) else Outcome("failed", check.text)
        # Counted here: a program that has cleared the list of tests has passed none.
        if not check.asserts <= set(content):
            return Outcome("failed", f"{check.text}: its asserts did not run")
        if check.num_asserts and not content:
            return Outcome("bad_tests", f"{check.text}: no assert of it runs")
        return None

    return judge


def _messages(output: bytes, nonce: str) -> list[list[Any]]:
    """What a job said behind its nonce; anything else on the channel is not its own."""
    said = []
    for line in output.decode(errors="replace").split("\n"):
        if line.startswith(nonce + " "):
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(line[len(nonce) + 1 :])
                if isinstance(message, list) and len(message) == 2:
                    said.append(message)
    return said


def _outcome(said: _Said, tests: _Tests, seconds: float) -> Outcome:
    """How a job ended: each test's message is compared here, and their number counted."""
    if not said.messages:
        if said.stopped == "late":
            return Outcome("not_started", "it did not start in time")
        return Outcome("not_started", " ".join(said.errors.split())[-300:] or "no reason was given")
    try:
        return _told(said, tests, seconds)
    except (TypeError, ValueError, IndexError, KeyError):  # no message of the program inside
        return Outcome("failed", "what it said of its tests cannot be read")


def _told(said: _Said, tests: _Tests, seconds: float) -> Outcome:
    texts, judges = tests.texts, tests.judges
    done, where = 0, ""
    for kind, content in said.messages:
        if kind == "at" and isinstance(content, int):
            where = f" in {texts[content]}" if 0 <= content < len(texts) else " in the code itself"
        elif kind in ("failed", "bad_tests"):
            return Outcome(kind, str(content))
        elif kind == "raised":
            number, state, line, text = content
            return Outcome(
                "bad_tests" if state == "bad_tests" else "failed", f"{line or texts[number]}{text}"
            )
        elif kind in ("value", "ran"):
            # A test left out or told twice would shift the values against the tests.
            if not isinstance(content, list) or content[:1] != [done] or done >= len(judges):
                return Outcome("failed", f"the tests did not run in their order{where}")
            end = judges[done](content[1])
            if end is not None:
                return end
            done += 1
        elif kind == "done" and done == len(judges):
            return Outcome("passed", f"{tests.number} tests")
    if said.stopped not in ("", "late"):
        return Outcome("failed", f"{said.stopped}{where}")
    if said.stopped == "late":
        return Outcome("timeout", f"no end within {seconds:g} s{where}")
    return Outcome("ended", f"the program ended before its tests did{where}")


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _kill(process: "subprocess.Popen[bytes]", info: BinaryIO | None) -> None:
    """End the whole process group; bubblewrap takes its namespace, so its orphans, with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    if info is not None:
        _reap(info)


def _reap(info: BinaryIO) -> None:
    """Collect the sandbox's first process where it has become ours: where we are process 1."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        os.set_blocking(info.fileno(), False)
        child = int(json.loads(os.read(info.fileno(), 2**12))["child-pid"])
        for _ in range(100):
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
