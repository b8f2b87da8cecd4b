"""The program inside the sandbox: it runs a solution and says what that computed.

Sent to the interpreter as text (`python -I -S -c`), so it uses the standard library only. It reads
one JSON object from standard input and answers on standard output, one line a message, each
behind the nonce that it was given: what the solution prints goes elsewhere. It holds no expected
value: of a test it has an expression to evaluate, or an input. Only a test that could not be taken
apart runs here whole, and then says which of its asserts it passed.
"""

import __future__

import ast
import builtins
import collections
import io
import json
import os
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

_MEGABYTE = 2**20
_MAX_PARTS = 100_000  # of a value that is sent back

Say = Callable[[str, Any], None]
_BAD_SOURCE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


class _TooLargeError(Exception):
    """A value with more parts than are sent back."""


def _limit(limits: dict[str, int]) -> None:
    pairs = (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mb"] * _MEGABYTE),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * _MEGABYTE),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
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
    try:
        text = " ".join(str(error).split())
    except BaseException:  # an exception of the solution's own, which fails again
        text = ""
    return type(error).__name__ + (": " + text[:200] if text else "")


def _innermost(error: BaseException) -> tuple[str, int]:
    """The file and line in which an error was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] == "<"]
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)


def _line_of(error: BaseException, name: str, source: str) -> str:
    """The source line of the innermost frame that is in the file `name`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if f.filename == name and f.lineno is not None]
    where = source.split("\n")
    return where[lines[-1] - 1].strip()[:300] if lines and lines[-1] <= len(where) else ""


def _module(name: str) -> dict[str, Any]:
    # A real module, since dataclasses and pickle look their class's module up.
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module.__dict__


