"""Sums and counts on their way to the log, the journal on disk, and the guard against NaN."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tabom.core.errors import TrainingError

log = logging.getLogger(__name__)


class Meter:
    """Adds up (sum, count) pairs, tensors on the device and numbers on the host, until flushed.

    Nothing is read back from the device before `flush`, so that training does not wait for it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, Any] = {}
        self._totals: set[str] = set()
        self._vectors: set[str] = set()
        self._loaded: dict[str, list[list[float]]] = {}  # of a checkpoint, until first added to

    def add(self, name: str, total: Tensor | float, count: Tensor | float | None) -> None:
        """total, count: both numbers or 0-dim tensors, or both vectors (one value per position).

        count None: the name is flushed as a plain sum.
        """
        if count is None:
            self._totals.add(name)
            count = 0.0
        if isinstance(total, Tensor):
            total = total.detach()
            if total.ndim:
                self._vectors.add(name)
        # Sums of a checkpoint wait for the first value, whose device and dtype they take.
        loaded = self._loaded.pop(name, None)
        for i, (store, value) in enumerate(((self._sums, total), (self._counts, count))):
            if loaded is not None:
                store[name] = _like(value, loaded[i])
            store[name] = store[name] + value if name in store else value

    def flush(
        self, *, device: torch.device, reduce: Callable[[Tensor], Tensor]
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Global means (and plain sums) since the last flush, as (scalars, vectors).

        reduce: the sum over ranks of a vector. A mean over nothing is left out.
        """
        scalars: dict[str, float] = {}
        vectors: dict[str, list[float]] = {}
        for name, (sums, counts) in self._reduced(device, reduce).items():
            if name in self._vectors:
                vectors[name] = [
                    s / c if c else math.nan for s, c in zip(sums, counts, strict=True)
                ]
            elif name in self._totals:
                scalars[name] = sums[0]
            elif counts[0]:
                scalars[name] = sums[0] / counts[0]
        self._sums, self._counts = {}, {}
        return scalars, vectors

    def state(
        self, *, device: torch.device, reduce: Callable[[Tensor], Tensor]
    ) -> dict[str, list[list[float]]]:
        """Name -> (sums, counts) over all ranks, for a checkpoint; nothing is flushed."""
        return {name: list(pair) for name, pair in self._reduced(device, reduce).items()}

    def load_state(self, state: Mapping[str, list[list[float]]]) -> None:
        """Go on from a `state`. One rank alone does, for it holds the sums of all."""
        self._loaded = dict(state)

    def _reduced(
        self, device: torch.device, reduce: Callable[[Tensor], Tensor]
    ) -> dict[str, tuple[list[float], list[float]]]:
        # All ranks have to send the same names in the same order.
        names = sorted(self._sums)
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        parts = [
            torch.as_tensor(store[name], dtype=dtype, device=device).reshape(-1)
            for name in names
            for store in (self._sums, self._counts)
        ]
        values = iter(reduce(torch.cat(parts)).tolist() if parts else [])
        taken = [list(islice(values, len(part))) for part in parts]
        return dict(zip(names, zip(taken[::2], taken[1::2], strict=True), strict=True))


def _like(value: Tensor | float, numbers: list[float]) -> Any:
    """The numbers in the form of a value: its dtype decides the rounding of what is added."""
    if isinstance(value, Tensor):
        return value.new_tensor(numbers).reshape(value.shape)
    return numbers[0]


class Journal:
    """`metrics.jsonl`: one JSON object a line with step, epoch, seconds and tokens.

    seconds and tokens go on from the last kept line when a run is resumed at `from_step`; lines
    after that step belong to work that is done again and are removed. `last`: the last kept line.
    """

    def __init__(self, path: Path, *, from_step: int) -> None:
        self.path = path
        lines: list[dict[str, Any] | None] = []
        if from_step > 0 and path.exists():
            # By \n alone: what is damaged may hold any byte.
            texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
            lines = [_logged(text) for text in texts if text]
        if None in lines:  # torn by the crash that the run resumes from, or damaged since
            log.warning("%s: %d damaged lines are left out", path, lines.count(None))
        kept = [line for line in lines if line is not None and line["step"] <= from_step]
        self.last = dict(kept[-1]) if kept else {}
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._seconds = kept[-1]["seconds"] if kept else 0.0
        self.tokens = kept[-1]["tokens"] if kept else 0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self._seconds + time.perf_counter() - self._start

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; a value that is not finite becomes null."""
        stamped = {**line, "seconds": round(self.seconds, 3), "tokens": self.tokens}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: _finite(v) for k, v in stamped.items()}) + "\n")


def _logged(text: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that it did not write so."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    numbers = [line.get(key) for key in ("step", "seconds", "tokens")] if type(line) is dict else []
    return line if numbers and all(type(n) in (int, float) for n in numbers) else None


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.8g}") if math.isfinite(value) else None
    return value


class HostCopy:
    """A small tensor on its way to the host. On a GPU, `wait` waits for no work queued later."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach()
        self._event: Any = None
        if values.device.type == "cuda":
            # Pinned memory lets the copy run beside the kernels that are queued later.
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values.detach(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether it needs no waiting for, since the device is no GPU."""
        return self._event is None

    def wait(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        values: list[float] = self._values.tolist()
        return values


class FiniteGuard:
    """Stops the run at a loss or gradient norm that is not finite, and names the step.

    On the CPU before the optimiser moves a weight. On a GPU one step later, because the numbers
    are read when they have arrived on the host and not waited for; `check` is also called before
    anything is saved, so that no checkpoint holds the damage.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, HostCopy] | None = None

    def watch(self, loss: Tensor, grad_norm: Tensor | float, *, step: int) -> None:
        """step: 1-based number of the optimiser step that these belong to."""
        self.check()
        norm = torch.as_tensor(grad_norm, device=loss.device)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        pair = HostCopy(torch.stack([loss.detach().float(), norm.detach().float()]))
        self._pending = (step, pair)
        if pair.is_here:
            self.check()

    def check(self) -> None:
        """Raises: TrainingError if the last watched step was not finite."""
        if self._pending is None:
            return
        step, pair = self._pending
        self._pending = None
        loss, norm = pair.wait()
        # The norm is the same on all ranks, so that all of them stop; the loss is local.
        if not math.isfinite(norm):
            raise not_finite(step=step, loss=loss, grad_norm=norm)


def not_finite(*, step: int, loss: float, grad_norm: float) -> TrainingError:
    """The error that names the step."""
    return TrainingError(
        f"training stopped at step {step}: loss {loss}, gradient norm {grad_norm}; both must be "
        f"finite. Lower learning_rate, lengthen warmup_steps, check the data that this step saw, "
        f"or train in float32; checkpoints written before this step are intact"
    )
