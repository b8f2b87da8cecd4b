"""Where a result was made: versions and hardware. Looks, and imports nothing heavy."""

import contextlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from tabom._version import __version__

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "math-verify")


def versions() -> dict[str, str | None]:
    """Versions of Python, tabom and the packages results depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "tabom": __version__}
    for name in _PACKAGES:
        found[name] = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """The machine: platform, cpu, num_cores (logical), memory_gib, gpus (names).

    gpus is filled only if torch is imported already: asking must not cost seconds.
    """
    gpus: list[str] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus,
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