def _plain(value: Any, left: list[int]) -> Any:
    """A value as JSON: [kind, content] of plain types; of any other type, its name."""
    # A value that is nested without end is cut off here, not by the memory limit.
    left[0] -= 1
    if left[0] < 0:
        raise _TooLargeError
    kind = type(value)
    if value is None or kind is bool:
        return ["=", value]
    # Methods of the plain types are called on the class, since a subclass may override them.
    if issubclass(kind, int):
        return ["int", hex(int.__index__(value))]
    if issubclass(kind, float):
        return ["float", float.hex(value)]
    if issubclass(kind, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if issubclass(kind, str):
        return ["str", str.__str__(value)]
    if issubclass(kind, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    for base in (list, tuple, set, frozenset):
        if issubclass(kind, base):
            return [base.__name__, [_plain(item, left) for item in base.__iter__(value)]]
    if issubclass(kind, dict):
        pairs = dict.items(value)
        return ["dict", [[_plain(k, left), _plain(v, left)] for k, v in pairs]]
    if kind.__module__ in ("decimal", "fractions"):
        return ["number", str(value)]
    return ["other", kind.__name__[:60]]


_MRO, _DICT = type.__dict__["__mro__"], type.__dict__["__dict__"]
_COUNTED = collections.Counter.__eq__  # of the library, and in Python


def _guarded(function: Any) -> Any:
    """The solution's function, whose values a test that runs here may compare.

    An object that says what it is equal to could pass for any other.
    """
    if not isinstance(function, types.FunctionType):
        return function

    def call(*arguments: Any, **more: Any) -> Any:
        return _checked(function(*arguments, **more), [_MAX_PARTS])

    return call


def _checked(value: Any, left: list[int]) -> Any:
    left[0] -= 1
    kind = type(value)
    for base in _MRO.__get__(kind):
        own = _DICT.__get__(base).get("__eq__")
        if own not in (None, _COUNTED) and type(own) is not types.WrapperDescriptorType:
            raise TypeError("the value decides itself what it is equal to")
    if kind in (list, tuple, set, frozenset, dict) and left[0] > 0:
        for item in value.items() if kind is dict else value:
            _checked(item, left)
    return value


def _run_statements(code: str, scope: dict[str, Any], entry: str | None, clock_s: float) -> str:
    """Run a solution, statement by statement; returns the first error, "" if there was none.

    entry: the function that the tests call. Statements that fail are passed over, since examples
    that read input or never end decide nothing once it is defined. None: the first error is all.
    """
    tree, flags, first = ast.parse(code, "<solution>"), 0, ""
    run, clock = exec, signal.setitimer  # kept: a solution may replace them
    left = 2 * clock_s
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for name in node.names:
                feature = getattr(__future__, name.name, None)
                flags |= 0 if feature is None else feature.compiler_flag
        has_clock = entry is not None and entry in scope and left > 0.01
        try:
            program = compile(
                ast.Module([node], []), "<solution>", "exec", flags, dont_inherit=True
            )
            if has_clock:
                signal.signal(signal.SIGALRM, _stop)
                clock(signal.ITIMER_REAL, min(clock_s, left))
            run(program, scope)
        except BaseException as error:
            first = first or _brief(error)
            if entry is None:
                return first
        finally:
            if has_clock:
                left -= min(clock_s, left) - clock(signal.ITIMER_REAL, 0)[0]
    return first


def _stop(*_: Any) -> None:
    raise TimeoutError("an example without end")


def run_asserts(job: dict[str, Any], say: Say) -> None:
    """The solution once, then each test in its namespace; the setup runs before each."""
    scope, run, evaluate = _module("solution"), exec, eval
    try:
        compile(job["code"], "<solution>", "exec")
    except _BAD_SOURCE as error:
        return say("failed", "the code does not compile: " + _brief(error))
    tests = []
    try:
        setup = compile(job["setup"], "<tests>", "exec")
        for source, mode in job["tests"]:
            tests.append((source, mode, compile(source, "<tests>", mode)))
    except _BAD_SOURCE as error:
        return say("bad_tests", "a test does not compile: " + _brief(error))
    entry, passed = job["entry_point"], set[int]()
    inside: dict[str, Any] = {}  # where tests run: one may use what another has made
    say("at", -1)
    first = _run_statements(job["code"], scope, entry, job["limits"]["example_s"])
    if (entry and entry not in scope) or (first and not entry):
        problem = "the code raised " + first if first else f"the code defines no {entry}"
        return say("failed", problem)
    # Where we are is told before each step: if the process dies, that much is known.
    for number, (source, mode, test) in enumerate(tests):
        say("at", number)
        try:
            run(setup, scope)
        except BaseException as error:
            # Only the solution's own error in it is the solution's fault.
            is_own = _innermost(error)[0] == "<solution>"
            return say("failed" if is_own else "bad_tests", "the setup raised " + _brief(error))
        inside.update({**scope, "__passed__": passed.add})
        try:
            if mode == "eval":
                value = evaluate(test, inside)
                say("value", [number, _plain(value, [_MAX_PARTS])])
                continue
            passed.clear()
            if entry:
                inside[entry] = _guarded(scope[entry])
            run(test, inside)
            say("ran", [number, sorted(passed)])
        except BaseException as error:
            return say("raised", [number, *_of_error(error, source, mode, entry)])
    return say("done", len(tests))


def _of_error(
    error: BaseException, source: str, mode: str, entry: str | None
) -> tuple[str, str, str]:
    """What an error in a test says: of the solution, or of a test that cannot be run.

    Returns (state, the line of the test, what it raised); of an expression there is but one line.
    """
    line = "" if mode == "eval" else _line_of(error, "<tests>", source) or source.strip()[:300]
    if isinstance(error, AssertionError) and mode != "eval":
        text = " ".join(str(error).split())[:200]
        return "failed", line, " (" + text + ")" if text else ""
    in_tests = _innermost(error)[0] == "<tests>"
    is_missing = isinstance(error, ImportError) or (
        isinstance(error, NameError) and getattr(error, "name", None) != entry
    )
    state = "bad_tests" if in_tests and is_missing and entry else "failed"
    return state, line, ": raised " + _brief(error)


def run_programs(job: dict[str, Any], say: Say) -> None:
    """The solution anew for each input: what it printed, and how it ended."""
    try:
        program = compile(job["code"], "<solution>", "exec")
    except _BAD_SOURCE as error:
        return say("failed", "the code does not compile: " + _brief(error))
    # The inputs of later tests lie in our memory, which a child could otherwise read.
    _hide()
    for number, given in enumerate(job["tests"]):
        say("at", number)
        with open("input.txt", "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(given)
        # A fresh process for each input: nothing that one run left behind helps the next.
        child = os.fork()
        if child == 0:
            _run_program(program)
        _, status = os.waitpid(child, 0)
        if status != 0:
            with open("error.txt", encoding="utf-8", errors="replace") as file:
                why = file.read(300)
            return say("failed", f"test {number + 1}: {why or f'ended with status {status}'}")
        with open("output.txt", encoding="utf-8", errors="replace") as file:
            say("value", [number, ["str", file.read(job["limits"]["output"])]])
    return say("done", len(job["tests"]))


def _hide() -> None:
    """Keep this process's memory from its children: not dumpable is neither read nor traced."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def _run_program(program: types.CodeType) -> NoReturn:
    status = 1
    try:
        os.dup2(os.open("input.txt", os.O_RDONLY), 0)
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
        # The channel to the judge is among them, and a program must not speak there.
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
        with open("error.txt", "w", encoding="utf-8", errors="replace") as file:
            file.write("raised " + _brief(error))
    finally:
        # No clean-up of the solution's own may run, or change how it ended.
        os._exit(status)


def main() -> None:
    """Read a job, say what came of it."""
    job = json.loads(sys.stdin.buffer.read())
    os.ftruncate(0, 0)  # the file is still open in a parent, whose /proc entry can be read
    nonce = job.pop("nonce")
    # Kept, and all of it in C: a solution may replace what it finds in modules.
    write, channel, end = os.write, os.dup(1), os._exit
    encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
        None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
    )

    def say(kind: str, detail: Any) -> None:
        line = "".join(encode([kind, detail], 0))
        data = (nonce + " " + line + "\n").encode()
        while data:
            data = data[write(channel, data) :]

    # Of site, which -S leaves out; programs end themselves with them.
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    say("started", "")
    _quiet()
    _limit(job["limits"])
    try:
        {"asserts": run_asserts, "programs": run_programs}[job["kind"]](job, say)
    except BaseException as error:  # of this program itself, such as no memory left
        say("failed", "raised " + _brief(error))
    end(0)


if __name__ == "__main__":
    main()
