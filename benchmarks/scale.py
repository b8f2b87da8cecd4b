"""What a million rows cost: opening a store, its status, the first training step, memory, chunks.

    python benchmarks/scale.py                       # about 15 minutes, 10 GB of disk
    python benchmarks/scale.py --sizes 10000 100000 --prompts 100000

Stores of random rows of 256 slots are made with pyarrow alone. Each part runs in a process of its
own: it opens the store, asks `tabom status`, trains three steps of the toy base on all rows (twice:
the second time the converted rows are there), and cuts prompts into chunks. Wall time, for that is
what a user waits, and CPU time, for a machine may be busy; anonymous resident memory (RssAnon), for
mapped files cost none.

Legend: N response slots.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

import common
from tabom.core.chunks import Chunks, facts_of
from tabom.core.manifest import FileFacts, Mark, write_manifest
from tabom.trajectory.schema import SCHEMA
from tabom.trajectory.store import TrajectoryStore, complete, to_object

SLOTS, PER_FILE, END = 256, 256, 2


# ---- synthetic data ----


def rows(number: int, start: int, draws: np.random.Generator) -> pa.RecordBatch:
    """Random rows, a slot a step in a random order."""

    def lists(values: np.ndarray) -> pa.Array:
        offsets = np.arange(number + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))

    names = [f"{i:032x}" for i in range(start, start + number)]
    texts = [
        f"What is the answer to question {i}, as a number?" for i in range(start, start + number)
    ]
    step = draws.permuted(np.tile(np.arange(SLOTS, dtype=np.int32), (number, 1)), axis=1)
    columns = {
        "id": pa.array(names),
        "prompt": pa.array(texts),
        "prompt_ids": lists(draws.integers(5, 20, (number, 64), dtype=np.int32)),
        "response": pa.array(["a response"] * number),
        "response_ids": lists(draws.integers(5, 20, (number, SLOTS), dtype=np.int32)),
        "step": lists(step),
        "order": lists(step),
        "entropy": lists(draws.random((number, SLOTS), dtype=np.float32)),
        "confidence": lists(draws.random((number, SLOTS), dtype=np.float32)),
        "num_forwards": pa.array(np.full(number, SLOTS, dtype=np.int32)),
        "edits": pa.array([[]] * number, pa.list_(pa.int32())),
        "method": pa.array(["entropy"] * number),
        "task": pa.array([""] * number),
        "reference": pa.array(["7"] * number),
        "row": pa.array([json.dumps({"question": text}) for text in texts]),
        "fingerprint": pa.array(["synthetic"] * number),
    }
    return pa.RecordBatch.from_arrays([columns[n] for n in SCHEMA.names], schema=SCHEMA)


def make_store(folder: Path, number: int) -> None:
    """A finished collection of so many rows, and verdicts that accept nine of ten of them."""
    draws = np.random.default_rng(0)
    found = {}
    (folder / "c/data").mkdir(parents=True)
    for at, start in enumerate(range(0, number, PER_FILE)):
        data, counts = to_object(rows(min(PER_FILE, number - start), start, draws))
        name = f"data/chunk-{at:05d}.parquet"
        (folder / "c" / name).write_bytes(data)
        found[name] = FileFacts(**facts_of(data)), counts
    mark = Mark(stage="collect", fingerprint="synthetic", settings={})
    complete(folder / "c", mark, found, counts={}, seconds=0.0)
    import pyarrow.parquet as pq

    from tabom.trajectory import verdicts

    said = np.where(np.arange(number) % 10 == 3, "wrong", "accepted")
    names = [f"{i:032x}" for i in range(number)]
    table = pa.table(
        {"id": names, "reason": said, "detail": ["7"] * number, "verifier": ["exact"] * number},
        schema=verdicts._SCHEMA,
    )
    (folder / "v").mkdir()
    pq.write_table(table, folder / "v/verdicts.parquet", compression="zstd")
    mark = Mark(stage="verify", fingerprint="synthetic", settings={})
    write_manifest(folder / "v", mark, counts={"num_verdicts": number}, seconds=0.0)


# ---- what is measured, each in a process of its own ----


def anonymous() -> int:
    """MB of resident memory that no file is behind."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) // 1024


