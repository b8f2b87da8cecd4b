"""A small table of GPUs, and the device at hand. Vendors' figures: peaks that no run reaches."""

import re
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec

from tabom.core import env
from tabom.core.errors import ConfigError
from tabom.models.family import Quantization

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device to plan for.

    memory_gib: GiB that programs see. tflops: 1e12 FLOP/s of dense bfloat16 products with float32
    sums, as the vendor publishes them. bandwidth: of its memory, 1e12 bytes a second; None if
    unknown. is_measured: whether tflops was measured here instead.
    """

    name: str
    memory_gib: float
    tflops: float = 0.0
    bandwidth: float | None = None
    is_gpu: bool = True
    is_measured: bool = False

    @property
    def bytes_per_value(self) -> int:
        """Of the dtype that "auto" picks there."""
        return 2 if self.is_gpu else 4


DEVICES = {
    name: Device(name=name, memory_gib=memory, tflops=tflops, bandwidth=bandwidth)
    for name, memory, tflops, bandwidth in (
        ("B200", 179.0, 2250.0, 8.0),
        ("H200", 140.4, 989.0, 4.8),
        ("H100", 79.6, 989.0, 3.35),
        ("A100-80GB", 79.3, 312.0, 2.04),
        ("A100-40GB", 39.6, 312.0, 1.56),
        ("L40S", 45.0, 362.0, 0.86),
        ("A10", 22.5, 125.0, 0.60),
        ("L4", 22.5, 121.0, 0.30),
        ("RTX 5090", 31.8, 209.0, 1.79),
        ("RTX 4090", 24.0, 165.0, 1.01),
        ("RTX 3090", 24.0, 71.0, 0.94),
    )
}


def find_device(name: str | None) -> Device:
    """A row of the table; case, spaces and a vendor's words do not matter ("NVIDIA h200").

    name: None and "cpu" mean the device at hand.
    Raises: ConfigError naming the rows, if none or several fit.
    """
    if name is None or name.lower() == "cpu":
        return present_device()
    found = _rows(name)
    if len(found) != 1:
        raise ConfigError(
            f"device {name!r} is {'more than one' if found else 'none'} of {', '.join(DEVICES)}; "
            "take one of these names, or cpu"
        )
    return found[0]


def _rows(name: str) -> list[Device]:
    words = set(_words(name))
    return [
        device
        for row, device in DEVICES.items()
        if words >= set(_words(row)) or "".join(_words(row)) == "".join(_words(name))
    ] or [device for row, device in DEVICES.items() if words and words <= set(_words(row))]


def present_device() -> Device:
    """The GPU at hand, or the CPU. A speed that the table lacks is measured in a tenth of a second.

    tflops: of bfloat16 products on a GPU, of float32 ones on a CPU.
    """
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        rows = _rows(properties.name)
        device = Device(name=properties.name, memory_gib=round(properties.total_memory / GIB, 1))
        if len(rows) == 1:
            return replace(device, tflops=rows[0].tflops, bandwidth=rows[0].bandwidth)
        return replace(device, tflops=_matmul_tflops(4096, "cuda"), is_measured=True)
    hardware = env.hardware()
    return Device(
        name=f"CPU ({hardware['cpu']})",
        memory_gib=float(hardware["memory_gib"] or 0.0),
        tflops=_matmul_tflops(768, "cpu"),
        is_gpu=False,
        is_measured=True,
    )


def _matmul_tflops(size: int, place: str) -> float:
    import torch

    dtype = torch.bfloat16 if place == "cuda" else torch.float32
    a = torch.ones(size, size, dtype=dtype, device=place)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # reading a value waits for the device
        best = min(best, time.perf_counter() - start)
    return float(f"{2 * size**3 / best / 1e12:.3g}")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def require_bitsandbytes(kind: Quantization) -> None:
    """Raises `ConfigError` if the package that stores weights in few bits is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quantization {kind} needs bitsandbytes: pip install 'tabom[quantization]'"
        )
