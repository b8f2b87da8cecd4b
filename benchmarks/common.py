"""The harness that all benchmarks share: paired CPU times, peak memory, equality first, one JSON.

A script names its variants, proves that they give the same numbers (`assert_close`), times them in
turns (`paired`) and hands plain data to `run_benchmark`, which writes `results/<name>.json`.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# Before torch: its thread pools are sized when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tabom.core.env import hardware, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEED = 0  # of every synthetic input and weight
Call = Callable[[], Any]
Ratio = dict[str, float]


def git_commit() -> str | None:
    """The commit of this source tree, "-dirty" added if it was changed; None if not in git."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# ---- time ----


def paired(calls: Mapping[str, Call], *, rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each call, one list entry per round, on one torch thread.

    All calls are timed once in every round, so that what else the machine does hits them alike;
    the order is rotated by round. CPU time, unlike wall clock, leaves out waiting for a core.
    The calls must have run once before (their proof of equality is that).
    repeat: times that a call is made per round, for calls below about 10 ms; seconds are per call.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                gc.collect()
                started = time.process_time()
                for _ in range(repeat):
                    calls[name]()
                times[name].append((time.process_time() - started) / repeat)
    finally:
        torch.set_num_threads(num_threads)
    return times


def ratio(times: Mapping[str, list[float]], slow: str, fast: str) -> Ratio:
    """How many times less `fast` takes than `slow`: median, lowest and highest over the rounds."""
    values = [s / f for s, f in zip(times[slow], times[fast], strict=True)]
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def claim(
    name: str,
    measured: Ratio | float,
    *,
    bar: float,
    unit: str = "x less time",
    at_most: bool = False,
) -> dict[str, Any]:
    """One line of the tables: what was to be shown, what was measured, and whether it holds.

    A script lists its claims under "claims" in its payload; `tables.py` prints them and collects
    the ratios for `ratios.json`. measured: a ratio of `ratio`, or a single number (memory).
    at_most: the bar is an upper one.
    """
    if isinstance(measured, float | int):
        values = {"median": measured, "low": measured, "high": measured}
    else:
        values = dict(measured)
    median = values["median"]
    holds = median <= bar if at_most else median >= bar
    return {
        "name": name,
        "unit": unit,
        "bar": bar,
        "at_most": at_most,
        **values,
        "holds": holds,
    }


# ---- memory ----


def peak_memory(
    make: Callable[..., Call], *, warm_up: Mapping[str, Any] | None = None, **kwargs: Any
) -> int:
    """Bytes by which a call raises the resident memory over what was there just before it.

    make: a module-level function of a script of this folder. `make(**kwargs)` builds the inputs
        and returns the call to measure. kwargs: plain data, for they go through JSON.
    warm_up: kwargs changed to small sizes: that call is made first, so that lazy imports and the
        allocator's first pages are not counted.
    One fresh process per figure: memory that an earlier call gave back to the allocator, and not
    to the system, would hide the peak of a later one.
    """
    job = {
        "file": str(Path(make.__code__.co_filename).resolve()),
        "function": make.__name__,
        "kwargs": kwargs,
        "warm_up": {**kwargs, **warm_up} if warm_up else None,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), json.dumps(job)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the memory measurement of {make.__name__} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def _measure_peak(job: Mapping[str, Any]) -> int:
    path = Path(job["file"])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    make = getattr(module, job["function"])
    torch.set_num_threads(1)
    if job["warm_up"] is not None:
        make(**job["warm_up"])()
    call = make(**job["kwargs"])
    gc.collect()
    _trim()
    before = _status_bytes("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is now
        call()
        peak = _status_bytes("VmHWM")
    except OSError:  # not permitted: then the highest mark since the start has to do
        call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(peak - before, 0)


def _trim() -> None:
    """Give free pages back, so that the call has to ask for its own."""
    with contextlib.suppress(OSError, AttributeError):  # where the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


# ---- equality ----


def assert_close(
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    atol: float | Mapping[str, float] = 0.0,
    rtol: float | Mapping[str, float] = 0.0,
) -> dict[str, dict[str, float]]:
    """Check every named number or tensor, and return the largest differences for the record.

    atol, rtol: |actual - expected| <= atol + rtol * max |expected|, over a whole tensor at once;
        one number for all, or one per name (a name left out: 0, so equal to the bit).
    Returns: {name: {"abs": largest difference, "rel": that over the largest expected value}}.
    Raises: AssertionError that says which name is off and by how much.
    """
    if set(actual) != set(expected):
        raise AssertionError(f"compared {sorted(actual)} with {sorted(expected)}")
    found: dict[str, dict[str, float]] = {}
    for name in expected:
        a, e = (torch.as_tensor(x[name]).detach() for x in (actual, expected))
        if a.shape != e.shape:
            raise AssertionError(f"{name}: shape {tuple(a.shape)}, expected {tuple(e.shape)}")
        a, e = a.double(), e.double()
        largest = float((a - e).abs().max()) if e.numel() else 0.0
        scale = float(e.abs().max()) if e.numel() else 0.0
        found[name] = {"abs": largest, "rel": largest / scale if scale else largest}
        allowed = _of(atol, name) + _of(rtol, name) * scale
        if not largest <= allowed:  # NaN is not close
            raise AssertionError(f"{name}: differs by {largest:.3g}, {allowed:.3g} is allowed")
    return found


def _of(value: float | Mapping[str, float], name: str) -> float:
    return value.get(name, 0.0) if isinstance(value, Mapping) else value


# ---- results ----


def save(name: str, payload: Mapping[str, Any], *, folder: Path = RESULTS, **about: Any) -> Path:
    """Write `<folder>/<name>.json`: the payload under "results", and where it was made."""
    record = {
        "name": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "seed": SEED,
        "threads": 1,
        **about,
        "load_average": round(os.getloadavg()[0], 1),
        "versions": versions(),
        "hardware": hardware(),
        "commit": git_commit(),
        "results": payload,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(_rounded(record), indent=2) + "\n", encoding="utf-8")
    return path


def load(name: str, *, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The record that `save` wrote; None if there is none."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _rounded(value: Any) -> Any:
    """Five significant digits: more are noise, and make every diff of a result unreadable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    return value


def run_benchmark(
    name: str,
    measure: Callable[[argparse.Namespace], Mapping[str, Any]],
    *,
    rounds: int = 5,
    argv: list[str] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> dict[str, Any]:
    """The command line of a script: measures, saves and says where.

    measure: gets the parsed arguments (`tiny`, `rounds`, `no_memory`, and what `add_arguments`
        added), returns plain data. A tiny run shows that the script works; it is saved only with
        --output.
    Returns: what was measured.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules[measure.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does it run at all?")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default {rounds}")
    parser.add_argument("--no_memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--output", type=Path, help="folder of the JSON (default: results)")
    if add_arguments is not None:
        add_arguments(parser)
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    payload = dict(measure(args))
    about = {
        "rounds": args.rounds,
        "tiny": args.tiny,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
    }
    if not args.tiny or args.output:
        print(f"wrote {save(name, payload, folder=args.output or RESULTS, **about).name}")
    return payload


def say(text: str) -> None:
    """Progress, to the terminal at once."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(_measure_peak(json.loads(sys.argv[1])))
