"""A few small ratios beside the committed ones, in half a minute: has something become slow?

    python benchmarks/quick.py                # prints, and never fails on a ratio
    python benchmarks/quick.py --update       # and makes them the committed ones

The sizes are far below those of the claims, so only the change of a ratio says anything.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import collector
import head
import ranking
import step
from common import Ratio, assert_close, paired, peak_memory, ratio
from random_models import SMALL_BODY
from tables import RATIOS, spread, write_ratios

HEAD: dict[str, Any] = {
    "batch_size": 2,
    "hidden_size": 128,
    "window": 32,
    "vocab_size": 16384,
    "num_prompt": 128,
    "num_slots": 128,
}
STEP: dict[str, Any] = {
    "batch_size": 2,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": 16384,
    "num_prompt": 64,
    "num_slots": 128,
}
DECODER: dict[str, Any] = {
    **SMALL_BODY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "vocab_size": 16384,
}
DECODING: dict[str, Any] = {"batch_size": 2, "num_prompt": 32, "num_slots": 64}


def measure(*, rounds: int, is_tiny: bool = False) -> dict[str, Ratio]:
    """name -> how many times less time or memory ours takes; equality is checked first."""
    found: dict[str, Ratio] = {}
    sizes = {**HEAD, **(head.TINY if is_tiny else {})}
    inputs = head.make_inputs(**sizes)
    calls = {v: head.bind(v, inputs) for v in ("usual", "gathered", "ours", "tiled")}
    expected = head.reference(inputs)
    for variant, call in calls.items():
        head.check(variant, call, expected)
    times = paired(calls, rounds=rounds)
    found["head, usual over ours, time"] = ratio(times, "usual", "ours")
    found["head, gathered over ours, time"] = ratio(times, "gathered", "ours")
    found["head, tiled over ours, time"] = ratio(times, "tiled", "ours")
    if not is_tiny:
        usual, ours = (
            peak_memory(head.make_call, warm_up=head.TINY, variant=variant, **sizes)
            for variant in ("usual", "ours")
        )
        share = usual / ours
        found["head, usual over ours, memory"] = {"median": share, "low": share, "high": share}

    calls = ranking.make_calls(batch_size=8, window=32)
    expected = calls["ours"]()
    assert_close(calls["loop over responses"](), expected, atol=1e-6)
    times = paired(calls, rounds=rounds, repeat=1 if is_tiny else 20)
    found["ranking, loop over responses, time"] = ratio(times, "loop over responses", "ours")

    steps = step.Steps(**{**STEP, **(step.TINY if is_tiny else {})})
    checks = steps.calls(update=False)
    assert_close(
        checks["ours"](),
        checks["usual"](),
        atol={"loss": 2e-5},
        rtol={"loss": 1e-6, "gradient": 1e-4},
    )
    times = paired(steps.calls(), rounds=rounds)
    found["step, usual over ours, time"] = ratio(times, "usual", "ours")
    found["step, ours over body alone, time"] = ratio(times, "ours", "body alone")

    case = replace(collector.Case(family="dream", model=DECODER, bar=0), **DECODING)
    if is_tiny:
        case = case.tiny()
    found["collector, usual over ours, time"] = collector.measure_steps(case, rounds=rounds)[
        "ratio"
    ]
    return found


def report(found: dict[str, Ratio], committed: dict[str, Ratio]) -> str:
    """One line a ratio: now, committed, and a remark where they are far apart."""
    width = max(len(name) for name in found)
    lines = [f"{'ratio'.ljust(width)}  now [range] / committed [range]"]
    for name, now in found.items():
        old = committed.get(name)
        line = f"{name.ljust(width)}  {spread(now)} / {spread(old) if old else 'none'}"
        if old and not old["median"] / 1.5 <= now["median"] <= old["median"] * 1.5:
            line += "  <- far from the committed ratio"
        lines.append(line)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does it run at all?")
    parser.add_argument("--update", action="store_true", help="commit what is measured now")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = measure(rounds=args.rounds, is_tiny=args.tiny)
    committed = json.loads(RATIOS.read_text(encoding="utf-8")) if RATIOS.is_file() else {}
    print(report(found, committed.get("quick", {})))
    print(f"{time.perf_counter() - started:.0f} seconds; ratios are not pass or fail")
    if args.update:
        rounded = {
            name: {key: float(f"{value:.4g}") for key, value in one.items()}
            for name, one in found.items()
        }
        write_ratios({"quick": rounded})


if __name__ == "__main__":
    main()
