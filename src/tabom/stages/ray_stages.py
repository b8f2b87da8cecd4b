"""The stages of a study on a Ray cluster, along its graph."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from tabom.core.errors import StageError
from tabom.stages.launch import Chunked
from tabom.stages.launch_config import LaunchConfig
from tabom.stages.process import GRACE_S
from tabom.stages.ray_pool import Actor, connect, gpus_of, how_of, result_of
from tabom.stages.stage import Counts, Stage


class RayStages:
    """Stages of a study on a cluster, each in an actor of its own; see `stages.pool.Runner`.

    A stage that is cut into chunks runs on one worker, or with chunk_workers N on so many more, of
    which its own then only takes care. One whose worker died is begun again, as with `RayPool`.
    """

    def __init__(self, launch: LaunchConfig, *, most: int, overwrite: bool) -> None:
        self._ray = connect(launch)
        self._launch, self.most, self._overwrite = launch, most, overwrite
        self._threads = ThreadPoolExecutor(most)
        self._actors: dict[str, Any] = {}
        self._running: list[Future[Counts]] = []
        self._is_stopped = False

    def submit(self, stage: Stage) -> "Future[Counts]":
        """See `Runner`."""
        self._running.append(found := self._threads.submit(self._run, stage))
        return found

    def _run(self, stage: Stage) -> Counts:
        options: dict[str, Any] = {"num_gpus": gpus_of(self._ray, self._launch), "num_cpus": 1}
        stage = replace(stage, folder=stage.folder.absolute())
        if isinstance(stage, Chunked):
            if stage.launch.chunk_workers == "auto":
                alone = replace(stage.launch, launcher="local", chunk_workers=1)
                stage = replace(stage, launch=alone)
            else:
                options = {"num_gpus": 0, "num_cpus": 0}
        kind = self._ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2, **options)
        strikes, seen = 0, None
        while True:
            actor = self._actors[stage.label] = kind(Actor).remote(os.getcwd())
            try:
                return result_of(self._ray, actor.work.remote(stage, self._overwrite))
            except self._ray.exceptions.RayError as error:
                now = stage.chunks().num_traces() if isinstance(stage, Chunked) else 0
                strikes, seen = (strikes + 1 if now == seen else 1), now
                if strikes >= self._launch.max_retries or self._is_stopped:
                    raise StageError(f"its worker died ({how_of(error)})") from error
            finally:
                self._ray.kill(actor)

    def result(self, future: "Future[Counts]") -> Counts:
        """See `Runner`."""
        return future.result()

    def events(self) -> Iterator[tuple[str, int, int, str]]:
        """None: how far chunks are, `tabom status` tells."""
        return iter(())

    def stop(self, *, patient: bool) -> None:
        """See `Runner`."""
        self._is_stopped = True
        for actor in self._actors.values():
            actor.stop.remote()
        if not patient and wait(self._running, GRACE_S).not_done:
            for actor in self._actors.values():
                self._ray.kill(actor)

    def close(self) -> None:
        """See `Runner`."""
        self._threads.shutdown(wait=True, cancel_futures=True)
