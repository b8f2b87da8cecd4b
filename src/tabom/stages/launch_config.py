"""The settings of launchers: of one stage's chunks, and of a study's stages."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tabom.core.configs import Bound, Count, Settings
from tabom.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(Settings):
    """Where collection, verification and evaluation run; nothing here changes a result."""

    launcher: Literal["local", "ray", "slurm"] = "local"
    """local: processes on this machine. ray: actors of a Ray cluster. slurm: print a job script."""
    chunk_workers: Any = "auto"
    """Processes that take chunks; auto: one for each GPU (or gpus_per_worker of them), one on a
    CPU."""
    chunk_size: Count = 256
    """Prompts (or questions) of a chunk."""
    gpus_per_worker: Annotated[float, Bound(">=", 0)] = 1.0
    """GPUs that a worker has; a part of one on Ray alone."""
    max_retries: Count = 3
    """Workers that may die over a chunk before it is split; a prompt that kills alone is left out,
    named in failed.parquet."""
    ray_address: str = "auto"
    """The Ray cluster: auto (one that runs here, else a new one), or ray://HEAD:10001."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.chunk_workers
        if given != "auto" and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise ConfigError(f"chunk_workers: expected auto or a number from 1, got {given!r}")


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """How the stages of a study are spread over this machine."""

    num_workers: Count = 1
    """Stages that run side by side, each in a process of its own."""
    threads_per_worker: Count | None = None
    """Torch threads of each; null leaves torch's own choice."""