class Peak:
    """The most anonymous memory of the process while it lasts."""

    def __enter__(self) -> "Peak":
        self.megabytes, self._ended = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.megabytes = max(self.megabytes, anonymous())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def open_store(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    store = TrajectoryStore(folder / "c")
    return {"open_seconds": time.perf_counter() - started, "rows": len(store)}


def status(folder: Path) -> dict[str, Any]:
    """`tabom status` of the finished store, as a command; and of an equal one that is in work."""
    from tabom.cli.main import main

    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(["status", str(folder / "c")])
    seconds = time.perf_counter() - started
    assert "complete" in said.getvalue()
    return {"status_seconds": seconds}


def begun(folder: Path) -> dict[str, Any]:
    """`tabom status` of a collection of which half of the chunks are done."""
    from tabom.cli.main import main

    number = len(TrajectoryStore(folder / "c"))
    half = folder / "half"
    chunks = Chunks(half)
    chunks.begin("synthetic", lambda: {"": [(i, i + 256) for i in range(0, number, 256)]})
    (half / "data").mkdir()
    (half / "attempts").mkdir(exist_ok=True)
    (half / ".started.json").write_text('{"stage": "collect", "fingerprint": "f", "settings": {}}')
    for chunk in chunks.plan[::2]:
        (half / f"data/{chunk.name}.parquet").touch()
        (half / f"attempts/{chunk.name}-1").write_text('{"state": "done"}')
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(["status", str(half)])
    seconds = time.perf_counter() - started
    assert f"of {len(chunks.plan):,} chunks done" in said.getvalue(), said.getvalue()
    return {"status_in_work_seconds": seconds}


def train(folder: Path) -> dict[str, Any]:
    """Three steps of the toy base; seconds from the start of the work to the end of the first."""
    import tabom.training.run  # noqa: F401  # imports are no cost of the rows
    from tabom.models.config import ModelConfig
    from tabom.stages.stage import load_output
    from tabom.stages.train import Train
    from tabom.training.config import TrainingConfig

    stage = Train(
        folder=folder / "adapter",
        model=ModelConfig(model_name_or_path="toy-base", device="cpu", allow_long_context=True),
        objective="tabom",
        trajectories=load_output(folder / "c", "collect"),
        verdicts=load_output(folder / "v", "verify"),
        training=TrainingConfig(max_steps=3, warmup_steps=0, save_strategy="no"),
    )
    before, seen = anonymous(), {}

    def progress(label: str, done: int, total: int, note: str) -> None:
        if done and not seen:
            seen["first_step_seconds"] = time.perf_counter() - started
            seen["first_step_cpu_seconds"] = time.process_time() - cpu
        if done == 2:
            seen["anonymous_mb"] = anonymous() - before
        if done == 3 and "--stop" in sys.argv:
            # As a kill would: the converted rows stay for the next process.
            print(json.dumps({**seen, "peak_mb": peak.megabytes - before}), flush=True)
            os._exit(0)

    started, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        stage.run(progress)
    whole = time.perf_counter() - started
    return {**seen, "peak_mb": peak.megabytes - before, "whole_seconds": whole}


def cut(folder: Path) -> dict[str, Any]:
    """Write the index and the plan of so many prompts, as `tabom collect` does."""
    from tabom.collect.config import CollectionConfig
    from tabom.collect.prompts import PromptRows, PromptSource
    from tabom.collect.worker import _plan

    source = PromptSource(path=str(folder / "prompts.parquet"))
    started, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        prompts = PromptRows(source, seed=0)
        opened = time.perf_counter() - started
        chunks = Chunks(folder / "cut")
        chunks.begin("synthetic", lambda: _plan(prompts, chunks, CollectionConfig()))
    return {
        "cut_seconds": time.perf_counter() - started,
        "cut_cpu_seconds": time.process_time() - cpu,
        "of_it_opening": opened,
        "chunks": len(chunks.plan),
        "peak_mb": peak.megabytes,
    }


def make_prompts(folder: Path, number: int) -> None:
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("prompt", pa.string()), ("answer", pa.string())])
    with pq.ParquetWriter(folder / "prompts.parquet", schema) as writer:
        for start in range(0, number, 100_000):
            span = range(start, min(start + 100_000, number))
            texts = [f"Question {i}: {'what ' * (i * 7919 % 40)}?" for i in span]
            columns = [[str(i) for i in span], texts, ["7"] * len(texts)]
            writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema))


PARTS = {part.__name__: part for part in (open_store, status, begun, train, cut)}


def run_part(name: str, folder: Path, *flags: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--part", name, "--folder", str(folder), *flags],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--prompts", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "scale.json")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder)))
        return 0
    record: dict[str, Any] = {"name": "scale", "commit": common.git_commit()}
    for number in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder, started = Path(name), time.perf_counter()
            make_store(folder, number)
            bytes_of = sum(p.stat().st_size for p in (folder / "c/data").iterdir())
            found = {"made_in_seconds": time.perf_counter() - started, "store_bytes": bytes_of}
            for part in ("open_store", "status", "begun"):
                found |= run_part(part, folder)
            found["train"] = run_part("train", folder, "--stop")
            found["train_again"] = run_part("train", folder)
            shutil.rmtree(folder / "adapter")
        record[f"{number} rows"] = found
        print(json.dumps({number: found}), flush=True)
    for number in args.prompts:
        with tempfile.TemporaryDirectory() as name:
            make_prompts(Path(name), number)
            record[f"{number} prompts"] = found = run_part("cut", Path(name))
        print(json.dumps({number: found}), flush=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
