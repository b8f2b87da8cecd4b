"""The program inside the sandbox: it runs a solution against its tests and says how that went.

Sent to the interpreter as text (`python -I -S -c`), so it uses the standard library only. It reads
one JSON object from standard input and answers on standard output, one line a message, each
behind the nonce that it was given: what the solution prints goes elsewhere, and a program that
ends early, whatever it prints, has not said "passed" with the nonce.
"""

import builtins
import io
import json
import os
import resource
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

_MEGABYTE = 2**20

Outcome = tuple[str, str]  # what happened, detail
Say = Callable[[str, str], None]


def _limit(limits: dict[str, int]) -> None:
    pairs = (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mb"] * _MEGABYTE),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * _MEGABYTE),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, limits["processes"]),
    )
    for which, value in pairs:
        resource.setrlimit(which, (value, value))


def _quiet() -> None:
    """Standard streams to nowhere: what a solution prints is not wanted, at any length."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return type(error).__name__ + (": " + text[:200] if text else "")


def _line_of(error: BaseException, name: str, source: str) -> str:
    """The source line of the innermost frame that is in the file `name`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == name and f.lineno is not None]
    where = source.splitlines()
    return where[lines[-1] - 1].strip()[:300] if lines and lines[-1] <= len(where) else ""


def _module(name: str) -> dict[str, Any]:
    # A real module, since dataclasses and pickle look their class's module up.
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module.__dict__


def run_asserts(job: dict[str, Any], say: Say) -> Outcome:
    """The solution once, then each test in its namespace. Returns (what happened, detail)."""
    scope, run = _module("solution"), exec  # kept: a solution may replace it
    try:
        program = compile(job["code"], "<solution>", "exec")
    except (SyntaxError, ValueError) as error:
        return "failed", "the code does not compile: " + _brief(error)
    tests = []
    for source in job["tests"]:
        try:
            tests.append((source, compile(source, "<tests>", "exec")))
        except (SyntaxError, ValueError) as error:
            return "bad_tests", "a test does not compile: " + _brief(error)
    say("at", "the code itself")
    try:
        run(program, scope)
    except BaseException as error:
        return "failed", "the code raised " + _brief(error)
    entry = job.get("entry_point")
    if entry and entry not in scope:
        return "failed", "the code defines no " + entry
    for source, test in tests:
        say("at", source.strip()[-300:])
        try:
            run(test, scope)
        except BaseException as error:
            line = _line_of(error, "<tests>", source) or source.strip()[:300]
            if isinstance(error, AssertionError):
                text = " ".join(str(error).split())[:200]
                return "failed", line + (" (" + text + ")" if text else "")
            return "failed", line + ": raised " + _brief(error)
    return "passed", str(len(tests)) + " tests"


def run_programs(job: dict[str, Any], say: Say) -> Outcome:
    """The solution anew for each (input, output), compared line by line without trailing space."""
    try:
        program = compile(job["code"], "<solution>", "exec")
    except (SyntaxError, ValueError) as error:
        return "failed", "the code does not compile: " + _brief(error)
    for number, test in enumerate(job["tests"], start=1):
        say("at", "test " + str(number))
        with open("input.txt", "w", encoding="utf-8") as file:
            file.write(test["input"])
        child = os.fork()
        if child == 0:
            _run_program(program)
        _, status = os.waitpid(child, 0)
        if status != 0:
            with open("error.txt", encoding="utf-8", errors="replace") as file:
                why = file.read(300)
            return "failed", f"test {number}: {why or f'ended with status {status}'}"
        with open("output.txt", encoding="utf-8", errors="replace") as file:
            found = _lines(file.read())
        wanted = _lines(test["output"])
        if found != wanted:
            one, other = ("\n".join(lines)[:150] for lines in (found, wanted))
            return "failed", f"test {number}: printed {one!r}, wanted {other!r}"
    return "passed", str(len(job["tests"])) + " tests"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _run_program(program: types.CodeType) -> NoReturn:
    status = 1
    try:
        os.dup2(os.open("input.txt", os.O_RDONLY), 0)
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        os.closerange(3, 64)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8")
        with open("error.txt", "w", encoding="utf-8"):
            pass
        try:
            scope = _module("__main__")
            exec(program, scope)
            status = 0
        except SystemExit as error:
            status = 0 if error.code in (None, 0) else 1
            if status:
                raise RuntimeError("ended with status " + repr(error.code)[:50]) from None
        sys.stdout.flush()
    except BaseException as error:
        status = 1
        with open("error.txt", "w", encoding="utf-8") as file:
            file.write("raised " + _brief(error))
    finally:
        os._exit(status)


def main() -> None:
    """Read a job, answer with its outcome."""
    job = json.loads(sys.stdin.buffer.read())
    os.ftruncate(0, 0)  # the file is still open in a parent, whose /proc entry can be read
    nonce = job.pop("nonce")
    # Kept: a solution may replace them.
    write, channel, end, dumps = os.write, os.dup(1), os._exit, json.dumps

    def say(kind: str, detail: str) -> None:
        line = dumps([kind, detail])
        write(channel, (nonce + " " + line + "\n").encode())

    # Of site, which -S leaves out; programs end themselves with them.
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    say("started", "")
    _quiet()
    _limit(job["limits"])
    try:
        outcome = {"asserts": run_asserts, "programs": run_programs}[job["kind"]](job, say)
    except BaseException as error:  # the harness's own, such as no memory left
        outcome = "failed", "raised " + _brief(error)
    say(*outcome)
    end(0)


if __name__ == "__main__":
    main()
