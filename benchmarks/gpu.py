"""The suite for one GPU, in one call: head, LoRA step and collection against the usual way.

    PYTHONPATH=src python benchmarks/gpu.py --out gpu.json [--minutes 8]
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --tiny --out /tmp/gpu.json

Networks of Dream-7B's and LLaDA-8B's size with random bfloat16 weights are built on the device.
Every section has a budget and its own record: one that fails, or has no time left, loses nothing of
the others, and the file is written anew after each. Needs torch, transformers and peft.
"""

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import gpu_collection
import gpu_training
from common import git_commit
from random_models import DREAM, LLADA, build_model, sizes_arguments
from tabom.core.env import hardware, versions
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.sizes import PUBLISHED_SIZES

GIB = 2**30
TINY_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "vocab_size": 512,
}


class OutOfTimeError(Exception):
    """The budget of a section, or of the suite, is spent."""


class Suite:
    """Runs sections one after another, each within a budget, and writes what is known so far."""

    def __init__(self, out: Path, *, device: str, minutes: float, is_tiny: bool) -> None:
        self.out, self.device, self.is_tiny = out, torch.device(device), is_tiny
        self.started = time.perf_counter()
        self.end = self.started + 60 * minutes
        self.deadline = self.end
        self.peak_flops = (
            gpu_training.DATASHEET_FLOPS
        )  # of bfloat16 products, measured by the first section
        self.record: dict[str, Any] = {
            "name": "gpu",
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "tiny": is_tiny,
            "versions": versions(),
            "hardware": hardware(),
            "commit": git_commit(),
            "sections": {},
        }

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def section(self, name: str, work: Callable[[dict[str, Any]], None], *, seconds: float) -> None:
        """Run `work`, which fills the record it is given as it goes on."""
        found: dict[str, Any] = {}
        self.record["sections"][name] = found
        begun = time.perf_counter()
        self.deadline = min(begun + seconds, self.end)
        try:
            self.check_time()
            work(found)
        except OutOfTimeError as reason:
            found["cut short"] = str(reason)
        except Exception as error:  # of any kind: the other sections go on
            found["failed"] = f"{type(error).__name__}: {str(error)[:600]}"
            found["where"] = traceback.format_exc()[-1500:]
        self.free()
        found["seconds"] = time.perf_counter() - begun
        self.write()
        print(f"[{time.perf_counter() - self.started:5.0f} s] {name}: {self._line(found)}")

    @staticmethod
    def _line(found: dict[str, Any]) -> str:
        return str(found.get("failed") or found.get("cut short") or "done")

    def write(self) -> None:
        """What is known so far; complete or not."""
        self.record["seconds"] = time.perf_counter() - self.started
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")

    def check_time(self) -> None:
        if time.perf_counter() > self.deadline:
            raise OutOfTimeError("the time of this section is spent")

    def free(self) -> None:
        """Give memory that nothing holds any more back to the device."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def tried(self, call: Callable[[], Any]) -> Any:
        """What `call` returns; None where the device's memory does not suffice (a result too)."""
        self.check_time()
        try:
            return call()
        except torch.cuda.OutOfMemoryError:
            pass  # what the call held goes with the error, so that it can be freed below
        self.free()
        return None

    def timed(self, call: Callable[[], Any], *, rounds: int = 3) -> dict[str, Any]:
        """Milliseconds (median, lowest, highest) after one call to warm up, and peak extra GiB."""
        found = self.tried(lambda: self._timed(call, rounds=rounds))
        return found if found is not None else {"out of memory": True}

    def _timed(self, call: Callable[[], Any], *, rounds: int) -> dict[str, Any]:
        call()
        values, extra = [], None  # a CPU has no count of its own memory
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        for _ in range(1 if self.is_tiny else rounds):
            if self.is_cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                torch.cuda.synchronize()
                values.append(start.elapsed_time(end))
            else:
                started = time.perf_counter()
                call()
                values.append(1000 * (time.perf_counter() - started))
        if self.is_cuda:
            extra = (torch.cuda.max_memory_allocated() - before) / GIB
        return {
            "ms": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "extra GiB": extra,
        }

    def network(self, name: str, **changes: Any) -> MaskedDiffusionModel:
        """A random network of a published model's size; tiny on request."""
        self.check_time()
        family = "dream" if name == DREAM else "llada"
        size = dict(TINY_MODEL) if self.is_tiny else sizes_arguments(PUBLISHED_SIZES[name])
        settings = {"dtype": torch.bfloat16, "device": self.device, **size, **changes}
        return build_model(family, **settings)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run every section; returns the record that was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: does it run at all?")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it; default 8")
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    args = parser.parse_args(argv)
    suite = Suite(args.out, device=args.device, minutes=args.minutes, is_tiny=args.tiny)
    suite.section("matrix products", lambda r: gpu_training.products(suite, r), seconds=20)
    suite.section("head", lambda r: gpu_training.head(suite, r), seconds=45)
    _sections_of(suite, DREAM)
    suite.section("decode order", lambda r: gpu_collection.mismatch(suite, r), seconds=60)
    _sections_of(suite, LLADA)
    return suite.record


def _sections_of(suite: Suite, name: str) -> None:
    """Everything that needs one network; it is freed afterwards."""
    held: list[MaskedDiffusionModel] = []
    short = name.split("/")[1]
    block_length = None if name == DREAM else 32

    def build(record: dict[str, Any]) -> None:
        held.append(suite.network(name))
        record["parameters"] = sum(p.numel() for p in held[0].parameters())

    suite.section(f"{short}: build", build, seconds=60)
    if not held:
        return
    for title, work, seconds in (
        (
            "collection",
            lambda r: gpu_collection.collection(suite, held[0], r, block_length=block_length),
            60,
        ),
        ("memory of a step", lambda r: gpu_collection.step_memory(suite, held[0], r), 20),
        ("LoRA step", lambda r: gpu_training.training(suite, held[0], r), 80),
        (
            "compiled",
            lambda r: gpu_collection.compiled(suite, held[0], r, block_length=block_length),
            90,
        ),
    ):
        suite.section(f"{short}: {title}", work, seconds=seconds)
    held.clear()
    suite.free()


if __name__ == "__main__":
    main()
