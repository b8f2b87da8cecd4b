"""Workers as actors of a Ray cluster.

Ray starts processes where there is room and tells of their end. It keeps nothing, repeats nothing
and carries no rows: all of that is in the store, as with every other launcher.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabom.core import preempt
from tabom.core.errors import ConfigError, TabomError
from tabom.stages.launch_config import LaunchConfig
from tabom.stages.stage import Counts, Stage

log = logging.getLogger(__name__)
# Of this process, what a worker on another node needs as well.
_PREFIXES = ("HF_", "FSSPEC_", "AWS_", "TABOM_", "TRANSFORMERS_", "PYTHONPATH", "OMP_", "MKL_")


def connect(launch: LaunchConfig) -> Any:
    """The package ray, connected to the cluster that the settings name.

    `auto` is the cluster that RAY_ADDRESS names or that runs on this machine, else a new one.
    Raises: ConfigError if ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--launcher ray needs Ray: pip install 'tabom[ray]'") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    env = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    known = {"logging_level": "warning", "log_to_driver": True, "runtime_env": {"env_vars": env}}
    try:
        try:
            ray.init(address=launch.ray_address, **known)
        except ConnectionError:
            if launch.ray_address != "auto":
                raise
            ray.init(include_dashboard=False, **known)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--ray_address {launch.ray_address}: {error}") from error
    return ray


def gpus_of(ray: Any, launch: LaunchConfig) -> float:
    """The GPUs of a worker: none where the cluster has none, which is told."""
    if launch.gpus_per_worker and not ray.cluster_resources().get("GPU"):
        log.warning("the Ray cluster has no GPU: workers run on CPUs (--gpus_per_worker 0)")
        return 0.0
    return launch.gpus_per_worker


class Actor:
    """What runs in a worker process of Ray."""

    def __init__(self, folder: str) -> None:
        """folder: of the driver, in which names of files and modules are meant."""
        if Path(folder).is_dir():
            os.chdir(folder)

    def work(self, stage: Stage, overwrite: bool = False) -> Counts:
        """Run the stage."""
        return stage.run(overwrite=overwrite)

    def stop(self) -> None:
        """Ask the work to end with its batch; comes on another thread."""
        preempt.ask_all()


class RayPool:
    """Workers of a stage on a cluster; see `stages.launch.Pool`."""

    def __init__(self, stage: Any, launch: LaunchConfig, num_workers: int) -> None:
        """stage: a `Chunked` one. num_workers: 0 for as many as the cluster has room for."""
        self._ray = ray = connect(launch)
        gpus = gpus_of(ray, launch)
        if not num_workers:
            have = ray.cluster_resources()
            num_workers = int(have.get("GPU", 0) / gpus if gpus else have.get("CPU", 1)) or 1
        # Two threads: one works, one is told to stop. Deaths are counted in the store alone.
        self._kind = ray.remote(
            num_gpus=gpus, num_cpus=1, max_restarts=0, max_task_retries=0, max_concurrency=2
        )(Actor)
        folder = stage.folder.absolute()
        self.stage = replace(stage, folder=folder, world_size=max(num_workers, 2), is_led=True)
        self.workers: dict[int, tuple[Any, Any]] = {}
        self._num_workers = num_workers
        for _ in range(num_workers):
            self.start()

    def start(self) -> None:
        """See `Pool`."""
        rank = next(i for i in range(self._num_workers) if i not in self.workers)
        actor = self._kind.remote(os.getcwd())
        self.workers[rank] = actor, actor.work.remote(replace(self.stage, rank=rank))

    def ended(self, *, timeout: float) -> Iterator[str]:
        """See `Pool`."""
        futures = {future: rank for rank, (_, future) in self.workers.items()}
        ready, _ = self._ray.wait(list(futures), num_returns=1, timeout=timeout)
        for future in ready:
            actor, _ = self.workers.pop(futures[future])
            yield _outcome(self._ray, future)
            self._ray.kill(actor)

    def terminate(self) -> None:
        """See `Pool`."""
        for actor, _ in self.workers.values():
            actor.stop.remote()

    def close(self) -> None:
        """See `Pool`."""
        self.terminate()
        self._ray.wait([f for _, f in self.workers.values()] or [self._ray.put(0)], timeout=600)
        for actor, _ in self.workers.values():
            self._ray.kill(actor)


def result_of(ray: Any, future: Any) -> Counts:
    """What a worker counted. Raises: the TabomError or SystemExit that it raised; RayError."""
    try:
        return dict(ray.get(future))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TabomError | SystemExit):
            raise error.cause from error
        raise


def _outcome(ray: Any, future: Any) -> str:
    """How a worker ended. Raises: the TabomError that it raised."""
    try:
        result_of(ray, future)
    except SystemExit:
        return ""
    except ray.exceptions.RayError as error:
        return how_of(error)
    return ""


def how_of(error: Any) -> str:
    """How a worker ended, for people."""
    return str(getattr(error, "cause", None) or type(error).__name__)
