"""Where a result was made: versions, hardware, commit. Looks, and imports nothing heavy."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
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
        "memory_gib": _memory_gib(),
        "gpus": gpus,
    }


def git_commit() -> str | None:
    """The commit of this source tree, "-dirty" added if it was changed; None if not in git."""
    here = Path(__file__).resolve()

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *args],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside a repository of the user's: that one's commit is not ours.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
